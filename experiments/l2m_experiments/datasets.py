"""The data sets as arrays; each is read once per process."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.files import locate, read_bytes, read_idx
from l2m_experiments.formats import (
    LabeledImages,
    Labels,
    read_cifar,
    read_image_folders,
    read_jpeg_pack,
    read_pickles,
    read_reviews,
)
from l2m_experiments.user_input import InputError

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 `[N, channels, height, width]`, with their classes `[N]`; both sets have every class.

    See `TaskData.unscored`.
    """

    train: LabeledImages
    test: LabeledImages
    class_names: tuple[str, ...]
    source: str
    unscored: int | None = None


@dataclass(frozen=True)
class Table:
    """Columns, float64 `[N, d]`, with targets `[N]` and ids of the categorical column `[N]`, named by `class_names`."""

    columns: NDArray[np.float64]
    targets: NDArray[np.float64]
    classes: Labels
    class_names: tuple[str, ...]
    source: str


def split(classes: Labels, test_share: float, *, stratified: bool) -> Split:
    """Return the row ids of training and test set: scikit-learn's split with random state 42, as in the authors' code."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(classes)), test_size=test_share, random_state=42, stratify=classes if stratified else None
    )
    return train, test


@cache
def digits() -> LabeledImages:
    """Return scikit-learn's handwritten digits: 1,797 images, uint8 `[N, 1, 8, 8]`, and their classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None], bunch.target.astype(np.int64)


@cache
def mnist() -> ImageSet:
    """Read MNIST: 60,000 and 10,000 images of 1 x 28 x 28."""
    return _idx_set("mnist", lambda name: locate(f"mnist/{name}.gz"), tuple("0123456789"), "mnist/*-ubyte.gz")


@cache
def fashion_mnist() -> ImageSet:
    """Read Fashion-MNIST: 60,000 and 10,000 images of 1 x 28 x 28."""
    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    return _idx_set(
        "fashion_mnist",
        lambda name: locate(f"fashion_mnist/{name}.gz"),
        tuple(names.split(",")),
        "fashion_mnist/*-ubyte.gz",
    )


def idx_folder(folder: Path) -> ImageSet:
    """Read the images in a folder of four IDX files, such as MNIST; classes are named by their numbers.

    Args:
        folder: Folder of `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each gzipped (`.gz`) or not.

    Raises:
        InputError: A file is missing, cut short or not an IDX file, the files do not match, or a class is empty.
    """
    if not folder.is_dir():
        msg = f"{folder} is not a directory"
        raise InputError(msg)

    def find(name: str) -> Path:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
        msg = f"{folder} has neither {name} nor {name}.gz"
        raise InputError(msg)

    return _idx_set(str(folder), find, None, folder.resolve().name)


def _idx_set(origin: str, find: Callable[[str], Path], class_names: tuple[str, ...] | None, source: str) -> ImageSet:
    def read(prefix: str) -> LabeledImages:
        images = read_idx(find(f"{prefix}-images-idx3-ubyte"), ndim=3)
        labels = read_idx(find(f"{prefix}-labels-idx1-ubyte"), ndim=1)
        if len(images) != len(labels) or len(images) == 0:
            msg = (
                f"the {prefix} files of {origin} must have a label for each image, and at least one "
                f"(got {len(images)} images, {len(labels)} labels)"
            )
            raise InputError(msg)
        return images[:, None], labels.astype(np.int64)

    train, test = read("train"), read("t10k")
    shapes = [images.shape[2:] for images, _ in (train, test)]
    if shapes[0] != shapes[1] or min(shapes[0]) < 4:
        msg = f"images of {origin} must have one size of at least 4x4 pixels (got train {shapes[0]}, t10k {shapes[1]})"
        raise InputError(msg)
    num_classes = int(max(train[1].max(), test[1].max())) + 1
    sizes = [np.bincount(labels, minlength=num_classes) for _, labels in (train, test)]
    if num_classes < 2 or not np.all(sizes):
        msg = (
            f"labels of {origin} must cover every class from 0 up, at least two, in both sets "
            f"(got train class sizes {sizes[0].tolist()}, t10k {sizes[1].tolist()})"
        )
        raise InputError(msg)
    return ImageSet(train, test, class_names or tuple(map(str, range(num_classes))), source)


@cache
def cifar10() -> ImageSet:
    """Read CIFAR-10: 50,000 and 10,000 images of 3 x 32 x 32, from the official tarball or a JPEG pack, which is lossy."""
    path = locate("cifar-10-python.tar.gz", "cifar10_jpeg.npz")
    if path.name.endswith(".npz"):
        return _packed_set(path, "test", f"{path.name} (lossy)")
    train = read_cifar(path, tuple(f"data_batch_{i}" for i in range(1, 6)), "labels")
    names = read_pickles(path, ("batches.meta",))[0]["label_names"]
    return ImageSet(train, read_cifar(path, ("test_batch",), "labels"), tuple(names), path.name)


@cache
def cifar100() -> ImageSet:
    """Read CIFAR-100: 50,000 and 10,000 images of 3 x 32 x 32, from the official tarball."""
    path = locate("cifar-100-python.tar.gz")
    names = read_pickles(path, ("meta",))[0]["fine_label_names"]
    train, test = (read_cifar(path, (part,), "fine_labels") for part in ("train", "test"))
    return ImageSet(train, test, tuple(names), path.name)


