"""Time of per-class sums and counts of ten million losses, against torch.bincount."""

from __future__ import annotations

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.race import OURS, race
from benchmarks.report import Goal, Report
from benchmarks.workloads import SEED
from l2m_fast import class_loss

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
    report.add(case, f"{OURS} vs torch.bincount", times.ratio("torch.bincount", OURS), "x", Goal(at_least=3))
