"""A small loader, runs of it, and the formats in which its states are saved."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from l2m_fast import Learn2Mix, Loader

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])  # class 2 has no rows
STEPS = 6


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


def through_torch(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FORMATS: dict[str, Callable[[Any], Any]] = {
    "json": lambda state: json.loads(json.dumps(state, allow_nan=False)),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "torch": through_torch,
}
