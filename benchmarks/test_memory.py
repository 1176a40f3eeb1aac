"""How much memory does an epoch take beyond the data?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.peak_memory import peak_memory
from benchmarks.peers import Peer
from benchmarks.peers.data_loader import data_loader, fetching_data_loader
from benchmarks.peers.grain import grain
from benchmarks.peers.hf_datasets import hf_datasets
from benchmarks.peers.index_select import index_select
from benchmarks.peers.permuted import permuted
from benchmarks.peers.spdl import spdl
from benchmarks.peers.stateful_data_loader import stateful_data_loader
from benchmarks.peers.take import take
from benchmarks.peers.tensordict import tensordict
from benchmarks.peers.torchdata_nodes import torchdata_nodes
from benchmarks.peers.webdataset import webdataset
from benchmarks.race import OURS
from benchmarks.report import Goal, Report
from benchmarks.workloads import IMAGES_3072, NUM_THREADS, SEED, Fields
from l2m_fast import Loader

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")


def ours(fields: Fields, batch_size: int) -> Peer:
    """Makes our loader."""
    loader = Loader((fields.x, fields.y), batch_size=batch_size, num_threads=NUM_THREADS, seed=SEED)
    return Peer.iterated(OURS, loader, close=loader.close)


# Those with an environment of their own get a copy of the data over a pipe, which would be counted.
WAYS: tuple[Callable[[Fields, int], Peer], ...] = (
    ours,
    partial(data_loader, num_workers=0),
    partial(data_loader, num_workers=2),
    fetching_data_loader,
    stateful_data_loader,
    torchdata_nodes,
    permuted,
    index_select,
    take,
    tensordict,
    spdl,
    grain,
    hf_datasets,
    partial(webdataset, num_workers=0),
    partial(webdataset, num_workers=2),
)


@pytest.mark.timeout(900)
def test_peak_memory(benchmark: BenchmarkFixture, report: Report) -> None:
    """Watches an epoch of each way in a process of its own."""
    peaks = {}

    def watch_all() -> None:
        for factory in WAYS:
            try:
                name, peak = peak_memory(factory, IMAGES_3072)
            except ImportError as error:
                report.miss(str(error.name), str(error))
                continue
            peaks[name] = peak

    benchmark.pedantic(watch_all, rounds=1)
    for name, peak in peaks.items():
        report.add(f"peak memory beyond data and torch, {IMAGES_3072}", name, peak / 1e6, "MB")


@pytest.mark.parametrize(("num_classes", "bytes_a_row"), [(0, 8), (1000, 12)])
def test_memory_of_rows(benchmark: BenchmarkFixture, report: Report, num_classes: int, bytes_a_row: int) -> None:
    """Measures what a loader over 20,000,000 one-byte rows adds to a process; its batches are 0.1 % of the bound."""
    num_rows = 20_000_000
    program = Path(__file__).parent / "resident_memory.py"

    def measure() -> dict[str, int]:
        command = [sys.executable, str(program), str(num_rows), str(num_classes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        added: dict[str, int] = json.loads(done.stdout)
        return added

    added = benchmark.pedantic(measure, rounds=1)
    case = f"memory beyond the data, {num_rows:,} rows, " + (f"K = {num_classes:,}" if num_classes else "classes=None")
    for name, value in added.items():
        report.add(case, name, value / num_rows, "B a row", Goal(at_most=1.01 * bytes_a_row))
