"""torchsampler's ImbalancedDatasetSampler: rows drawn with replacement, classes equal in expectation."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import Fetched, sampled
from benchmarks.peers.torchvision_stand_in import torchvision_stand_in
from benchmarks.workloads import Fields


def imbalanced_dataset_sampler(fields: Fields, batch_size: int) -> Peer:
    """Makes a DataLoader with the sampler, which is given the labels."""
    with torchvision_stand_in():
        from torchsampler import ImbalancedDatasetSampler

    sampler = ImbalancedDatasetSampler(Fetched(fields), labels=fields.y.numpy())
    return Peer.iterated("torchsampler", sampled(fields, batch_size, sampler))
