"""The reference implementation of Learn2Mix (`l2m_experiments.authors`), with equal proportions."""

from __future__ import annotations

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.rivals import Rival
from benchmarks.workloads import Fields
from l2m_experiments.authors import form_batches


def learn2mix_reference(fields: Fields, batch_size: int) -> Peer:
    """Return the batches of the reference implementation, which has separate tensors for each class."""
    parts = [(fields.x[rows], fields.y[rows]) for rows in (fields.y == label for label in fields.y.unique())]
    proportions = torch.full((len(parts),), 1 / len(parts))
    steps = len(fields.y) // batch_size
    return Peer.iterated("Learn2Mix reference", Epochs(lambda: form_batches(parts, proportions, batch_size, steps)))


RIVALS = (Rival(learn2mix_reference, "balanced in every batch"),)
