"""Rows of other kinds, and batches from small to large, beside those who select rows and the limit."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.peers import Peer
from benchmarks.peers.index_select import index_select
from benchmarks.peers.limit import limit
from benchmarks.peers.take import take
from benchmarks.race import OURS, Spread, race
from benchmarks.report import Report
from benchmarks.workloads import NUM_THREADS, REAL_DATA, SEED, Fields, Workload, check_epoch
from l2m_fast import Loader
from l2m_fast.experiments.datasets import cifar10, wine
from l2m_fast.experiments.rows import standardised

_workload = partial(Workload, vs_data_loader=None, vs_index_select=None, vs_limit=0.0)
KINDS = {
    "table of 11 floats": _workload(500_000, (11,), torch.float32, 512),
    "500 tokens": _workload(50_000, (500,), torch.int64, 128),
    "float images": _workload(20_000, (3, 32, 32), torch.float32, 256),
    "images of 224 x 224": _workload(4_000, (3, 224, 224), torch.uint8, 64),
    **{f"batch {size}": _workload(200_000, (16,), torch.float32, size) for size in (32, 128, 8192)},
}
REAL: dict[str, tuple[Callable[[], torch.Tensor], int]] = {  # what makes the rows, and the batch size
    "CIFAR-10": (lambda: torch.tensor(cifar10().train[0]), 512),
    "wine": (lambda: standardised(wine().columns, wine().columns), 64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(benchmark: BenchmarkFixture, report: Report, rounds: int, kind: str) -> None:
    """Races an epoch of made-up rows."""
    _race(benchmark, report, rounds, kind, KINDS[kind], KINDS[kind].fields())


@pytest.mark.skipif(not REAL_DATA, reason="L2M_DATA names no folder of data files")
@pytest.mark.parametrize("name", REAL)
def test_real_data(benchmark: BenchmarkFixture, report: Report, rounds: int, name: str) -> None:
    """Races an epoch of real rows."""
    make, batch_size = REAL[name]
    x = make()
    workload = _workload(len(x), tuple(x.shape[1:]), x.dtype, batch_size)
    _race(benchmark, report, rounds, name, workload, Fields(x, torch.arange(len(x))))


def _race(
    benchmark: BenchmarkFixture, report: Report, rounds: int, name: str, workload: Workload, fields: Fields
) -> None:
    """Races an epoch after checking that all deliver the same rows."""
    rivals = [make(fields, workload.batch_size) for make in (index_select, take, limit)]
    with Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED) as loader:
        ours = Peer.iterated(OURS, loader)
        for peer in (*rivals, ours):
            check_epoch(peer.batches, fields)
        times = race(benchmark, ours.run, {peer.name: peer.run for peer in rivals}, rounds)
    case = f"{name}: {workload}"
    for peer in (*rivals, ours):
        report.add(case, peer.name, times.rate(peer.name, workload.num_rows), "rows/s")
    for peer in rivals:
        report.add(case, f"{OURS} vs {peer.name}", times.ratio(peer.name, OURS), "x")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise to evict pages")
def test_memory_map(benchmark: BenchmarkFixture, report: Report, tmp_path: Path) -> None:
    """Reads an epoch of a memory-mapped file whose pages are not in memory, evicted before each repeat."""
    num_rows, width, size = 100_000, 3072, 512
    path = tmp_path / "rows"
    file = np.memmap(path, np.uint8, "w+", shape=(num_rows, width))
    np.random.default_rng(SEED).integers(0, 256, file.shape, np.uint8).tofile(path)
    rows = np.random.default_rng(SEED).permutation(num_rows)

    def evicted() -> NDArray[np.uint8]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        os.close(descriptor)
        return np.frombuffer(mapped, np.uint8).reshape(num_rows, width)

    def batches_of_take() -> Iterator[NDArray[np.uint8]]:
        data, out = evicted(), np.empty((size, width), np.uint8)
        for begin in range(0, num_rows, size):
            some = rows[begin : begin + size]
            yield np.take(data, some, axis=0, out=out[: len(some)], mode="clip")

    def ours(threads: int) -> Iterator[NDArray[np.uint8]]:
        with Loader(evicted(), batch_size=size, num_threads=threads, seed=SEED, format="numpy") as loader:
            yield from loader

    sizes = [size] * (num_rows // size) + [num_rows % size]
    contestants: dict[str, Callable[[], Iterator[NDArray[np.uint8]]]] = {
        "np.take": batches_of_take,
        OURS: partial(ours, NUM_THREADS),
        f"{OURS}, 16 threads": partial(ours, 16),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def race_all() -> None:
        for name, batches in contestants.items():
            start = time.perf_counter()
            assert [len(batch) for batch in batches()] == sizes
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(race_all, rounds=3, warmup_rounds=1)
    for name, values in seconds.items():
        report.add(
            f"memory map, pages evicted, {num_rows:,} x {width} B",
            name,
            Spread.of([num_rows / s for s in values[1:]]),
            "rows/s",
        )
