"""Number of threads that a loader can use, computed from times of one thread, so that a machine with few cores can tell.

Threads share the copying and the shuffling, but one of them plans, and the consumer takes one batch after the other. With enough
threads, one of these two is the limit. That memory bandwidth may end before is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import _testing
from benchmarks.lock_times import LockTimes, lock_times
from benchmarks.race import OURS, Spread, race, time_calls
from benchmarks.report import Goal, Report
from benchmarks.workloads import IMAGES_784, IMAGES_3072, SEED, TABLE_64, Workload
from l2m_fast import Balanced, Loader


@pytest.mark.parametrize("workload", [IMAGES_3072, IMAGES_784, TABLE_64], ids=str)
@pytest.mark.parametrize("batch_size", [64, 512, 4096])
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_threads(
    benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload, batch_size: int, num_classes: int
) -> None:
    """Measure a batch in one thread, its plan, and next()."""
    workload = replace(workload, batch_size=batch_size)
    fields = workload.fields()
    classes = np.random.default_rng(SEED).integers(0, num_classes, workload.num_rows, dtype=np.int16)
    loader = Loader(
        (fields.x, fields.y), batch_size=batch_size, classes=classes, mixing=Balanced(), seed=SEED, num_threads=0
    )
    in_one_thread, planning, taking = [], [], []

    def measure() -> None:
        in_one_thread.append(_seconds(lambda: [None for _ in loader]) / len(loader))
        planner = _testing.Planner(classes, num_classes, batch_size)
        planner.plan(max(1, len(loader) // 4))  # computes the passes
        steps = max(1, len(loader) // 2)  # in which no pass ends
        planning.append(_seconds(lambda: planner.plan(steps)) / steps)
        taking.append(_seconds_of_next())

    time_calls(benchmark, measure, rounds)
    serial = [max(one, other) for one, other in zip(planning, taking, strict=True)]
    threads = [max(1.0, all_ / one) for all_, one in zip(in_one_thread, serial, strict=True)]
    case = f"threads, {workload}, K = {num_classes:,}"
    for name, seconds in {"a batch in one thread": in_one_thread, "its plan": planning, "next()": taking}.items():
        report.add(case, name, Spread.of([1e6 * value for value in seconds]), "us")
    report.add(case, "threads that can be used", Spread.of(threads), "")
    report.add(case, "with that many", Spread.of([batch_size / value for value in serial]), "rows/s")


@pytest.mark.parametrize("workload", [IMAGES_3072, IMAGES_784, TABLE_64, replace(TABLE_64, batch_size=64)], ids=str)
def test_one_thread(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload) -> None:
    """Race an epoch with one thread against one without threads, for a consumer that only takes batches."""
    fields = workload.fields()
    loaders = {
        name: Loader(
            (fields.x, fields.y), batch_size=workload.batch_size, seed=SEED, num_threads=num_threads, prefetch=prefetch
        )
        for name, num_threads, prefetch in ((OURS, 1, None), ("num_threads=0", 0, None), ("prefetch=4", 1, 4))
    }

    def run(loader: Loader, repeats: int) -> None:
        for _ in range(repeats):
            for _batch in loader:
                pass

    times = race(benchmark, {name: partial(run, loader) for name, loader in loaders.items()}, rounds)
    case = f"num_threads=1, {workload}"
    report.add(case, f"{OURS} vs num_threads=0", times.ratio("num_threads=0", OURS), "x", Goal(at_least=1))
    report.add(case, f"{OURS} vs prefetch=4", times.ratio("prefetch=4", OURS), "x")


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
@pytest.mark.parametrize("num_threads", [1, 4, 16])
@pytest.mark.parametrize("workload", [IMAGES_3072, IMAGES_784, TABLE_64], ids=str)
def test_lock(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload, num_threads: int) -> None:
    """Measure how often and for how long threads hold the lock, which only one of them can hold."""
    measured: list[LockTimes] = []
    time_calls(benchmark, lambda: measured.append(lock_times(workload, num_threads)), rounds)
    case = f"lock, {workload}, num_threads={num_threads}"
    for name, unit in {"acquisitions": "", "failures": "", "held_us": "us"}.items():
        values = [float(getattr(each, name)) for each in measured]
        report.add(case, f"{name.removesuffix('_us')} per batch", Spread.of(values), unit)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _seconds_of_next() -> float:
    """Return the mean time of next() over two fields, from batches that take hardly any time to plan and to copy."""
    fields = (torch.zeros(80_000, 2), torch.arange(80_000))
    with Loader(fields, batch_size=8, num_threads=0, seed=SEED) as loader:
        return _seconds(lambda: [None for _ in loader]) / len(loader)
