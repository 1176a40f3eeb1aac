"""tensordict: a TensorDict of both fields, indexed with a batch of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.peers import Epochs, Peer, named_pair
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields


def tensordict(fields: Fields, batch_size: int) -> Peer:
    """Return the tensordict rival."""
    from tensordict import TensorDict

    data = TensorDict({"x": fields.x, "y": fields.y}, batch_size=[len(fields.y)])

    def batches() -> Iterator[Any]:
        for rows in torch.randperm(len(fields.y)).split(batch_size):
            yield data[rows]

    return Peer.iterated("tensordict", Epochs(batches), named_pair)


RIVALS = (Rival(tensordict, install=Install(("tensordict==0.15.3",))),)
