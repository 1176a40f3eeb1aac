"""Rows per second of an epoch, against torch and the limit."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.limit import limit
from benchmarks.peers import Peer
from benchmarks.peers.data_loader import data_loader
from benchmarks.peers.index_select import index_select
from benchmarks.race import OURS, race
from benchmarks.report import Goal, Report
from benchmarks.workloads import NUM_THREADS, SEED, WORKLOADS, Workload, check_epoch
from l2m_fast import Loader


@pytest.mark.filterwarnings(
    "ignore:.*use of fork:DeprecationWarning"
)  # from the workers of DataLoader since Python 3.12
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_epoch(benchmark: BenchmarkFixture, report: Report, rounds: int, workload: Workload) -> None:
    """Race an epoch with shuffling, after a check that all deliver the same rows."""
    fields = workload.fields()
    without_workers, with_workers = (data_loader(fields, workload.batch_size, workers) for workers in (0, 2))
    selecting = index_select(fields, workload.batch_size)
    copying = limit(fields, workload.batch_size)
    rivals = (without_workers, with_workers, selecting, copying)
    with Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED) as loader:
        ours = Peer.iterated(OURS, loader)
        for peer in (*rivals, ours):
            check_epoch(peer.batches, fields)
        times = race(benchmark, {peer.name: peer.run for peer in (*rivals, ours)}, rounds)

    case = str(workload)
    for peer in (*rivals, ours):
        report.add(case, peer.name, times.rate(peer.name, workload.num_rows), "rows/s")
    best = times.best(without_workers.name, with_workers.name)
    for name, slow, fast, goal in (
        (f"{OURS} vs {best}", best, ours.name, workload.vs_data_loader),
        (f"{OURS} vs {selecting.name}", selecting.name, ours.name, workload.vs_index_select),
        (f"{OURS} vs {copying.name}", copying.name, ours.name, workload.vs_limit),
        (f"{selecting.name} vs {copying.name}", copying.name, selecting.name, None),
    ):
        report.add(case, name, times.ratio(slow, fast), "x", None if goal is None else Goal(at_least=goal))
