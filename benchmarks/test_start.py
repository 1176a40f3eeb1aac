"""Time to the first batch and to resume a state, and the speed with each number of threads."""

from __future__ import annotations

import json
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.limit import limit
from benchmarks.peers import Peer
from benchmarks.peers.data_loader import data_loader
from benchmarks.race import OURS, Spread, race
from benchmarks.report import Report
from benchmarks.workloads import IMAGES_3072, SEED, TABLE_64, TABLE_64_LARGE, Workload
from l2m_fast import Balanced, Loader


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("workload", [IMAGES_3072, TABLE_64], ids=str)
def test_first_batch(benchmark: BenchmarkFixture, report: Report, workload: Workload) -> None:
    """Time the construction of a loader with its first batch, and the first batch of a later epoch."""
    fields = workload.fields()
    seconds: dict[str, list[float]] = {}

    def timed(name: str, start: float) -> None:
        seconds.setdefault(name, []).append(1e3 * (time.perf_counter() - start))

    def start_all() -> None:
        start = time.perf_counter()
        with Loader((fields.x, fields.y), batch_size=workload.batch_size, seed=SEED) as loader:
            next(iter(loader))
            timed(f"{OURS}: construction and first batch", start)
            time.sleep(0.05)
            start = time.perf_counter()
            next(iter(loader))
            timed(f"{OURS}: first batch of an epoch", start)
        for workers in (0, 2):
            start = time.perf_counter()
            batches = iter(data_loader(fields, workload.batch_size, workers).batches)
            next(batches)
            timed(f"DataLoader, {workers} workers: construction and first batch", start)
            del batches

    benchmark.pedantic(start_all, rounds=10, warmup_rounds=1)
    for name, values in seconds.items():
        report.add(f"start, {workload}", name, Spread.of(values[1:]), "ms")


@pytest.mark.parametrize("num_classes", [1, 1000, 100_000])
def test_resume(benchmark: BenchmarkFixture, report: Report, num_classes: int) -> None:
    """Time state_dict(), and load_state_dict() up to the next batch, in the middle of an epoch; measure the JSON."""
    num_rows = 1_000_000
    x, classes = torch.arange(num_rows), torch.arange(num_rows) % num_classes
    parts: dict[str, list[float]] = {"state_dict()": [], "load_state_dict() and next batch": []}
    state_bytes = 0

    def resume() -> None:
        nonlocal state_bytes
        with (
            Loader(x, batch_size=512, classes=classes, mixing=Balanced(), seed=SEED) as loader,
            Loader(x, batch_size=512, classes=classes, mixing=Balanced(), seed=0) as other,
        ):
            batches = iter(loader)
            for _ in range(100):
                next(batches)
            start = time.perf_counter()
            state = loader.state_dict()
            parts["state_dict()"].append(1e3 * (time.perf_counter() - start))
            state_bytes = len(json.dumps(state))
            start = time.perf_counter()
            other.load_state_dict(state)
            batch = next(iter(other))
            parts["load_state_dict() and next batch"].append(1e3 * (time.perf_counter() - start))
            assert torch.equal(batch, next(batches))

    benchmark.pedantic(resume, rounds=5)
    case = f"resume, {num_rows:,} rows, K = {num_classes:,}"
    for name, values in parts.items():
        report.add(case, name, Spread.of(values), "ms")
    report.add(case, "state as JSON", float(state_bytes), "B")


@pytest.mark.parametrize("workload", [IMAGES_3072, TABLE_64_LARGE], ids=str)
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload, threads: int) -> None:
    """Race an epoch with one and two threads against the limit with as many, and with no threads against the limit with one."""
    fields = workload.fields()
    copying = limit(fields, workload.batch_size, max(threads, 1))
    with Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=threads, seed=SEED) as loader:
        ours = Peer.iterated(OURS, loader)
        times = race(benchmark, {copying.name: copying.run, OURS: ours.run}, rounds)
    case = f"{workload}, num_threads={threads}"
    report.add(case, OURS, times.rate(OURS, workload.num_rows), "rows/s")
    report.add(case, f"{OURS} vs {copying.name}", times.ratio(copying.name, OURS), "x")
