"""Time of per-class sums of ten million losses, against torch.bincount, of a small cross entropy, and of record()."""

from __future__ import annotations

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from benchmarks.race import OURS, Spread, race
from benchmarks.report import Goal, Report
from benchmarks.workloads import SEED
from l2m_fast import Learn2Mix, Loader, class_loss, cross_entropy

NUM_LOSSES = 10_000_000
NUM_CLASSES = 1000


def test_class_loss(benchmark: BenchmarkFixture, report: Report, rounds: int) -> None:
    """Race sums and counts against torch.bincount(weights=), which computes only the sums."""
    generator = torch.Generator().manual_seed(SEED)
    losses = torch.rand(NUM_LOSSES, generator=generator)
    classes = torch.randint(NUM_CLASSES, (NUM_LOSSES,), generator=generator)
    result = class_loss(losses, classes, NUM_CLASSES)
    assert np.array_equal(result.count, torch.bincount(classes, minlength=NUM_CLASSES))
    np.testing.assert_allclose(result.sum, torch.bincount(classes, losses.double(), NUM_CLASSES), rtol=1e-9)

    def ours(repeats: int) -> None:
        for _ in range(repeats):
            class_loss(losses, classes, NUM_CLASSES)

    def bincount(repeats: int) -> None:
        for _ in range(repeats):
            torch.bincount(classes, weights=losses, minlength=NUM_CLASSES)

    times = race(benchmark, {"torch.bincount": bincount, OURS: ours}, rounds)
    case = f"class loss of {NUM_LOSSES:,} float32, K = {NUM_CLASSES:,}"
    for name in (OURS, "torch.bincount"):
        report.add(case, name, times.rate(name, NUM_LOSSES), "losses/s")
    report.add(case, f"{OURS} vs torch.bincount", times.ratio("torch.bincount", OURS), "x", Goal(at_least=1))


def test_small_cross_entropy(benchmark: BenchmarkFixture, report: Report, rounds: int) -> None:
    """Race a step of cross entropy with class sums against one without, where the overhead of a call counts."""
    logits = torch.randn(512, 10, generator=torch.Generator().manual_seed(SEED), requires_grad=True)
    targets = torch.arange(512) % 10

    def ours(repeats: int) -> None:
        for _ in range(1000 * repeats):
            cross_entropy(logits, targets, 10)[0].backward()

    def in_torch(repeats: int) -> None:
        for _ in range(1000 * repeats):
            functional.cross_entropy(logits, targets).backward()

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few microseconds of work; on a busy machine, more threads make torch much slower
    try:
        times = race(benchmark, {"torch": in_torch, OURS: ours}, rounds)
    finally:
        torch.set_num_threads(num_threads)
    case = "cross entropy of 512 x 10 logits, forward and backward"
    for name in (OURS, "torch"):
        report.add(case, name, times.rate(name, 1000), "steps/s")
    report.add(case, f"{OURS} vs torch", times.ratio("torch", OURS), "x", Goal(at_least=1 / 1.3))


def test_record(benchmark: BenchmarkFixture, report: Report, rounds: int) -> None:
    """Race record() of a batch with and without its step."""
    losses = torch.rand(512, generator=torch.Generator().manual_seed(SEED))
    classes = torch.arange(5120) % 10
    loader = Loader(classes, batch_size=512, classes=classes, mixing=Learn2Mix(), seed=SEED)
    next(iter(loader))

    def with_step(repeats: int) -> None:
        for _ in range(10_000 * repeats):
            loader.record(losses, step=0)

    def without(repeats: int) -> None:
        for _ in range(10_000 * repeats):
            loader.record(losses)

    times = race(benchmark, {"with step=": with_step, OURS: without}, rounds)
    more = [a - b for a, b in zip(times.seconds["with step="], times.seconds[OURS], strict=True)]
    case = "record() of 512 losses, K = 10"
    report.add(case, OURS, Spread.of(times.seconds[OURS]).scaled(100), "us")
    report.add(case, "more with step=", Spread.of(more).scaled(100), "us", Goal(at_most=2))
