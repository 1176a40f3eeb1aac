"""torch's DataLoader: as a user writes it, and fetching a batch with one index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.peers import Peer
from benchmarks.workloads import Fields

Pair = tuple[torch.Tensor, torch.Tensor]


class Fetched(Dataset[Pair]):
    """Fields that DataLoader's `__getitems__` fetches a batch at a time."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._fields.y)

    def __getitem__(self, row: int) -> Pair:
        """Returns one sample."""
        return self._fields.x[row], self._fields.y[row]

    def __getitems__(self, rows: list[int]) -> Pair:
        """Returns a batch, already collated."""
        index = torch.tensor(rows)
        return self._fields.x[index], self._fields.y[index]


def as_it_is(batch: Any) -> Any:
    """Collates what `Fetched` has collated."""
    return batch


def sampled(fields: Fields, batch_size: int, sampler: Iterable[int]) -> DataLoader[Pair]:
    """Makes the fastest DataLoader for a sampler of rows."""
    return DataLoader(Fetched(fields), batch_size, sampler=sampler, collate_fn=as_it_is, drop_last=True)


def data_loader(fields: Fields, batch_size: int, num_workers: int) -> Peer:
    """Makes a DataLoader of a TensorDataset, shuffle=True, default collate.

    Its workers, if any, persist, so that only the first epoch pays for their start.
    Without a GPU `pin_memory=True` pins nothing and warns; with one, `gpu/batches.py` races it.
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
    """Makes a DataLoader of a dataset with `__getitems__`, without workers, which would only copy the batches once more."""
    loader = DataLoader(Fetched(fields), batch_size, shuffle=True, collate_fn=as_it_is)
    return Peer.iterated("DataLoader, __getitems__", loader)
