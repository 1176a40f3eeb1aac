"""torch's DataLoader as a user writes it: TensorDataset, shuffle=True, default collate."""

from __future__ import annotations

from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers import Peer
from benchmarks.workloads import Fields


def data_loader(fields: Fields, batch_size: int, num_workers: int) -> Peer:
    """Makes a DataLoader whose workers, if any, persist, so that only its first epoch pays for their start."""
    loader = DataLoader(
        TensorDataset(fields.x, fields.y),
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return Peer.iterated(f"DataLoader, {num_workers} workers", loader)
