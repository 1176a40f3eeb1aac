"""Rows of other kinds, and batches from small to large, against row selection in torch and NumPy and the limit."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.limit import limit
from benchmarks.peers import Peer
from benchmarks.peers.index_select import index_select
from benchmarks.peers.take import take
from benchmarks.race import OURS, Times, race
from benchmarks.report import Report
from benchmarks.workloads import NUM_THREADS, REAL_DATA, SEED, Fields, Workload, check_epoch
from l2m_experiments.datasets import cifar10, wine
from l2m_experiments.rows import standardize
from l2m_fast import Loader

_workload = partial(Workload, vs_data_loader=None, vs_index_select=None, vs_limit=0.0)
KINDS = {
    "table of 11 floats": _workload(500_000, (11,), torch.float32, 512),
    "500 tokens": _workload(50_000, (500,), torch.int64, 128),
    "float images": _workload(20_000, (3, 32, 32), torch.float32, 256),
    "images of 224 x 224": _workload(4_000, (3, 224, 224), torch.uint8, 64),
    **{f"batch {size}": _workload(200_000, (16,), torch.float32, size) for size in (32, 128, 8192)},
}
REAL: dict[str, tuple[Callable[[], torch.Tensor], int]] = {  # function that returns the rows, and batch size
    "CIFAR-10": (lambda: torch.tensor(cifar10().train[0]), 512),
    "wine": (lambda: standardize(wine().columns, wine().columns), 64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(benchmark: BenchmarkFixture, report: Report, rounds: int, kind: str) -> None:
    """Race an epoch of synthetic rows."""
    _race(benchmark, report, rounds, kind, KINDS[kind], KINDS[kind].fields())


@pytest.mark.skipif(not REAL_DATA, reason="L2M_DATA is not set")
@pytest.mark.parametrize("name", REAL)
def test_real_data(benchmark: BenchmarkFixture, report: Report, rounds: int, name: str) -> None:
    """Race an epoch of real rows."""
    make, batch_size = REAL[name]
    x = make()
    workload = _workload(len(x), tuple(x.shape[1:]), x.dtype, batch_size)
    _race(benchmark, report, rounds, name, workload, Fields(x, torch.arange(len(x))))


def _race(
    benchmark: BenchmarkFixture, report: Report, rounds: int, name: str, workload: Workload, fields: Fields
) -> None:
    """Race an epoch, after a check that all deliver the same rows."""
    rivals = [make(fields, workload.batch_size) for make in (index_select, take, limit)]
    with Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED) as loader:
        ours = Peer.iterated(OURS, loader)
        for peer in (*rivals, ours):
            check_epoch(peer.batches, fields)
        times = race(benchmark, {peer.name: peer.run for peer in (*rivals, ours)}, rounds)
    case = f"{name}: {workload}"
    for peer in (*rivals, ours):
        report.add(case, peer.name, times.rate(peer.name, workload.num_rows), "rows/s")
    for peer in rivals:
        report.add(case, f"{OURS} vs {peer.name}", times.ratio(peer.name, OURS), "x")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise to evict pages")
def test_memory_map(benchmark: BenchmarkFixture, report: Report, tmp_path: Path) -> None:
    """Read an epoch of a memory-mapped file, whose pages are evicted before each repeat.

    A thread waits for each page that it reads, so that more threads than cores read more. They have a separate limit.
    """
    workload = _workload(100_000, (3072,), torch.uint8, 512)
    path = tmp_path / "rows"
    source = workload.fields()
    source.x.numpy().tofile(path)

    def evicted() -> Fields:
        with path.open("rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # all pages that no process has mapped
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        mapped.madvise(mmap.MADV_RANDOM)
        return Fields(torch.frombuffer(mapped, dtype=torch.uint8).view(source.x.shape), source.y)

    def ours(fields: Fields, batch_size: int, num_threads: int) -> Peer:
        loader = Loader((fields.x, fields.y), batch_size=batch_size, num_threads=num_threads, seed=SEED)
        return Peer.iterated(OURS, loader, close=loader.close)

    def seconds_of(use: Callable[[Peer], object], make: Callable[[Fields, int], Peer]) -> float:
        peer = make(evicted(), workload.batch_size)
        start = time.perf_counter()
        use(peer)
        seconds = time.perf_counter() - start
        peer.close()
        return seconds

    contestants: dict[str, Callable[[Fields, int], Peer]] = {"np.take": take}
    for threads in (NUM_THREADS, 16):
        contestants[f"limit, {threads} threads"] = partial(limit, num_threads=threads)
        contestants[f"{OURS}, {threads} threads"] = partial(ours, num_threads=threads)
    times = Times({name: [] for name in contestants})

    def race_all() -> None:
        for name, make in contestants.items():
            times.seconds[name].append(seconds_of(lambda peer: peer.run(1), make))

    for make in contestants.values():
        seconds_of(lambda peer: check_epoch(peer.batches, source), make)
    benchmark.pedantic(race_all, rounds=3)
    case = f"memory map, pages evicted, {workload}"
    for name in contestants:
        report.add(case, name, times.rate(name, workload.num_rows), "rows/s")
    for threads in (NUM_THREADS, 16):
        slow, fast = (f"{name}, {threads} threads" for name in ("limit", OURS))
        report.add(case, f"{fast} vs limit", times.ratio(slow, fast), "x")
