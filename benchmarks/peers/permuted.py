"""The usual loop in torch: `x[order[i : i + batch_size]]` for both fields, in a new order each epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields


def permuted(fields: Fields, batch_size: int) -> Peer:
    """Return the `x[perm]` rival."""

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(fields.y)).split(batch_size):
            yield fields.x[rows], fields.y[rows]

    return Peer.iterated("x[perm]", Epochs(batches))


RIVALS = (Rival(permuted, quick=True),)
