"""torch's WeightedRandomSampler, which draws rows with replacement, with equal class shares in expectation."""

from __future__ import annotations

from torch.utils.data import WeightedRandomSampler

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import sampled
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields


def weighted_random_sampler(fields: Fields, batch_size: int) -> Peer:
    """Return a DataLoader that draws each row with the weight 1 / size of its class."""
    weights = 1 / fields.y.bincount()[fields.y].double()
    sampler = WeightedRandomSampler(weights.tolist(), len(fields.y))
    return Peer.iterated("WeightedRandomSampler", sampled(fields, batch_size, sampler))


RIVALS = (Rival(weighted_random_sampler, "balanced on average"),)
