"""Made-up tasks, and the batches that methods make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.method import Batches, Start
from l2m_experiments.task import Kind, Protocol, Rows, Task, TaskData

SIZES = (40, 20, 10, 6)


def data_of(
    sizes: tuple[int, ...] = SIZES, kind: Kind = "classification", dtype: torch.dtype = torch.float32
) -> TaskData:
    """Return rows in random order; row i has i in its first column, and values around 30 times its class in the others."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    inputs = np.empty((len(classes), 2, 3))
    inputs[:] = 30 * classes[:, None, None] + rng.uniform(0, 20, inputs.shape)
    inputs[:, 0, 0] = np.arange(len(classes))
    ids = torch.from_numpy(classes)
    targets = {"classification": ids, "regression": ids.float() / 7, "reconstruction": None}[kind]
    rows = Rows(torch.from_numpy(inputs).to(dtype), ids, targets)
    return TaskData(rows, rows, tuple(map(str, range(len(sizes)))), "made up")


def task_of(kind: Kind = "classification", batch_size: int = 16, mixing_rate: float = 0.1, epochs: int = 60) -> Task:
    protocol = Protocol(batch_size, 1e-3, mixing_rate, epochs=epochs, seconds=1.0)
    return Task(
        "made-up",
        kind,
        "",
        lambda _: data_of(kind=kind),
        lambda _: torch.nn.Identity(),
        torch.Tensor.float,
        protocol,
        0.0,
    )


def start_of(
    data: TaskData, task: Task, steps: int = 4, seed: int = 0, fit: Callable[[], torch.Tensor] | None = None
) -> Start:
    return Start(data, task, seed, steps, fit or (lambda: torch.arange(len(data.train.classes)).float()))


def counts_of(classes: torch.Tensor, num_classes: int = len(SIZES)) -> NDArray[np.int64]:
    return np.bincount(classes.numpy(), minlength=num_classes)


def epoch_of(batches: Batches, losses: Callable[[torch.Tensor], torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Take the batches of an epoch, and record losses that depend on their classes."""
    taken = []
    for batch in batches:
        batches.record(losses(batch["classes"]))
        taken.append(batch)
    return taken
