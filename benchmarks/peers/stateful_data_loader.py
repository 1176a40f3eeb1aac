"""torchdata: StatefulDataLoader with one index per batch."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import Fetched, identity
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields


def stateful_data_loader(fields: Fields, batch_size: int) -> Peer:
    """Return a StatefulDataLoader without workers."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(Fetched(fields), batch_size, shuffle=True, collate_fn=identity)
    return Peer.iterated("StatefulDataLoader", loader)


RIVALS = (Rival(stateful_data_loader, install=Install(("torchdata==0.11.0",))),)
