"""imbalanced-learn: its balanced batch generator over rows drawn by a RandomOverSampler."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.rivals import Rival
from benchmarks.workloads import SEED, Fields


def balanced_batch_generator(fields: Fields, batch_size: int) -> Peer:
    """Return the generator, which draws once and repeats the same batches in each epoch.

    It over-samples: with the default, under-sampling, an epoch has only as many rows of a class as the rarest class has.
    The generator takes tables, so images are rows of pixels; the check restores their shape.
    """
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.tensorflow import balanced_batch_generator as generator

    table = fields.x.flatten(1).numpy()
    sampler = RandomOverSampler(random_state=SEED)
    batches, steps = generator(table, fields.y.numpy(), sampler=sampler, batch_size=batch_size, random_state=SEED)

    def pair(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = map(torch.from_numpy, batch)
        return x.view(-1, *fields.x.shape[1:]), y

    return Peer.iterated("imbalanced-learn", Epochs(lambda: islice(batches, steps)), pair)


RIVALS = (Rival(balanced_batch_generator, "balanced on average"),)
