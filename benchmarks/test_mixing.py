"""Cost of class mixing over plain loading, and time of a batch with a million classes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.peers import Peer
from benchmarks.race import OURS, Spread, race, time_calls
from benchmarks.report import Goal, Report
from benchmarks.workloads import NUM_THREADS, SEED, WORKLOADS, Fields, Workload
from l2m_fast import Balanced, Loader


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_mixing(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload, num_classes: int) -> None:
    """Race a class-balanced epoch against one with `classes=None` of the same number of full batches.

    The classes are random and of about equal size, so that both epochs read nearly the same rows.
    """
    fields = workload.fields()
    classes = np.random.default_rng(SEED).integers(0, num_classes, workload.num_rows)
    loader = partial(Loader, (fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED)
    with loader(drop_last=True) as plain, loader(classes=classes, mixing=Balanced()) as mixed:
        assert len(plain) == len(mixed)
        _check_balance(mixed, fields, classes)
        peers = [Peer.iterated("classes=None", plain), Peer.iterated(OURS, mixed)]
        times = race(benchmark, {peer.name: peer.run for peer in peers}, rounds)

    ratio = times.ratio(slow=OURS, fast="classes=None")
    cost = Spread(*(100 * (value - 1) for value in (ratio.median, ratio.low, ratio.high)))
    report.add(f"{workload}, K = {num_classes:,}", "cost of mixing", cost, "%", Goal(at_most=5))


def _check_balance(loader: Loader, fields: Fields, classes: NDArray[np.int64]) -> None:
    """Assert that samples have their labels, and that every batch has the share of each class, rounded down or up."""
    num_classes = int(classes.max()) + 1
    for x, y in loader:
        assert x.equal(fields.x[y])
        counts = np.bincount(classes[y.numpy()], minlength=num_classes)
        assert counts.sum() == len(y)
        assert set(counts) <= {len(y) // num_classes, -(-len(y) // num_classes)}


def test_million_classes(benchmark: BenchmarkFixture, report: Report) -> None:
    """Time next() with K = 1,000,000 and batches of 1024 in one thread: planning, and gathering 1,024 bytes."""
    num_classes, num_rows, batch_size, steps = 1_000_000, 4_000_000, 1024, 2000
    classes = np.random.default_rng(SEED).permutation(np.arange(num_rows, dtype=np.int64) % num_classes)
    x = np.zeros(num_rows, np.uint8)
    with Loader(
        x, batch_size=batch_size, classes=classes, mixing=Balanced(), num_threads=0, seed=SEED, format="numpy"
    ) as loader:
        batches = iter(loader)
        next(batches)
        counts = np.bincount(loader.batch_classes, minlength=num_classes)
        assert counts.sum() == batch_size
        assert counts.max() == 1
        microseconds = [1e6 * seconds for seconds in time_calls(benchmark, partial(next, batches), steps)]
    case = f"K = {num_classes:,}, batch {batch_size}, {num_rows:,} x 1 B, one thread"
    report.add(case, "mean of next(), plan and gather", float(np.mean(microseconds)), "us", Goal(at_most=200))
    report.add(case, "next(), plan and gather", Spread.of(microseconds), "us")
