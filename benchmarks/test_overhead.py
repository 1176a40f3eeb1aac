"""Overhead of a loader besides copying rows: the time of a next() and of the import."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.race import Spread, time_calls
from benchmarks.report import Goal, Report
from benchmarks.workloads import NUM_THREADS, SEED
from l2m_fast import Loader

_CONSUMER = 50e-6  # seconds of other work between two calls, long enough for the next batch to be ready


@pytest.mark.parametrize("batch_size", [1, 8])
def test_next(benchmark: BenchmarkFixture, report: Report, batch_size: int) -> None:
    """Time next() over two fields of tiny rows for a consumer that is busy between batches, as a model is."""
    steps = 5000
    num_rows = batch_size * steps
    fields = (torch.zeros(num_rows, 2), torch.arange(num_rows))

    def consume() -> None:
        until = time.perf_counter() + _CONSUMER
        while time.perf_counter() < until:
            pass

    with Loader(fields, batch_size=batch_size, num_threads=NUM_THREADS, seed=SEED) as loader:
        batches = iter(loader)
        waiting = time_calls(benchmark, partial(next, batches), steps, setup=consume)
        start = time.perf_counter()
        for _ in loader:
            pass
        streaming = 1e6 * (time.perf_counter() - start) / len(loader)
    case = f"next(), two fields, batch {batch_size}"
    report.add(case, "the batch is ready", Spread.of([1e6 * seconds for seconds in waiting]), "us", Goal(at_most=8))
    report.add(case, "mean over an epoch, back to back", streaming, "us")


def test_import(benchmark: BenchmarkFixture, report: Report) -> None:
    """Time the import statement in fresh interpreters, NumPy included, and assert that torch is not imported."""
    seconds: dict[str, list[float]] = {"numpy": [], "l2m_fast": []}

    def import_all() -> None:
        for module, times in seconds.items():
            program = (
                f"import sys, time; start = time.perf_counter(); import {module}; "
                "print(time.perf_counter() - start); assert 'torch' not in sys.modules"
            )
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            times.append(float(done.stdout))

    benchmark.pedantic(import_all, rounds=10, warmup_rounds=1)
    case = "import in a fresh interpreter"
    milliseconds = {module: Spread.of([1e3 * value for value in times[1:]]) for module, times in seconds.items()}
    report.add(case, "numpy", milliseconds["numpy"], "ms")
    report.add(case, "l2m_fast, numpy included", milliseconds["l2m_fast"], "ms", Goal(at_most=100))
