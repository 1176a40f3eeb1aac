"""pytorch-metric-learning: MPerClassSampler, with the same number of rows of every class in every batch."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import sampled
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields


def m_per_class_sampler(fields: Fields, batch_size: int) -> Peer:
    """Return a DataLoader with the sampler. The batch size must be a multiple of the number of classes."""
    from pytorch_metric_learning.samplers import MPerClassSampler

    rows_per_class = batch_size // (int(fields.y.max()) + 1)
    sampler = MPerClassSampler(fields.y, rows_per_class, batch_size, length_before_new_iter=len(fields.y))
    return Peer.iterated("MPerClassSampler", sampled(fields, batch_size, sampler))


_INSTALL = Install(("pytorch-metric-learning==2.9.0",))
RIVALS = (Rival(m_per_class_sampler, "balanced in every batch", install=_INSTALL),)
