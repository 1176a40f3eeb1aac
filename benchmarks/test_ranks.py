"""Cost of one rank by the number of ranks: of planning and shuffles at a fixed number of rows per rank, and of windows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.race import OURS, Spread, time_calls
from benchmarks.report import Goal, Report
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


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_window_of_ranks(benchmark: BenchmarkFixture, report: Report, num_ranks: int) -> None:
    """Time the sums of a window over the processes of a group, and a sum of as many numbers by torch alone."""
    program = Path(__file__).parent / "window_of_ranks.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_ranks}",
        str(program),
    ]
    result = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, check=True, text=True), rounds=1)
    times = json.loads(result.stdout)
    of_group = [more - less for more, less in zip(times["with a group"], times["without"], strict=True)]
    case = f"CPU time of a window over {num_ranks} processes, K = 10"
    report.add(case, OURS, Spread.of(of_group), "us", Goal(at_most=200))
    report.add(case, "all_reduce of torch", Spread.of(times["all_reduce of torch"]), "us")
