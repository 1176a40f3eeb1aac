"""Grain: row ids shuffled, batched and mixed by its MapDataset, and one gather a batch."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.workloads import Fields


def grain(fields: Fields, batch_size: int) -> Peer:
    """Makes a MapDataset of the rows, shuffled anew each epoch."""
    from grain import MapDataset

    seeds = count()

    def batches() -> Any:
        return _gathered(fields, MapDataset.range(len(fields.y)).shuffle(seed=next(seeds)), batch_size)

    return Peer.iterated("grain", Epochs(batches), numpy_pair)


def grain_mix(fields: Fields, batch_size: int) -> Peer:
    """Makes a mix of one MapDataset a class in equal proportions; the classes repeat, shuffled anew each time."""
    from grain import MapDataset

    seeds = count()
    labels = fields.y.numpy()
    rows_by_class = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]

    def batches() -> Any:
        seed = next(seeds)
        parts = [MapDataset.source(rows).shuffle(seed=seed).repeat() for rows in rows_by_class]
        return _gathered(fields, MapDataset.mix(parts)[: len(labels) // batch_size * batch_size], batch_size)

    return Peer.iterated("grain mix", Epochs(batches), numpy_pair)


def _gathered(fields: Fields, rows: Any, batch_size: int) -> Any:
    """Reads without threads, as grain advises for data in memory."""
    from grain import ReadOptions

    x, y = fields.x.numpy(), fields.y.numpy()
    batches = rows.batch(batch_size).map(lambda batch: (x.take(batch, axis=0), y.take(batch)))
    return batches.to_iter_dataset(ReadOptions(num_threads=0, prefetch_buffer_size=0))
