"""Small random substitutes for the data sets in files, with the right shapes, types and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from l2m_experiments import datasets, models
from l2m_experiments.datasets import ImageSet, Reviews, Table
from l2m_experiments.formats import LabeledImages


def fake_images(channels: int, size: int, num_classes: int, rows_per_class: int = 100) -> ImageSet:
    rng = np.random.default_rng(0)

    def labeled(rows: int) -> LabeledImages:
        classes = rng.permutation(np.repeat(np.arange(num_classes), rows))
        return rng.integers(0, 256, (len(classes), channels, size, size), dtype=np.uint8), classes

    return ImageSet(
        labeled(rows_per_class), labeled(rows_per_class // 5), tuple(map(str, range(num_classes))), "random"
    )


def fake_table(rows: int, columns: int, num_classes: int) -> Table:
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(rows) % num_classes)
    return Table(rng.random((rows, columns)), rng.random(rows), classes, tuple(map(str, range(num_classes))), "random")


def fake_reviews(num_words: int, length: int) -> Reviews:
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(1, num_words, (600, length)), np.arange(600) % 2
    ids[:, length // 2 :] = 0
    return Reviews(ids, labels, np.arange(500), np.arange(500, 600), "random")


def use_fake_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace everything that `datasets` reads from files, and the large network."""
    for name, shape in {
        "mnist": (1, 28, 10, 50),
        "fashion_mnist": (1, 28, 10, 50),
        "cifar10": (3, 32, 10, 50),
        "cifar100": (3, 32, 100, 10),
        "tiny_imagenet100": (3, 32, 100, 10),
        "imagenette": (3, 96, 10, 20),
    }.items():
        monkeypatch.setattr(datasets, name, lambda shape=shape: fake_images(*shape))
    monkeypatch.setattr(datasets, "wine", lambda: fake_table(400, 11, 2))
    monkeypatch.setattr(datasets, "housing", lambda: fake_table(800, 8, 4))
    monkeypatch.setattr(datasets, "adult", lambda: (fake_table(300, 12, 2), fake_table(100, 12, 2)))
    monkeypatch.setattr(datasets, "imdb", fake_reviews)
    monkeypatch.setattr(
        models,
        "resnet18",
        lambda num_classes: torch.nn.Sequential(
            torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(27, num_classes)
        ),
    )
