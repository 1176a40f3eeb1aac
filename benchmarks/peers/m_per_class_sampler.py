"""pytorch-metric-learning's MPerClassSampler: as many rows of every class in every batch."""

from __future__ import annotations

from benchmarks.peers import Peer
from benchmarks.peers.data_loader import sampled
from benchmarks.workloads import Fields


def m_per_class_sampler(fields: Fields, batch_size: int) -> Peer:
    """Makes a DataLoader with the sampler; the batch size has to be a multiple of the number of classes."""
    from pytorch_metric_learning.samplers import MPerClassSampler

    rows_a_class = batch_size // (int(fields.y.max()) + 1)
    sampler = MPerClassSampler(fields.y, rows_a_class, batch_size, length_before_new_iter=len(fields.y))
    return Peer.iterated("MPerClassSampler", sampled(fields, batch_size, sampler))
