"""How long does a training loop wait for its data, and what share of a step is the forming of Learn2Mix batches?

Learn2Mix as this loader does it includes the recording of losses and an update every 10 steps; the authors' way is the forming of
batches alone, of equal proportions. The step is LeNet on Fashion-MNIST, and a small network that tells the colour of a wine from 11
columns of floats; where L2M_DATA names no folder that has them, on made-up rows of the same shape. The model is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional

from benchmarks.peers.data_loader import data_loader
from benchmarks.peers.learn2mix_reference import learn2mix_reference
from benchmarks.race import OURS, Spread
from benchmarks.report import Report
from benchmarks.workloads import REAL_DATA, SEED, Fields
from l2m_experiments.datasets import fashion_mnist, wine
from l2m_experiments.rows import standardised
from l2m_fast import Learn2Mix, Loader

_BATCH = 64
_STEPS = 120  # of a turn
_CLASSES = 10  # of images
_COLOURS = 2  # of wines


@dataclass
class Loop:
    """A way to get batches, and what it cost in each round.

    Attributes:
        batches: An epoch of `(x, y)`.
        record: What is done with the losses of each sample; part of what the way costs.
        waits: Seconds a step that were not spent in the model, a round.
        steps: Seconds a step, a round.
    """

    batches: Iterable[Sequence[torch.Tensor]]
    record: Callable[[torch.Tensor], object] | None = None
    waits: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def turn(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Trains for some steps, of as many epochs as they take."""
        batches = chain.from_iterable(repeat(self.batches))
        next(batches)  # workers start, threads get ahead
        waited = 0.0
        start = before = time.perf_counter()
        for _ in range(_STEPS):
            x, y = next(batches)
            waited += time.perf_counter() - before
            losses = functional.cross_entropy(model(x.float()), y, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            before = time.perf_counter()
            if self.record is not None:
                self.record(losses)
        self.waits.append((waited + time.perf_counter() - before) / _STEPS)
        self.steps.append((time.perf_counter() - start) / _STEPS)


def images() -> tuple[str, Fields]:
    """Reads or makes images with 10 classes; the name says which."""
    if REAL_DATA:
        x, classes = map(torch.tensor, fashion_mnist().train)
        return "Fashion-MNIST", Fields(x, classes)
    x = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    return "made-up bytes", Fields(x, torch.arange(len(x)) % _CLASSES)


def table() -> tuple[str, Fields]:
    """Reads or makes rows of 11 floats with 2 classes, the colours of wine; the name says which."""
    if REAL_DATA:
        return "wine", Fields(standardised(wine().columns, wine().columns), torch.from_numpy(wine().classes))
    x = torch.randn(6_497, 11, generator=torch.Generator().manual_seed(SEED))
    return "made-up floats", Fields(x, torch.arange(len(x)) % _COLOURS)


def lenet() -> nn.Module:
    """Makes LeNet-5 with ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, _CLASSES),
    )  # fmt: skip


def mlp() -> nn.Module:
    """Makes a network of two small hidden layers."""
    return nn.Sequential(nn.Linear(11, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, _COLOURS))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("name", "data", "model"), [("LeNet", images, lenet), ("MLP", table, mlp)])
def test_waiting(
    benchmark: BenchmarkFixture,
    report: Report,
    rounds: int,
    name: str,
    data: Callable[[], tuple[str, Fields]],
    model: Callable[[], nn.Module],
) -> None:
    """Trains with each way in turns, and tells the time in which the model waits: next(), and the recording of losses."""
    source, fields = data()
    torch.manual_seed(SEED)
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    make = partial(Loader, (fields.x, fields.y), batch_size=_BATCH, seed=SEED)
    with make() as plain, make(classes=fields.y, mixing=Learn2Mix(), update_every=10) as mixed:
        loops = {
            OURS: Loop(plain),
            f"{OURS}, Learn2Mix": Loop(mixed, mixed.record),
            "Learn2Mix reference": Loop(learn2mix_reference(fields, _BATCH).batches),
            "DataLoader, 0 workers": Loop(data_loader(fields, _BATCH, 0).batches),
            "DataLoader, 2 workers": Loop(data_loader(fields, _BATCH, 2).batches),
        }

        def round_of_all() -> None:
            for loop in loops.values():
                loop.turn(network, optimizer)

        benchmark.pedantic(round_of_all, rounds=rounds, warmup_rounds=1)
    case = f"training, {name} on {source}, batch {_BATCH}"
    for way, loop in loops.items():
        waits, steps = loop.waits[1:], loop.steps[1:]
        report.add(case, f"{way}: waits", Spread.of([1e6 * seconds for seconds in waits]), "us a step")
        share = [100 * wait / step for wait, step in zip(waits, steps, strict=True)]
        report.add(case, f"{way}: share of the step", Spread.of(share), "%")
