"""Rows per second of an epoch, against every rival and the limit."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import imbalance
from benchmarks.limit import limit
from benchmarks.peers import Peer
from benchmarks.race import OURS, race
from benchmarks.report import Report
from benchmarks.rivals import installed
from benchmarks.workloads import IMAGES_784, IMAGES_3072, NUM_THREADS, SEED, TABLE_64, Workload, check_epoch
from l2m_fast import Balanced, Loader

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]  # for warnings of rivals


@pytest.mark.parametrize("workload", [IMAGES_3072, IMAGES_784, TABLE_64], ids=str)
def test_shuffled_epoch(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload) -> None:
    """Race epochs of all rows in random order. Slow rivals get a part of the rows."""
    fields = workload.fields()
    with ExitStack() as stack:
        loader = stack.enter_context(
            Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED)
        )
        contestants = [
            *installed("shuffled", fields, workload.batch_size, report.miss, stack),
            (limit(fields, workload.batch_size), fields),
            (Peer.iterated(OURS, loader), fields),
        ]
        for peer, its_fields in contestants:
            check_epoch(peer.batches, its_fields)
        times = race(benchmark, {peer.name: peer.run for peer, _ in contestants}, rounds)
    report.add_race(str(workload), times, {peer.name: len(its_fields.y) for peer, its_fields in contestants})


@pytest.mark.parametrize("ratio", imbalance.RATIOS)
def test_balanced_epoch(benchmark: BenchmarkFixture, report: Report, rounds: int, ratio: int) -> None:
    """Race epochs that draw long-tailed classes in equal shares, in every batch or on average.

    The limit copies rows that our loader has drawn. Every rival decides the length of its epoch.
    """
    fields = imbalance.long_tailed_fields(ratio)
    batch_size = imbalance.WORKLOAD.batch_size
    with ExitStack() as stack:
        loader = stack.enter_context(
            Loader(
                (fields.x, fields.y),
                batch_size=batch_size,
                classes=fields.y,
                mixing=Balanced(),
                num_threads=NUM_THREADS,
                seed=SEED,
            )
        )
        drawn = np.stack([np.concatenate([loader.batch_rows for _ in loader]) for _ in range(4)])
        exact = [
            *(peer for peer, _ in installed("balanced in every batch", fields, batch_size, report.miss, stack)),
            limit(fields, batch_size, orders=drawn.astype(np.uint32)),
            Peer.iterated(OURS, loader),
        ]
        on_average = [peer for peer, _ in installed("balanced on average", fields, batch_size, report.miss, stack)]
        num_rows = {
            peer.name: imbalance.check_balance(peer.batches, fields, exact=peer in exact)
            for peer in (*on_average, *exact)
        }
        times = race(benchmark, {peer.name: peer.run for peer in (*on_average, *exact)}, rounds)
    report.add_race(imbalance.case(ratio), times, num_rows)
