"""torchsampler: ImbalancedDatasetSampler, which draws rows with replacement, with equal class shares in expectation."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import Fetched, sampled
from benchmarks.rivals import Install, Rival
from benchmarks.torchvision_stand_in import torchvision_stand_in
from benchmarks.workloads import Fields


def imbalanced_dataset_sampler(fields: Fields, batch_size: int) -> Peer:
    """Return a DataLoader with the sampler."""
    with torchvision_stand_in():
        from torchsampler import ImbalancedDatasetSampler

    sampler = ImbalancedDatasetSampler(Fetched(fields), labels=fields.y.numpy())
    return Peer.iterated("torchsampler", sampled(fields, batch_size, sampler))


# No dependencies: it requires torchvision, which not every build of torch has, and does not use it.
_INSTALL = Install(("torchsampler==0.1.2",), options=("--no-deps",))
RIVALS = (Rival(imbalanced_dataset_sampler, "balanced on average", install=_INSTALL),)
