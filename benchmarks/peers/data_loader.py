"""torch's DataLoader: as its documentation shows it, and with one index per batch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.peers import Peer
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields

Pair = tuple[torch.Tensor, torch.Tensor]


class Fetched(Dataset[Pair]):
    """A dataset of which DataLoader fetches a whole batch at a time, with `__getitems__`."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._fields.y)

    def __getitem__(self, row: int) -> Pair:
        """Return one sample."""
        return self._fields.x[row], self._fields.y[row]

    def __getitems__(self, rows: list[int]) -> Pair:
        """Return a batch, already collated."""
        index = torch.tensor(rows)
        return self._fields.x[index], self._fields.y[index]


def identity(batch: Any) -> Any:
    """Return a batch that `Fetched` has already collated; for `collate_fn`."""
    return batch


def sampled(fields: Fields, batch_size: int, sampler: Iterable[int]) -> DataLoader[Pair]:
    """Return the fastest DataLoader for a sampler of rows."""
    return DataLoader(Fetched(fields), batch_size, sampler=sampler, collate_fn=identity, drop_last=True)


def data_loader(fields: Fields, batch_size: int, num_workers: int) -> Peer:
    """Return a DataLoader of a TensorDataset with shuffle=True and the default collate function.

    Workers persist, so that only the first epoch pays for their start. Without a GPU, `pin_memory=True` has no effect and warns;
    `gpu/batches.py` races it.
    """
    loader = DataLoader(
        TensorDataset(fields.x, fields.y),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return Peer.iterated(f"DataLoader, {num_workers} workers", loader)


def fetching_data_loader(fields: Fields, batch_size: int) -> Peer:
    """Return a DataLoader of a dataset with `__getitems__`. It has no workers: they would copy each batch once more."""
    loader = DataLoader(Fetched(fields), batch_size, shuffle=True, collate_fn=identity)
    return Peer.iterated("DataLoader, __getitems__", loader)


RIVALS = (
    Rival(partial(data_loader, num_workers=0), slow=True, quick=True),
    Rival(partial(data_loader, num_workers=2), slow=True),
    Rival(fetching_data_loader),
)
