"""A small task that is learned in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from l2m_experiments.runs import Budget, Options
from l2m_experiments.task import Protocol, Rows, Task, TaskData

CPU = torch.device("cpu")


def data_of(seed: int = 0, sizes: tuple[int, ...] = (60, 30, 10)) -> TaskData:
    """Return classes around distinct points, far enough apart to be learned in seconds."""
    generator = torch.Generator().manual_seed(seed)

    def rows(sizes: tuple[int, ...]) -> Rows:
        classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        inputs = torch.randn(len(classes), 4, generator=generator) * 0.3
        inputs[torch.arange(len(classes)), classes] += 2
        return Rows(inputs, classes, classes)

    return TaskData(rows(sizes), rows((20,) * len(sizes)), tuple(map(str, range(len(sizes)))), "made up")


def without_targets(rows: Rows) -> Rows:
    return replace(rows, targets=None)


def task_of(name: str = "made-up", epochs: int = 5, seconds: float = 0.05, learning_rate: float = 1e-2) -> Task:
    return Task(
        name,
        "classification",
        "three clouds",
        data_of,
        lambda data: torch.nn.Linear(4, len(data.class_names)),
        torch.Tensor.float,
        Protocol(10, learning_rate, 0.1, epochs, seconds),
        20.0,
    )


def options_of(folder: Path, budget: str = "epochs", seeds: int = 2) -> Options:
    return Options("quick", Budget.parse(budget), seeds, CPU, 1, folder)
