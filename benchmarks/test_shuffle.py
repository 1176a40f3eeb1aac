"""Time of a whole permutation of one class and of a thousand, against torch.randperm."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

import _testing
from benchmarks.race import OURS, race
from benchmarks.report import Goal, Report
from benchmarks.workloads import NUM_THREADS, SEED

NUM_ROWS = 50_000_000


@pytest.mark.parametrize("num_classes", [1, 1000])
def test_shuffle(benchmark: BenchmarkFixture, report: Report, rounds: int, num_classes: int) -> None:
    """Race one pass over all classes against one torch.randperm of the same number of rows, each into reused memory."""
    classes = np.random.default_rng(SEED).integers(0, num_classes, NUM_ROWS, dtype=np.int16)
    shuffled = _testing.Pass(None if num_classes == 1 else classes, num_classes, NUM_ROWS)
    shuffled.shuffle(SEED, 0, NUM_THREADS)
    _check_shuffled(np.asarray(cast("Any", shuffled)), classes)
    permutation = torch.randperm(NUM_ROWS)

    def ours(repeats: int) -> None:
        for number in range(repeats):
            shuffled.shuffle(SEED, number, NUM_THREADS)

    def randperm(repeats: int) -> None:
        for _ in range(repeats):
            torch.randperm(NUM_ROWS, out=permutation)

    times = race(benchmark, {"torch.randperm": randperm, OURS: ours}, rounds)
    case = f"shuffle of {NUM_ROWS:,} rows, K = {num_classes:,}"
    for name in (OURS, "torch.randperm"):
        report.add(case, name, times.rate(name, NUM_ROWS), "rows/s")
    report.add(case, f"{OURS} vs torch.randperm", times.ratio("torch.randperm", OURS), "x", Goal(at_least=8))


def _check_shuffled(rows: NDArray[np.uint32], classes: NDArray[np.int16]) -> None:
    """Assert that every row comes once, class after class, and that rows are shuffled within the classes."""
    assert np.array_equal(np.sort(rows), np.arange(NUM_ROWS))
    assert np.array_equal(classes[rows], np.sort(classes))
    num_ascents = np.count_nonzero(rows[1:] > rows[:-1])
    assert abs(num_ascents / NUM_ROWS - 0.5) < 0.001
