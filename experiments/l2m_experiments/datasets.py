"""The data sets as arrays, each read once a process."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.errors import InputError
from l2m_experiments.files import locate, read_bytes, read_idx
from l2m_experiments.formats import (
    Labelled,
    Labels,
    read_cifar,
    read_image_folders,
    read_jpeg_pack,
    read_pickles,
    read_reviews,
)
from l2m_experiments.imbalance import long_tail, shuffled_rows

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 `[N, channels, height, width]`, with their classes `[N]`; every class is in both sets."""

    train: Labelled
    test: Labelled
    class_names: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Table:
    """Columns, float64 `[N, d]`, with targets `[N]` and the id of the categorical column `[N]`, named by `class_names`."""

    columns: NDArray[np.float64]
    targets: NDArray[np.float64]
    classes: Labels
    class_names: tuple[str, ...]
    source: str


def split(classes: Labels, test_share: float, *, stratified: bool) -> Split:
    """Row ids of training and test set: scikit-learn's split of random state 42, which is the authors'."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(classes)), test_size=test_share, random_state=42, stratify=classes if stratified else None
    )
    return train, test


DIGITS_TEST_ROWS = 50  # of each class


@cache
def digits() -> Labelled:
    """Scikit-learn's bundled handwritten digits: 1,797 images, uint8 `[N, 8, 8]`, and their classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


def digits_class_sizes() -> tuple[int, ...]:
    """Training rows of each class of `split_digits`: long-tailed 20:1; 100:1 would leave the rarest a single image."""
    most = int(np.bincount(digits()[1]).min()) - DIGITS_TEST_ROWS
    return long_tail(most, num_classes=10, imbalance=20)


def split_digits(seed: int) -> Split:
    """Row ids of training and test set: every seed draws its own test set, and its own long tail from the rest."""
    rows = shuffled_rows(digits()[1], seed)
    test = [of_class[:DIGITS_TEST_ROWS] for of_class in rows]
    train = [of_class[DIGITS_TEST_ROWS:][:size] for of_class, size in zip(rows, digits_class_sizes(), strict=True)]
    return np.concatenate(train), np.concatenate(test)


@cache
def mnist() -> ImageSet:
    """MNIST: 60,000 and 10,000 images of 1 x 28 x 28."""
    return _idx_set("mnist", tuple("0123456789"))


@cache
def fashion_mnist() -> ImageSet:
    """Fashion-MNIST: 60,000 and 10,000 images of 1 x 28 x 28."""
    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    return _idx_set("fashion_mnist", tuple(names.split(",")))


def _idx_set(folder: str, class_names: tuple[str, ...]) -> ImageSet:
    def read(prefix: str) -> Labelled:
        images, labels = (locate(f"{folder}/{prefix}-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
        return read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64)

    return ImageSet(read("train"), read("t10k"), class_names, f"{folder}/*-ubyte.gz")


@cache
def cifar10() -> ImageSet:
    """CIFAR-10: 50,000 and 10,000 images of 3 x 32 x 32, from the official tarball or a JPEG pack, which is lossy."""
    path = locate("cifar-10-python.tar.gz", "cifar10_jpeg.npz")
    if path.name.endswith(".npz"):
        return _packed_set(path, "test", f"{path.name} (lossy)")
    train = read_cifar(path, tuple(f"data_batch_{i}" for i in range(1, 6)), "labels")
    names = read_pickles(path, ("batches.meta",))[0]["label_names"]
    return ImageSet(train, read_cifar(path, ("test_batch",), "labels"), tuple(names), path.name)


@cache
def cifar100() -> ImageSet:
    """CIFAR-100: 50,000 and 10,000 images of 3 x 32 x 32, from the official tarball."""
    path = locate("cifar-100-python.tar.gz")
    names = read_pickles(path, ("meta",))[0]["fine_label_names"]
    train, test = (read_cifar(path, (part,), "fine_labels") for part in ("train", "test"))
    return ImageSet(train, test, tuple(names), path.name)


@cache
def tiny_imagenet100() -> ImageSet:
    """100 classes of Tiny ImageNet: 50,000 and 5,000 images of 3 x 32 x 32, as JPEG pack."""
    return _packed_set(locate("tiny_imagenet100_32x32_jpeg.npz"), "val", "tiny_imagenet100_32x32_jpeg.npz")


@cache
def imagenette() -> ImageSet:
    """Imagenette: 9,469 and 3,925 images brought to 3 x 96 x 96, from the official 160-pixel tarball or a JPEG pack."""
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
    """Token ids `[N, length]`, int64, and labels `[N]`; 0 is padding, 1 an unknown word, then by falling frequency."""

    ids: NDArray[np.int64]
    labels: Labels
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    source: str


@cache
def imdb(num_words: int, length: int) -> Reviews:
    """IMDB: all 50,000 labelled reviews, 40,000 of them the training split and 10,000 the test split, stratified.

    Words are lower-case runs of letters, digits and apostrophes; the vocabulary is the `num_words` - 2 most frequent of
    the training split (before it is thinned). The first `length` words of a review are kept.
    """
    path = locate("imdb_reviews.jsonl.xz", "aclImdb_v1.tar.gz")
    texts, labels = read_reviews(path)
    train, test = split(labels, 0.2, stratified=True)
    pattern = re.compile(r"[a-z0-9']+")
    words = [pattern.findall(text.lower().replace("<br />", " ")) or [""] for text in texts]
    counts = Counter(chain.from_iterable(words[row] for row in train))
    # Ties by the alphabet, so that the ids do not depend on the order of the reviews.
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[: num_words - 2]
    id_of = {word: i for i, word in enumerate(vocabulary, start=2)}
    ids = np.zeros((len(words), length), np.int64)
    for row, of_review in zip(ids, words, strict=True):
        first = of_review[:length]
        row[: len(first)] = [id_of.get(word, 1) for word in first]
    return Reviews(ids, labels, train, test, path.name)


@cache
def wine() -> Table:
    """Wine Quality (Cortez et al. 2009): 11 columns, the quality, and the colour as class; 6,497 rows."""
    parts = [_rows(locate(f"tabular/winequality-{colour}.csv"), ";") for colour in ("red", "white")]
    numbers = np.array([list(row.values()) for row in chain(*parts)], float)
    classes = np.repeat(np.arange(2), [len(part) for part in parts])
    return Table(numbers[:, :-1], numbers[:, -1], classes, ("red", "white"), "tabular/winequality-{red,white}.csv")


@cache
def housing() -> Table:
    """California housing (Pace and Barry 1997): 8 columns, the median value in 100,000 dollars, `ocean_proximity`.

    Rows with an empty field (207) and the class ISLAND (5 rows) are left out: 20,428 remain.
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
    """Adult (Becker and Kohavi 1996): training and test set, 32,561 and 16,281 rows; the class is the income.

    Columns: the 6 numeric ones, then 0 or 1 for each value of the others, the missing "?" being a value of its own.
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
