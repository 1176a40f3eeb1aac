"""Time of a training epoch on the CPU, whose model computes on the same cores as the loader.

The loader has its default `num_threads` and `prefetch`, which is 0 for large batches; one with `prefetch=4` takes part as well. Their epochs
include the shuffle and end at the last full batch, as those of its rivals: `x[perm[i : i + batch_size]]`, and `torch.index_select(out=)` into one
buffer per field, both with a new `torch.randperm` per epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional

from benchmarks.race import OURS, race
from benchmarks.report import Goal, Report
from benchmarks.test_training import lenet
from benchmarks.workloads import SEED
from l2m_fast import Loader

Batches = Iterator[Sequence[torch.Tensor]]
_CLASSES = 10


@dataclass(frozen=True)
class Task:
    """Model and rows.

    Attributes:
        rows: Function that returns some random rows.
        num_rows: Number of rows of an epoch.
        model: Function that returns the model; None: the step only reads its batch, once.
    """

    rows: Callable[[int], torch.Tensor]
    num_rows: int
    model: Callable[[], nn.Module] | None


class Float(nn.Module):
    """Conversion to floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convert."""
        return x.float()


def _floats(columns: int, num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, columns)


def _bytes(num_rows: int) -> torch.Tensor:
    return torch.randint(256, (num_rows, 1, 28, 28), dtype=torch.uint8)


def _tokens(num_rows: int) -> torch.Tensor:
    return torch.randint(10_000, (num_rows, 32))


TASKS = {
    "LeNet, bytes": Task(_bytes, 60_000, lambda: nn.Sequential(Float(), lenet())),
    "MLP, 16 floats": Task(
        partial(_floats, 16),
        500_000,
        lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, _CLASSES)),
    ),
    "logistic regression, 16 floats": Task(partial(_floats, 16), 500_000, lambda: nn.Linear(16, _CLASSES)),
    "logistic regression, 784 floats": Task(partial(_floats, 784), 60_000, lambda: nn.Linear(784, _CLASSES)),
    "embedding bag, 32 tokens": Task(
        _tokens, 200_000, lambda: nn.Sequential(nn.EmbeddingBag(10_000, 32), nn.Linear(32, _CLASSES))
    ),
    "sum of 784 floats": Task(partial(_floats, 784), 60_000, None),
    "sum of 784 bytes": Task(_bytes, 60_000, None),
}


def _indexed(x: torch.Tensor, y: torch.Tensor, batch_size: int) -> Batches:
    while True:
        for rows in torch.randperm(len(x)).split(batch_size):
            if len(rows) == batch_size:
                yield x[rows], y[rows]


def _selected(x: torch.Tensor, y: torch.Tensor, batch_size: int) -> Batches:
    outs = x.new_empty(batch_size, *x.shape[1:]), y.new_empty(batch_size)
    while True:
        for rows in torch.randperm(len(x)).split(batch_size):
            if len(rows) == batch_size:
                torch.index_select(x, 0, rows, out=outs[0])
                torch.index_select(y, 0, rows, out=outs[1])
                yield outs


def _train(batches: Batches, model: nn.Module | None, steps: int) -> None:
    parameters = [] if model is None else list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-4) if parameters else None
    for _ in range(steps):
        x, y = next(batches)
        if model is None or optimizer is None:
            x.sum()
            continue
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("batch_size", [32, 256, 2048])
@pytest.mark.parametrize("name", TASKS)
def test_epoch(benchmark: BenchmarkFixture, report: Report, rounds: int, name: str, batch_size: int) -> None:
    """Train the same model with each source of batches in turns."""
    task = TASKS[name]
    torch.manual_seed(SEED)
    x, y = task.rows(task.num_rows), torch.randint(_CLASSES, (task.num_rows,))
    model = None if task.model is None else task.model()
    make = partial(Loader, (x, y), batch_size=batch_size, drop_last=True, seed=SEED)
    with make() as loader, make(prefetch=4) as ahead:
        sources: dict[str, Batches] = {
            "x[perm]": _indexed(x, y, batch_size),
            "index_select(out=)": _selected(x, y, batch_size),
            "prefetch=4": iter(ahead.forever()),
            OURS: iter(loader.forever()),
        }
        steps = _steps(partial(_train, sources["index_select(out=)"], model))
        runs = {name: partial(_repeat, source, model, steps) for name, source in sources.items()}
        times = race(benchmark, runs, rounds)
    case = f"epoch of {name}, batch {batch_size}"
    report.add(case, OURS, times.rate(OURS, 1).scaled(steps), "steps/s")
    for rival in ("x[perm]", "index_select(out=)"):
        report.add(case, f"{OURS} vs {rival}", times.ratio(rival, OURS), "x", Goal(at_least=1.0))
    report.add(case, f"{OURS} vs prefetch=4", times.ratio("prefetch=4", OURS), "x")


def _repeat(batches: Batches, model: nn.Module | None, steps: int, repeats: int) -> None:
    _train(batches, model, steps * repeats)


def _steps(train: Callable[[int], None]) -> int:
    """Return the number of steps that take about 20 ms."""
    train(10)
    start = time.perf_counter()
    train(10)
    return max(1, round(10 * 0.02 / (time.perf_counter() - start)))
