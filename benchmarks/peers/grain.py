"""Grain: row ids shuffled, batched and mixed by its MapDataset, and one gather a batch."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.workloads import Fields


def grain(fields: Fields, batch_size: int) -> Peer:
    """Makes a MapDataset of the rows, shuffled anew each epoch."""
    from grain import MapDataset

    seeds = count()

    def batches() -> Any:
        rows = MapDataset.range(len(fields.y)).shuffle(seed=next(seeds)).batch(batch_size)
        return _gathered(fields, rows)

    return Peer.iterated("grain", Epochs(batches), numpy_pair)


def grain_mix(fields: Fields, batch_size: int) -> Peer:
    """Makes a mix of one MapDataset a class in equal proportions; the classes repeat, shuffled anew each time.

    A class is a range of the rows in the order of their classes, because ranges are the fastest source that grain has.
    """
    from grain import MapDataset

    seeds = count()
    rows_by_class = fields.y.argsort(stable=True).numpy()
    ends = fields.y.bincount().cumsum(0).tolist()

    def batches() -> Any:
        seed = next(seeds)
        parts = [MapDataset.range(*part).shuffle(seed=seed).repeat() for part in pairwise([0, *ends])]
        rows = MapDataset.mix(parts).batch(batch_size)[: len(fields.y) // batch_size]
        return _gathered(fields, rows.map(rows_by_class.__getitem__))

    return Peer.iterated("grain mix", Epochs(batches), numpy_pair)


def _gathered(fields: Fields, batches_of_rows: Any) -> Any:
    """Reads without threads, as grain advises for data in memory."""
    from grain import ReadOptions

    x, y = fields.x.numpy(), fields.y.numpy()
    batches = batches_of_rows.map(lambda rows: (x.take(rows, axis=0), y.take(rows)))
    return batches.to_iter_dataset(ReadOptions(num_threads=0, prefetch_buffer_size=0))
