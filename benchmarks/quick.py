"""The short suite: an epoch of three kinds of rows, against common ways to form batches and the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from benchmarks.limit import limit
from benchmarks.peers import Peer
from benchmarks.race import OURS, Turns
from benchmarks.report import Report
from benchmarks.rivals import installed
from benchmarks.workloads import IMAGES_784, IMAGES_3072, NUM_THREADS, SEED, TABLE_64, Fields, Workload, check_epoch
from l2m_fast import Balanced, Loader

_MIXED = f"{OURS}, 10 classes balanced"


def quick(
    report: Report,
    progress: Callable[[float, str], None],
    workloads: tuple[Workload, ...] = (IMAGES_3072, IMAGES_784, TABLE_64),
    rounds: int = 9,
) -> None:
    """Race epochs and report the figures.

    Args:
        report: Report that gets the figures.
        progress: Function that is called with the share of the work that is done, and the name of the next step.
        workloads: Workloads to race.
        rounds: Interleaved rounds.
    """
    for i, workload in enumerate(workloads):
        _race(report, workload, rounds, lambda share, name, i=i: progress((i + share) / len(workloads), name))  # type: ignore[misc]
    progress(1.0, "done")


def _race(report: Report, workload: Workload, rounds: int, progress: Callable[[float, str], None]) -> None:
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
        contestants = [
            *installed("shuffled", fields, size, report.miss, stack, quick=True),
            *((peer, fields) for peer in _limit(report, fields, size)),
            (Peer.iterated(OURS, plain), fields),
        ]
        for peer, its_fields in contestants:
            check_epoch(peer.batches, its_fields)
        contestants.append((Peer.iterated(_MIXED, mixed), fields))
        turns = Turns({peer.name: peer.run for peer, _ in contestants})
        for done in range(rounds):
            progress(done / rounds, str(workload))
            turns.take_all(turns.repeats)
    report.add_race(str(workload), turns.times, {peer.name: len(its_fields.y) for peer, its_fields in contestants})


def _limit(report: Report, fields: Fields, batch_size: int) -> Iterator[Peer]:
    """Yield the limit if there is a C compiler."""
    try:
        yield limit(fields, batch_size)
    except OSError as error:
        report.miss("limit", f"no C compiler: {error}")
