"""torchdata: nodes for a sampler, its batches of row ids, and threads that fetch them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, RandomSampler

from benchmarks.peers import Epochs, Peer
from benchmarks.peers.data_loader import Fetched
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import NUM_THREADS, SEED, Fields


def torchdata_nodes(fields: Fields, batch_size: int) -> Peer:
    """Return nodes that fetch the batches of a BatchSampler."""
    from torchdata import nodes

    rows = BatchSampler(RandomSampler(fields.y), batch_size, drop_last=False)
    return Peer.iterated("torchdata nodes", nodes.Loader(_fetch(fields, nodes.SamplerWrapper(rows))))


def multi_node_weighted_sampler(fields: Fields, batch_size: int) -> Peer:
    """Return nodes that draw every row from one of the classes, with equal probabilities."""
    from torchdata import nodes

    rows_by_class = {
        str(label): nodes.SamplerWrapper(_Shuffled(torch.nonzero(fields.y == label).flatten()))
        for label in fields.y.unique().tolist()
    }
    rows = nodes.MultiNodeWeightedSampler(
        rows_by_class, dict.fromkeys(rows_by_class, 1.0), nodes.StopCriteria.CYCLE_FOREVER, 0, 1, SEED
    )
    loader = nodes.Loader(_fetch(fields, nodes.Batcher(rows, batch_size)))
    steps = len(fields.y) // batch_size
    return Peer.iterated("MultiNodeWeightedSampler", Epochs(lambda: islice(loader, steps)))


class _Shuffled:
    """A sampler of the rows of a class, in a new order each time."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Any:
        return iter(self._rows[torch.randperm(len(self._rows))].tolist())


def _fetch(fields: Fields, batches_of_rows: Any) -> Any:
    from torchdata import nodes

    return nodes.ParallelMapper(batches_of_rows, Fetched(fields).__getitems__, num_workers=NUM_THREADS, method="thread")


_INSTALL = Install(("torchdata==0.11.0",))
RIVALS = (
    Rival(torchdata_nodes, install=_INSTALL),
    Rival(multi_node_weighted_sampler, "balanced on average", install=_INSTALL),
)
