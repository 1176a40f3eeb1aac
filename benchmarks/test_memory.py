"""Memory of an epoch beyond the data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.environments import ROOT
from benchmarks.peak_memory import peak_memory
from benchmarks.peers import Peer
from benchmarks.race import OURS
from benchmarks.report import Goal, Report
from benchmarks.rivals import rivals
from benchmarks.workloads import IMAGES_3072, NUM_THREADS, SEED, Fields
from l2m_fast import Loader

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")


def ours(fields: Fields, batch_size: int) -> Peer:
    """Return our loader."""
    loader = Loader((fields.x, fields.y), batch_size=batch_size, num_threads=NUM_THREADS, seed=SEED)
    return Peer.iterated(OURS, loader, close=loader.close)


@pytest.mark.timeout(900)
def test_peak_memory(benchmark: BenchmarkFixture, report: Report) -> None:
    """Measure an epoch of each contestant in a separate process."""
    peaks = {}
    # A rival in another environment gets a copy of the data over a pipe, which would count.
    factories = [ours, *(rival.factory for rival in rivals("shuffled") if rival.environment is None)]

    def measure_all() -> None:
        for factory in factories:
            try:
                name, peak = peak_memory(factory, IMAGES_3072)
            except ImportError as error:
                report.miss(str(error.name), str(error))
                continue
            peaks[name] = peak

    benchmark.pedantic(measure_all, rounds=1)
    for name, peak in peaks.items():
        report.add(f"peak memory beyond data and torch, {IMAGES_3072}", name, peak / 1e6, "MB")


@pytest.mark.parametrize(("num_classes", "bytes_per_row"), [(0, 8), (1000, 12)])
def test_memory_of_rows(benchmark: BenchmarkFixture, report: Report, num_classes: int, bytes_per_row: int) -> None:
    """Measure the bytes that a loader over 20,000,000 one-byte rows adds to a process. Its batches are 0.1 % of the bound."""
    num_rows = 20_000_000

    def measure() -> dict[str, int]:
        command = [sys.executable, "-m", "benchmarks.resident_memory", str(num_rows), str(num_classes)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        added: dict[str, int] = json.loads(done.stdout)
        return added

    added = benchmark.pedantic(measure, rounds=1)
    case = f"memory beyond the data, {num_rows:,} rows, " + (f"K = {num_classes:,}" if num_classes else "classes=None")
    for name, value in added.items():
        report.add(case, name, value / num_rows, "B per row", Goal(at_most=1.01 * bytes_per_row))
