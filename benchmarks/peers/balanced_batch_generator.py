"""imbalanced-learn's balanced batch generator over rows that a RandomOverSampler has drawn."""

from __future__ import annotations

from itertools import islice

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.workloads import SEED, Fields


def balanced_batch_generator(fields: Fields, batch_size: int) -> Peer:
    """Makes the generator, which draws once and repeats the same batches each epoch.

    It over-samples, because with its default, under-sampling, an epoch is as many rows as the rarest class has.
    """
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.tensorflow import balanced_batch_generator as generator

    x, y = fields.x.numpy(), fields.y.numpy()
    flat = x.reshape(len(x), -1)
    batches, steps = generator(flat, y, sampler=RandomOverSampler(), batch_size=batch_size, random_state=SEED)
    return Peer.iterated("imbalanced-learn", Epochs(lambda: islice(batches, steps)), numpy_pair)
