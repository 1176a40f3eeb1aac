"""Grain: a MapDataset that shuffles, batches and mixes row ids, and one gather per batch."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields


def grain(fields: Fields, batch_size: int) -> Peer:
    """Return a MapDataset of the rows, reshuffled each epoch."""
    from grain import MapDataset

    seeds = count()

    def batches() -> Any:
        rows = MapDataset.range(len(fields.y)).shuffle(seed=next(seeds)).batch(batch_size)
        return _gathered(fields, rows)

    return Peer.iterated("grain", Epochs(batches), numpy_pair)


def grain_mix(fields: Fields, batch_size: int) -> Peer:
    """Return a mix of one MapDataset per class in equal proportions. A class repeats, reshuffled each time.

    Rows are sorted by class and a class is a range of them, because ranges are the fastest source of grain.
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
    """Gather batches without threads, as grain advises for data in memory."""
    from grain import ReadOptions

    x, y = fields.x.numpy(), fields.y.numpy()
    batches = batches_of_rows.map(lambda rows: (x.take(rows, axis=0), y.take(rows)))
    return batches.to_iter_dataset(ReadOptions(num_threads=0, prefetch_buffer_size=0))


_INSTALL = Install(("grain==0.2.18",))
RIVALS = (Rival(grain, install=_INSTALL, slow=True), Rival(grain_mix, "balanced in every batch", install=_INSTALL))
