"""Time that a training loop waits for its data, and the share of a step that forming Learn2Mix batches takes.

Learn2Mix with this loader includes recording losses and an update every 10 steps; the reference implementation only forms batches, with
equal proportions. The models are LeNet on Fashion-MNIST and a small network that classifies wines as red or white from 11 columns
of floats; without L2M_DATA, on synthetic rows of the same shape. All contestants train the same model.
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
from l2m_experiments.rows import standardize
from l2m_fast import Learn2Mix, Loader

_BATCH = 64
_STEPS = 120  # per turn
_CLASSES = 10  # of images
_COLORS = 2  # of wines


@dataclass
class Loop:
    """A training loop with one source of batches, and its times in each round.

    Attributes:
        batches: Iterable of the `(x, y)` batches of an epoch.
        record: Function that takes the per-sample losses; its time counts as waiting.
        waits: Seconds per step outside the model, by round.
        steps: Seconds per step, by round.
    """

    batches: Iterable[Sequence[torch.Tensor]]
    record: Callable[[torch.Tensor], object] | None = None
    waits: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def turn(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Train for some steps, over as many epochs as needed."""
        batches = chain.from_iterable(repeat(self.batches))
        next(batches)  # start workers, let threads prefetch
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
    """Return real or synthetic images of 10 classes, and their name."""
    if REAL_DATA:
        x, classes = map(torch.tensor, fashion_mnist().train)
        return "Fashion-MNIST", Fields(x, classes)
    x = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    return "synthetic bytes", Fields(x, torch.arange(len(x)) % _CLASSES)


def table() -> tuple[str, Fields]:
    """Return rows of 11 floats with 2 classes, the colors of wine, or synthetic ones, and their name."""
    if REAL_DATA:
        return "wine", Fields(standardize(wine().columns, wine().columns), torch.from_numpy(wine().classes))
    x = torch.randn(6_497, 11, generator=torch.Generator().manual_seed(SEED))
    return "synthetic floats", Fields(x, torch.arange(len(x)) % _COLORS)


def lenet() -> nn.Module:
    """Return LeNet-5 with ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, _CLASSES),
    )  # fmt: skip


def mlp() -> nn.Module:
    """Return a network with two small hidden layers."""
    return nn.Sequential(nn.Linear(11, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, _COLORS))


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
    """Train with each source in turns, and report the time that the model waits: for next(), and to record losses."""
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
    for contestant, loop in loops.items():
        waits, steps = loop.waits[1:], loop.steps[1:]
        report.add(case, f"{contestant}: waits", Spread.of([1e6 * seconds for seconds in waits]), "us per step")
        share = [100 * wait / step for wait, step in zip(waits, steps, strict=True)]
        report.add(case, f"{contestant}: share of the step", Spread.of(share), "%")
