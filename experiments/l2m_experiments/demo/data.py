"""Images for the demo: a long-tailed training set and a balanced test set, from digits or from IDX files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2m_experiments import datasets
from l2m_experiments.errors import InputError
from l2m_experiments.files import read_idx
from l2m_experiments.imbalance import long_tail, shuffled_rows

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One draw of training and test set. Images are uint8 `[N, height, width]`, 0 to 255; labels int64 `[N]`."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


@dataclass(frozen=True)
class Source:
    """Where the images come from, and the budget that suits them.

    Attributes:
        name: What to call the data.
        class_sizes: Training rows of each class, largest first; the same for every seed.
        test_rows_per_class: Rows of each class in the test set.
        split: Draws the training and the test set of one seed.
        seeds: Default number of runs of each method.
        epochs: Default budget of a run.
        batch_size: Default rows of a batch.
    """

    name: str
    class_sizes: tuple[int, ...]
    test_rows_per_class: int
    split: Callable[[int], Split]
    seeds: int
    epochs: int
    batch_size: int


def digits() -> Source:
    """Scikit-learn's bundled handwritten digits, 8x8 pixels, 10 classes, thinned 20:1.

    Every seed draws its own test set, 50 rows a class, and its own training set from the rest.
    """
    images, labels = datasets.digits()

    def split(seed: int) -> Split:
        train, test = datasets.split_digits(seed)
        return Split(images[train], labels[train], images[test], labels[test])

    sizes = datasets.digits_class_sizes()
    return Source("digits", sizes, datasets.DIGITS_TEST_ROWS, split, seeds=5, epochs=80, batch_size=32)


def idx(directory: Path) -> Source:
    """MNIST or Fashion-MNIST in their four IDX files, thinned 100:1.

    Every seed draws its own training set; the test set is always the first rows of each class of the test files.

    Args:
        directory: Holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each gzipped (`.gz`) or not.

    Raises:
        InputError: A file is missing, cut short or no IDX file, the files do not fit each other, or a class is empty.
    """
    if not directory.is_dir():
        msg = f"{directory} is not a directory"
        raise InputError(msg)
    images, labels = _images_and_labels(directory, "train")
    test_images, test_labels = _images_and_labels(directory, "t10k")
    if images.shape[1:] != test_images.shape[1:] or min(images.shape[1:]) < 4:
        msg = (
            f"images of {directory} must have one size of at least 4x4 pixels "
            f"(got train {images.shape[1:]}, t10k {test_images.shape[1:]})"
        )
        raise InputError(msg)
    num_classes = int(max(labels.max(), test_labels.max())) + 1
    counts = np.bincount(labels, minlength=num_classes)
    test_counts = np.bincount(test_labels, minlength=num_classes)
    if num_classes < 2 or not counts.all() or not test_counts.all():
        msg = (
            f"labels of {directory} must cover every class from 0 up, at least two, in both sets "
            f"(got train class sizes {counts.tolist()}, t10k {test_counts.tolist()})"
        )
        raise InputError(msg)
    class_sizes = long_tail(int(counts.min()), num_classes, imbalance=100)
    test_rows_per_class = int(test_counts.min())
    test = np.concatenate([np.flatnonzero(test_labels == k)[:test_rows_per_class] for k in range(num_classes)])

    def split(seed: int) -> Split:
        rows = shuffled_rows(labels, seed)
        train = np.concatenate([of_class[:size] for of_class, size in zip(rows, class_sizes, strict=True)])
        return Split(images[train], labels[train], test_images[test], test_labels[test])

    return Source(
        directory.resolve().name,
        class_sizes,
        test_rows_per_class,
        split,
        seeds=3,
        epochs=12,
        batch_size=min(128, sum(class_sizes)),
    )


def _images_and_labels(directory: Path, prefix: str) -> tuple[Images, Labels]:
    images = read_idx(_find(directory, f"{prefix}-images-idx3-ubyte"), ndim=3)
    labels = read_idx(_find(directory, f"{prefix}-labels-idx1-ubyte"), ndim=1)
    if len(images) != len(labels) or len(images) == 0:
        msg = (
            f"the {prefix} files of {directory} must have a label for each image, and at least one "
            f"(got {len(images)} images, {len(labels)} labels)"
        )
        raise InputError(msg)
    return images, labels.astype(np.int64)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            return path
    msg = f"{directory} has neither {name} nor {name}.gz"
    raise InputError(msg)
