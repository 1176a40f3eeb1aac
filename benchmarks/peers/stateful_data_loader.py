"""torchdata's StatefulDataLoader, fetching a batch with one index."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import Fetched, as_it_is
from benchmarks.workloads import Fields


def stateful_data_loader(fields: Fields, batch_size: int) -> Peer:
    """Makes a StatefulDataLoader without workers."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(Fetched(fields), batch_size, shuffle=True, collate_fn=as_it_is)
    return Peer.iterated("StatefulDataLoader", loader)
