"""The fastest loop in NumPy: `np.take(x, rows, axis=0, out=buffer, mode="clip")` for both fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields, permutations


def take(fields: Fields, batch_size: int) -> Peer:
    """Return the `np.take` rival. It uses mode="clip" because the default, "raise", copies the output once more.

    The orders are computed in advance, so this rival does not pay for the shuffle, which the loader's epochs include.
    """
    sources = (fields.x.numpy(), fields.y.numpy())
    buffers = tuple(np.empty_like(source[:batch_size]) for source in sources)
    orders = cycle(permutations(len(fields.y)).astype(np.intp))

    def batches() -> Iterator[tuple[Any, ...]]:
        order = next(orders)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tuple(buffer[: len(rows)] for buffer in buffers)
            for source, out in zip(sources, batch, strict=True):
                np.take(source, rows, axis=0, out=out, mode="clip")
            yield batch

    return Peer.iterated("np.take", Epochs(batches), numpy_pair)


RIVALS = (Rival(take, quick=True),)
