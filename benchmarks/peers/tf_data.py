"""tf.data: shuffled and batched row ids, and one tf.gather per batch, in parallel and prefetched."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers import Peer, numpy_pair
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields


def tf_data(fields: Fields, batch_size: int) -> Peer:
    """Return a dataset of slices of one permutation per epoch, which is faster than a shuffle buffer of single rows."""
    import tensorflow as tf

    num_rows = len(fields.y)

    def batches_of_rows(_: Any) -> Any:
        order = tf.random.shuffle(tf.range(num_rows))
        return tf.data.Dataset.range(0, num_rows, batch_size).map(lambda start: order[start : start + batch_size])

    return _gathered("tf.data", fields, tf.data.Dataset.range(1).flat_map(batches_of_rows))


def sample_from_datasets(fields: Fields, batch_size: int) -> Peer:
    """Return a dataset that draws every row from one of the classes, with equal probabilities."""
    import tensorflow as tf

    labels = fields.y.numpy()
    rows_by_class = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    parts = [tf.data.Dataset.from_tensor_slices(rows).shuffle(len(rows)).repeat() for rows in rows_by_class]
    rows = tf.data.Dataset.sample_from_datasets(parts, [1 / len(parts)] * len(parts))
    batches_of_rows = rows.batch(batch_size).take(len(labels) // batch_size)
    return _gathered("tf.data sample_from_datasets", fields, batches_of_rows)


def _gathered(name: str, fields: Fields, batches_of_rows: Any) -> Peer:
    import tensorflow as tf

    x, y = tf.constant(fields.x.numpy()), tf.constant(fields.y.numpy())
    batches = batches_of_rows.map(
        lambda rows: (tf.gather(x, rows), tf.gather(y, rows)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    ).prefetch(tf.data.AUTOTUNE)
    return Peer.iterated(name, batches, numpy_pair)


# A separate environment: TensorFlow brings threads of its own. The benchmarks need torch there.
_INSTALL = Install(("tensorflow-cpu==2.21.0", "torch"), environment="tensorflow")
RIVALS = (Rival(tf_data, install=_INSTALL), Rival(sample_from_datasets, "balanced on average", install=_INSTALL))
