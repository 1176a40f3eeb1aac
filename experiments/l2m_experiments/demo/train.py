"""One training run, and the time of one epoch through two loaders: plain torch around `Loader`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from l2m_experiments.demo.data import Split
from l2m_experiments.models import small_cnn
from l2m_fast import Loader, MixingPolicy


@dataclass(frozen=True)
class Run:
    """What one training run left behind.

    Attributes:
        recalls: Test recall of each class after each epoch, percent, `[epochs, K]`. On a balanced test set its mean
            over classes is the test accuracy.
        proportions: Class proportions in force from each epoch on, and after the last, `[epochs + 1, K]`.
    """

    recalls: NDArray[np.float64]
    proportions: NDArray[np.float64]


def train(
    split: Split,
    mixing: MixingPolicy,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    after_epoch: Callable[[], object],
) -> Run:
    """Trains a fresh model with Adam and tests it after every epoch.

    Args:
        split: Training and test set; every class has rows in both.
        mixing: How the proportions of the training batches evolve.
        epochs: Epochs to train.
        batch_size: Rows of a batch.
        seed: Of the initial weights and of the batches.
        after_epoch: Called after each epoch.

    Returns:
        Recalls and proportions over the epochs.
    """
    _, height, width = split.train_images.shape
    num_classes = int(split.train_labels.max()) + 1
    torch.manual_seed(seed)
    model = small_cnn(height, width, num_classes)
    # Convolutions of so few channels take about half the time this way on a CPU.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotations leave it out
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    recalls, proportions = [], []
    with Loader(
        (torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)),
        batch_size=batch_size,
        classes=split.train_labels,
        mixing=mixing,
        seed=seed,
    ) as loader:
        proportions.append(loader.proportions)
        for _ in range(epochs):
            for images, labels in loader:
                losses = functional.cross_entropy(model(_scaled(images)), labels, reduction="none")
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
                loader.record(losses)
            recalls.append(_recalls(model, split, num_classes))
            proportions.append(loader.proportions)
            after_epoch()
    return Run(np.array(recalls), np.array(proportions))


@dataclass(frozen=True)
class EpochTime:
    """Median seconds of one epoch of `batches` batches through each loader, over interleaved `repeats`."""

    batches: int
    repeats: int
    data_loader: float
    loader: float

    @property
    def ratio(self) -> float:
        """How many times as long torch's DataLoader takes."""
        return self.data_loader / self.loader


def time_epoch(split: Split, *, batch_size: int, repeats: int = 20) -> EpochTime:
    """Times the delivery of one epoch of training batches, without a model, both loaders with their default threads.

    Args:
        split: Its training set is loaded, as tensors in memory.
        batch_size: Rows of a batch.
        repeats: Epochs timed through each, by turns, after one that is not counted.
    """
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    # Class mixing delivers full batches only, so the other drops its short last one: the same rows for both.
    rival = DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True, drop_last=True)
    with Loader((images, labels), batch_size=batch_size, classes=labels, seed=0) as loader:
        seconds = [(_seconds(rival), _seconds(loader)) for _ in range(repeats + 1)][1:]
        medians = np.median(seconds, axis=0)
        return EpochTime(len(loader), repeats, data_loader=float(medians[0]), loader=float(medians[1]))


def _seconds(batches: Iterable[object]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def _scaled(images: torch.Tensor) -> torch.Tensor:
    return images.unsqueeze(1).float().div_(255)


@torch.no_grad()
def _recalls(model: nn.Module, split: Split, num_classes: int) -> NDArray[np.float64]:
    # In pieces small enough for the allocator to reuse: larger activations are mapped afresh, which costs page faults.
    pieces = torch.from_numpy(split.test_images).split(250)
    predicted = torch.cat([model(_scaled(piece)).argmax(dim=1) for piece in pieces]).numpy()
    hits = np.bincount(split.test_labels[predicted == split.test_labels], minlength=num_classes)
    return 100 * hits / np.bincount(split.test_labels)
