"""scikit-learn's handwritten digits, long-tailed 20:1; the demo uses the same data."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from l2m_experiments import datasets, models
from l2m_experiments.imbalance import long_tail, shuffled_rows
from l2m_experiments.presets import Draft, Variant, register
from l2m_experiments.rows import labeled, normalize
from l2m_experiments.task import Protocol, Task, TaskData

_TEST_ROWS = 50  # of each class


@register(
    "digits",
    quick=Variant(Protocol(32, 5e-4, 0.1, 80, 3), learned=15.0),
    paper=Variant(Protocol(32, 1e-3, 0.1, 80, 12), learned=15.0),
)
def digits(draft: Draft) -> Task:
    """Create the task with a small CNN. It is not in the paper."""
    return draft.task(
        "classification",
        "handwritten digits of 8 x 8 pixels, long-tailed 20:1, small CNN",
        load,
        lambda data: models.small_cnn(8, 8, len(data.class_names)),
        partial(normalize, mean=(0.3,), std=(0.38,)),
    )


def load(seed: int) -> TaskData:
    """Load the data of a seed, which draws a test set of 50 rows per class, and a long-tailed training set from the rest.

    The imbalance is 20:1, because 100:1 would leave one image of the rarest class.
    """
    images, labels = datasets.digits()
    largest = int(np.bincount(labels).min()) - _TEST_ROWS
    sizes = long_tail(largest, num_classes=10, imbalance=20)
    shuffled = shuffled_rows(labels, seed)
    test = np.concatenate([rows[:_TEST_ROWS] for rows in shuffled])
    train = np.concatenate([rows[_TEST_ROWS:][:size] for rows, size in zip(shuffled, sizes, strict=True)])
    return TaskData(
        labeled(torch.from_numpy(images[train]), labels[train]),
        labeled(torch.from_numpy(images[test]), labels[test]),
        tuple("0123456789"),
        "scikit-learn's load_digits",
    )
