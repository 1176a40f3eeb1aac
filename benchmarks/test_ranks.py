"""Cost of one rank by the number of ranks, at a fixed number of rows per rank: of planning, and with the shuffles."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.race import Spread, time_calls
from benchmarks.report import Report
from benchmarks.workloads import SEED
from l2m_fast import Balanced, Loader

NUM_ROWS = 8_000_000
BATCH_SIZE = 64
ROW_IDS = np.broadcast_to(np.zeros(1, np.uint8), NUM_ROWS)  # takes no memory


@pytest.mark.parametrize("num_classes", [10, 1000])
@pytest.mark.parametrize("world_size", [1, 16, 256, 1024])
def test_batch_of_a_rank(benchmark: BenchmarkFixture, report: Report, world_size: int, num_classes: int) -> None:
    """Time next() of one rank without threads. Every rank shuffles all rows: that part grows with the global batch."""
    classes = np.arange(NUM_ROWS) % num_classes
    loader = Loader(
        ROW_IDS,
        batch_size=BATCH_SIZE,
        classes=classes,
        mixing=Balanced(),
        include=("rows",),
        seed=SEED,
        rank=world_size // 2,
        world_size=world_size,
        num_threads=0,
        format="numpy",
    )
    batches = loader.forever()
    next(batches)
    steps = min(len(loader) - 1, 2000)
    within_a_pass = time_calls(benchmark, lambda: next(batches), steps)
    start = time.perf_counter()
    for _ in range(len(loader)):
        next(batches)
    with_shuffles = 1e6 * (time.perf_counter() - start) / len(loader)
    case = f"a rank of {world_size:,}, batch {BATCH_SIZE} per rank, K = {num_classes:,}"
    report.add(case, "next() within a pass", Spread.of([1e6 * seconds for seconds in within_a_pass]), "us")
    report.add(case, "mean of next() over an epoch, with shuffles", with_shuffles, "us")
