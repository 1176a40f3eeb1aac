"""tf.data: rows shuffled and batched, and one tf.gather a batch, in parallel and ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers import Peer, numpy_pair
from benchmarks.peers.elsewhere import elsewhere
from benchmarks.workloads import Fields


def tf_data(fields: Fields, batch_size: int) -> Peer:
    """Makes a shuffled dataset in TensorFlow's environment."""
    return elsewhere("tf.data", "tensorflow", _shuffled, fields, batch_size)


def sample_from_datasets(fields: Fields, batch_size: int) -> Peer:
    """Makes a dataset that draws every row from the dataset of one of the classes, all equally likely."""
    return elsewhere("tf.data sample_from_datasets", "tensorflow", _sampled, fields, batch_size)


def _shuffled(fields: Fields, batch_size: int) -> Peer:
    """Slices batches of rows out of one permutation an epoch, which is faster than a shuffle buffer of single rows."""
    import tensorflow as tf

    num_rows = len(fields.y)

    def batches_of_rows(_: Any) -> Any:
        order = tf.random.shuffle(tf.range(num_rows))
        return tf.data.Dataset.range(0, num_rows, batch_size).map(lambda start: order[start : start + batch_size])

    return _gathered(fields, tf.data.Dataset.range(1).flat_map(batches_of_rows))


def _sampled(fields: Fields, batch_size: int) -> Peer:
    import tensorflow as tf

    labels = fields.y.numpy()
    rows_by_class = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    parts = [tf.data.Dataset.from_tensor_slices(rows).shuffle(len(rows)).repeat() for rows in rows_by_class]
    rows = tf.data.Dataset.sample_from_datasets(parts, [1 / len(parts)] * len(parts))
    return _gathered(fields, rows.batch(batch_size).take(len(labels) // batch_size))


def _gathered(fields: Fields, batches_of_rows: Any) -> Peer:
    import tensorflow as tf

    x, y = tf.constant(fields.x.numpy()), tf.constant(fields.y.numpy())
    batches = batches_of_rows.map(
        lambda rows: (tf.gather(x, rows), tf.gather(y, rows)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    ).prefetch(tf.data.AUTOTUNE)
    return Peer.iterated("tf.data", batches, numpy_pair)