@cache
def tiny_imagenet100() -> ImageSet:
    """Read 100 classes of Tiny ImageNet: 50,000 and 5,000 images of 3 x 32 x 32, from a JPEG pack."""
    return _packed_set(locate("tiny_imagenet100_32x32_jpeg.npz"), "val", "tiny_imagenet100_32x32_jpeg.npz")


@cache
def imagenette() -> ImageSet:
    """Read Imagenette: 9,469 and 3,925 images resized to 3 x 96 x 96, from the official 160-pixel tarball or a JPEG pack."""
    path = locate("imagenette2-160.tgz", "imagenette_96x96_jpeg.npz")
    if path.name.endswith(".npz"):
        return _packed_set(path, "val", path.name)
    (train, names), (test, _) = (read_image_folders(path, part, 96) for part in ("train", "val"))
    return ImageSet(train, test, names, path.name)


def _packed_set(path: Path, test: str, source: str) -> ImageSet:
    (train, names), (test_set, _) = (read_jpeg_pack(path, part) for part in ("train", test))
    return ImageSet(train, test_set, names, source)


@dataclass(frozen=True)
class Reviews:
    """Token ids `[N, length]`, int64, and labels `[N]`; 0 is padding, 1 an unknown word, other ids rank words by frequency."""

    ids: NDArray[np.int64]
    labels: Labels
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    source: str


@cache
def imdb(num_words: int, length: int) -> Reviews:
    """Read IMDB: all 50,000 labeled reviews, split into 40,000 for training and 10,000 for testing, stratified.

    Words are lower-case sequences of letters, digits and apostrophes. The vocabulary is the `num_words` - 2 most frequent words of
    the training split, before rows are left out. The first `length` words of a review are kept.
    """
    path = locate("imdb_reviews.jsonl.xz", "aclImdb_v1.tar.gz")
    texts, labels = read_reviews(path)
    train, test = split(labels, 0.2, stratified=True)
    pattern = re.compile(r"[a-z0-9']+")
    words = [pattern.findall(text.lower().replace("<br />", " ")) or [""] for text in texts]
    counts = Counter(chain.from_iterable(words[row] for row in train))
    # Ties are broken alphabetically, so that the ids do not depend on the order of the reviews.
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[: num_words - 2]
    id_of = {word: i for i, word in enumerate(vocabulary, start=2)}
    ids = np.zeros((len(words), length), np.int64)
    for row, of_review in zip(ids, words, strict=True):
        first = of_review[:length]
        row[: len(first)] = [id_of.get(word, 1) for word in first]
    return Reviews(ids, labels, train, test, path.name)


@cache
def wine() -> Table:
    """Read Wine Quality (Cortez et al. 2009): 11 columns, the quality, and the color as class; 6,497 rows."""
    parts = [_rows(locate(f"tabular/winequality-{color}.csv"), ";") for color in ("red", "white")]
    numbers = np.array([list(row.values()) for row in chain(*parts)], float)
    classes = np.repeat(np.arange(2), [len(part) for part in parts])
    return Table(numbers[:, :-1], numbers[:, -1], classes, ("red", "white"), "tabular/winequality-{red,white}.csv")


@cache
def housing() -> Table:
    """Read California housing (Pace and Barry 1997): 8 columns, the median value in 100,000 dollars, `ocean_proximity`.

    The 207 rows with an empty field and the 5 rows of class ISLAND are left out; 20,428 remain.
    """
    rows = [
        row
        for row in _rows(locate("tabular/housing.csv"), ",")
        if all(row.values()) and row["ocean_proximity"] != "ISLAND"
    ]
    names, classes = np.unique([row["ocean_proximity"] for row in rows], return_inverse=True)
    numbers = np.array([list(row.values())[:-1] for row in rows], float)
    return Table(
        numbers[:, :-1], numbers[:, -1], classes.astype(np.int64), tuple(names.tolist()), "tabular/housing.csv"
    )


@cache
def adult() -> tuple[Table, Table]:
    """Read Adult (Becker and Kohavi 1996): training and test set, 32,561 and 16,281 rows; the class is the income.

    The columns are the 6 numeric ones, then 0 or 1 for each value of the others; the missing value "?" counts as a value.
    """
    train, test = (
        _adult_rows(locate(f"tabular/adult.{part}.gz", f"tabular/adult.{part}")) for part in ("data", "test")
    )
    numeric = (0, 2, 4, 10, 11, 12)
    values = [
        (field, value) for field in range(14) if field not in numeric for value in sorted({r[field] for r in train})
    ]

    def table(rows: list[list[str]]) -> Table:
        columns = [[float(row[field]) for field in numeric] + [row[f] == value for f, value in values] for row in rows]
        classes = np.array([row[14] == ">50K" for row in rows]).astype(np.int64)
        return Table(np.array(columns, float), classes.astype(float), classes, ("<=50K", ">50K"), "tabular/adult.*")

    return table(train), table(test)


def _adult_rows(path: Path) -> list[list[str]]:
    lines = read_bytes(path).decode().splitlines()
    rows = [line.rstrip(".").split(", ") for line in lines if line and not line.startswith("|")]
    if not rows or any(len(row) != 15 for row in rows):
        msg = f"{path} must have rows of 15 fields (got {sorted({len(row) for row in rows})})"
        raise InputError(msg)
    return rows


def _rows(path: Path, delimiter: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_bytes(path).decode()), delimiter=delimiter))
