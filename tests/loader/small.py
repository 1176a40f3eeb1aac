"""A small loader, its losses and runs of it, and the formats in which its states are saved."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from l2m_fast import Learn2Mix, Loader

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])  # class 2 has no rows
STEPS = 6
SIZES = np.array([20, 12, 0, 8])
START = SIZES / N


def make(**options: Any) -> Loader:
    """Return a loader whose classes are smaller than some quotas, so that rows are held."""
    usual: dict[str, Any] = {
        "seed": 0,
        "batch_size": 6,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "format": "numpy",
    }
    return Loader(np.arange(N), **usual | {"num_threads": 1} | options)


def window_sums(state: dict[str, Any]) -> list[list[float]]:
    """Return the loss sums of each open window and class."""
    return [[math.fsum(terms) for terms in window] for window in state["window_sums"]]


def losses_of(rows: Any) -> Any:
    return np.sqrt(1.0 + np.asarray(rows)) * (CLASSES[np.asarray(rows)] + 1)


def drive(loader: Loader, steps: int) -> list[Any]:
    """Return `steps` batches over as many epochs as needed, and record losses of most."""
    seen: list[Any] = []
    while len(seen) < steps:
        for rows in loader:
            seen.append([loader.epoch, loader.step, rows.tolist(), np.asarray(loader.batch_classes).tolist()])
            if loader.step % 3:
                loader.record(losses_of(rows))
            seen[-1] += [loader.proportions.tolist(), loader.class_losses.tolist().__repr__()]
            if len(seen) == steps:
                break
    return seen


def stepped(proportions: Any, losses: Any, rate: float = 0.5) -> Any:
    """Return proportions after one step of Algorithm 2 of the paper."""
    return np.asarray(proportions) + rate * (np.asarray(losses) / np.sum(losses) - np.asarray(proportions))


def record_means(loader: Loader, *means: float) -> None:
    """Record one loss for each of the classes 0, 1 and 3."""
    loader.record(np.array(means), classes=[0, 1, 3][: len(means)])


class Spy:
    """Policy that keeps its windows, and returns `answer(window)`."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[Any] = []
        self._answer = answer or (lambda proportions: proportions)

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        self.calls.append((window.proportions.tolist(), window.class_losses.tolist(), window.class_sizes.tolist()))
        return self._answer(window.proportions)

    def __repr__(self) -> str:
        return "Spy()"


def through_torch(state: Any) -> Any:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FORMATS: dict[str, Callable[[Any], Any]] = {
    "json": lambda state: json.loads(json.dumps(state, allow_nan=False)),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "torch": through_torch,
}
