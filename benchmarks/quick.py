"""The short suite: an epoch of three kinds of rows, beside what torch's users write and the limit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import data_loader
from benchmarks.peers.index_select import index_select
from benchmarks.peers.limit import limit
from benchmarks.peers.permuted import permuted
from benchmarks.peers.take import take
from benchmarks.race import OURS, Turns
from benchmarks.report import Report
from benchmarks.workloads import IMAGES_784, IMAGES_3072, NUM_THREADS, SEED, TABLE_64, Workload, check_epoch
from l2m_fast import Balanced, Loader

_ROUNDS = 9
_WORKLOADS = (IMAGES_3072, IMAGES_784, TABLE_64)
_MIXED = f"{OURS}, 10 classes balanced"


def quick(report: Report, progress: Callable[[float, str], None]) -> None:
    """Races and reports; tells `progress` the share that is done, and what is next."""
    for i, workload in enumerate(_WORKLOADS):
        _epochs(report, workload, lambda share, name, i=i: progress((i + share) / len(_WORKLOADS), name))  # type: ignore[misc]
    progress(1.0, "done")


def _epochs(report: Report, workload: Workload, progress: Callable[[float, str], None]) -> None:
    progress(0.0, f"{workload}: making the data")
    fields = workload.fields()
    size = workload.batch_size
    with ExitStack() as stack:
        data = (fields.x, fields.y)
        plain = stack.enter_context(Loader(data, batch_size=size, num_threads=NUM_THREADS, seed=SEED))
        mixed = Loader(
            data, batch_size=size, classes=fields.y % 10, mixing=Balanced(), num_threads=NUM_THREADS, seed=SEED
        )
        stack.enter_context(mixed)
        peers = [data_loader(fields, size, 0), permuted(fields, size), index_select(fields, size), take(fields, size)]
        peers += _limits(report, lambda: limit(fields, size))
        peers.append(Peer.iterated(OURS, plain))
        for peer in peers:
            check_epoch(peer.batches, fields)
        peers.append(Peer.iterated(_MIXED, mixed))
        turns = Turns({peer.name: peer.run for peer in peers})
        for done in range(_ROUNDS):
            progress(done / _ROUNDS, str(workload))
            turns.take_all(peer.name for peer in peers)
    times, case = turns.times, str(workload)
    for peer in peers:
        report.add(case, peer.name, times.rate(peer.name, workload.num_rows), "rows/s")
    for peer in peers:
        if peer.name not in (OURS, _MIXED, "limit"):
            report.add(case, f"{OURS} vs {peer.name}", times.ratio(slow=peer.name, fast=OURS), "x")
    if "limit" in times.seconds:
        report.add(case, f"{OURS}, share of the limit", times.ratio(slow="limit", fast=OURS), "x")


def _limits(report: Report, make: Callable[[], Peer]) -> list[Peer]:
    """The limit, where there is a C compiler."""
    try:
        return [make()]
    except OSError as error:
        report.miss("limit", f"no C compiler: {error}")
        return []
