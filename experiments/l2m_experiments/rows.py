"""Rows of a task made from a data set: drawn, reduced to the preset's share, and scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.datasets import ImageSet
from l2m_experiments.formats import LabeledImages, Labels
from l2m_experiments.imbalance import draw_rows, keep
from l2m_experiments.presets import Variant
from l2m_experiments.task import Rows, TaskData

Pattern = Callable[[Sequence[int]], Sequence[int]]
RowIds = NDArray[np.int64]


def draw(classes: Labels, pattern: Pattern, share: float, seed: int) -> RowIds:
    """Draw the training rows of a seed: class sizes from the pattern, then the preset's share of each class."""
    sizes = pattern(np.bincount(classes).tolist())
    return draw_rows(classes, keep(sizes, [share] * len(sizes)), np.random.default_rng(seed))


def subset(classes: Labels, share: float) -> RowIds:
    """Draw the preset's share of each class, the same rows for every seed."""
    return draw(classes, tuple, share, seed=0)


def labeled(inputs: torch.Tensor, classes: Labels) -> Rows:
    """Create rows whose target is their class."""
    ids = torch.from_numpy(classes)
    return Rows(inputs, ids, ids)


def image_data(images: ImageSet, pattern: Pattern, variant: Variant, seed: int) -> TaskData:
    """Create the data of an image task: a training set drawn from the seed and a fixed test set; the target is the class."""
    (train_images, train_classes), (test_images, test_classes) = images.train, images.test
    train = draw(train_classes, pattern, variant.train_share, seed)
    test = subset(test_classes, variant.test_share)
    return TaskData(
        labeled(torch.from_numpy(train_images[train]), train_classes[train]),
        labeled(torch.from_numpy(test_images[test]), test_classes[test]),
        images.class_names,
        images.source,
        unscored=images.unscored,
    )


def noise_class(images: ImageSet) -> ImageSet:
    """Replace the last class of K by noise: by the images of a K-th of the rows of each other class.

    These rows are drawn at random, the same for every seed, and have no other label. All classes lose about the same share. The
    class of noise is not scored.
    """
    rng = np.random.default_rng(0)
    last = len(images.class_names) - 1

    def relabeled(rows: LabeledImages) -> LabeledImages:
        pixels, classes = rows
        sizes = np.bincount(classes)[:last] // (last + 1)
        noise = draw_rows(classes, sizes.tolist(), rng)
        kept = classes < last
        changed = classes.copy()
        changed[noise] = last
        return pixels[kept], changed[kept]

    names = (*images.class_names[:last], "noise")
    train, test = relabeled(images.train), relabeled(images.test)
    return replace(images, train=train, test=test, class_names=names, unscored=last)


def standardize(columns: NDArray[np.float64], by: NDArray[np.float64]) -> torch.Tensor:
    """Subtract the mean of the columns in `by` and divide by their standard deviation, float32; constants become 0."""
    deviation = by.std(axis=0)
    return torch.from_numpy((columns - by.mean(axis=0)) / np.where(deviation == 0, 1, deviation)).float()


def normalize(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Scale uint8 images `[B, C, H, W]` to 0 .. 1 and normalize each channel by mean and standard deviation; float32."""
    means, deviations = _channels(mean, images.device), _channels(std, images.device)
    return images.float().sub_(means).div_(deviations)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Kept on the device: a copy in every step would block the host.
    return torch.tensor(values, device=device).mul_(255)[:, None, None]
