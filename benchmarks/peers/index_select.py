"""The fastest loop in torch: `torch.index_select(x, 0, order[i : i + batch_size], out=buffer)` for both fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from benchmarks.peers import Peer
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields, permutations


class _IndexSelect:
    """Gathers with torch's threads into one reused buffer per field.

    The orders are computed in advance, so this rival does not pay for the shuffle, which the loader's epochs include.
    """

    def __init__(self, fields: Fields, batch_size: int) -> None:
        num_rows = len(fields.y)
        self._fields = fields
        self._batch_size = batch_size
        self._orders = cycle(torch.from_numpy(permutations(num_rows).astype("int64")))
        tail = num_rows % batch_size
        self._buffers = {
            count: (fields.x.new_empty((count, *fields.x.shape[1:])), fields.y.new_empty(count))
            for count in (batch_size, tail)
        }

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of one epoch in the next order."""
        for rows in next(self._orders).split(self._batch_size):
            x, y = self._buffers[len(rows)]
            torch.index_select(self._fields.x, 0, rows, out=x)
            torch.index_select(self._fields.y, 0, rows, out=y)
            yield x, y


def index_select(fields: Fields, batch_size: int) -> Peer:
    """Return the `index_select` rival."""
    return Peer.iterated("index_select", _IndexSelect(fields, batch_size))


RIVALS = (Rival(index_select, quick=True),)
