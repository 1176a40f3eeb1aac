"""From a data set to the rows of a task: thinned, cut to the preset's share, scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.datasets import ImageSet
from l2m_experiments.formats import Labels
from l2m_experiments.imbalance import kept, thin
from l2m_experiments.protocols import Setting
from l2m_experiments.task import Rows, TaskData

Pattern = Callable[[Sequence[int]], Sequence[int]]
RowIds = NDArray[np.int64]


def thinned(classes: Labels, pattern: Pattern, share: float, seed: int) -> RowIds:
    """Draws the training rows of a seed: class sizes by the pattern, then the share of each class that a preset uses."""
    sizes = pattern(np.bincount(classes).tolist())
    return thin(classes, kept(sizes, [share] * len(sizes)), np.random.default_rng(seed))


def subset(classes: Labels, share: float) -> RowIds:
    """The share of each class that a preset uses, the same rows for every seed."""
    return thinned(classes, tuple, share, seed=0)


def labelled(inputs: torch.Tensor, classes: Labels) -> Rows:
    """Rows whose target is their class."""
    ids = torch.from_numpy(classes)
    return Rows(inputs, ids, ids)


def image_data(images: ImageSet, pattern: Pattern, setting: Setting, seed: int) -> TaskData:
    """The data of an image task: a training set drawn by the seed, a fixed test set; the target is the class."""
    (train_images, train_classes), (test_images, test_classes) = images.train, images.test
    train = thinned(train_classes, pattern, setting.train_share, seed)
    test = subset(test_classes, setting.test_share)
    return TaskData(
        labelled(torch.from_numpy(train_images[train]), train_classes[train]),
        labelled(torch.from_numpy(test_images[test]), test_classes[test]),
        images.class_names,
        images.source,
    )


def standardised(columns: NDArray[np.float64], by: NDArray[np.float64]) -> torch.Tensor:
    """Returns the columns with the mean and standard deviation of those in `by` taken out, float32; constants become 0."""
    deviation = by.std(axis=0)
    return torch.from_numpy((columns - by.mean(axis=0)) / np.where(deviation == 0, 1, deviation)).float()


def normalised(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Scales uint8 images `[B, C, H, W]` to 0 .. 1 and takes out mean and standard deviation of each channel; float32."""
    means, deviations = _channels(mean, images.device), _channels(std, images.device)
    return images.float().sub_(means).div_(deviations)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Kept on the device: a fresh copy in every step would have the host wait for it.
    return torch.tensor(values, device=device).mul_(255)[:, None, None]
