"""Made-up records of runs with known results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2m_experiments.records import Config, Point, Record
from l2m_experiments.results import TaskResults, by_task
from l2m_experiments.task import Kind


def run(
    errors: Sequence[float],
    method: str = "learn2mix",
    seed: int = 0,
    *,
    task: str = "made-up",
    kind: Kind = "classification",
    names: Sequence[str] = ("0", "1"),
    seconds: float = 1.0,
    warm_up: float = 0.0,
    learned: float = 30.0,
    paper: dict[str, dict[str, tuple[float, float]]] | None = None,
    environment: dict[str, str | int] | None = None,
    **config: Any,
) -> Record:
    """Return a run with these test errors, the first before training; the last class has twice the error of the first."""
    shares = np.linspace(1, 2, len(names))
    points = tuple(
        Point(
            epoch,
            10 * epoch,
            seconds * epoch,
            0.25 * seconds * epoch,
            0.75 * seconds * epoch,
            error,
            error,
            tuple(error * shares),
            2 * error,
            tuple((shares if method.startswith("learn2mix") and epoch else np.ones(len(names))) / len(names)),
        )
        for epoch, error in enumerate(errors)
    )
    settings: dict[str, Any] = {
        "preset": "quick", "budget": "epochs", "epochs": 4, "seconds": 60.0, "batch_size": 16, "learning_rate": 1e-3,
        "mixing_rate": 0.1, "optimizer": "adam", "device": "cpu", **config,
    }  # fmt: skip
    sizes = tuple(range(2, 2 + len(names)))
    made = environment or {"torch": "2.1", "threads": 2}
    return Record(
        Config(task, method, seed, **settings), kind, "Nothing", "no file", tuple(names), sizes, sizes, learned,
        paper or {}, made, warm_up, points,
    )  # fmt: skip


def only(*records: Record) -> TaskResults:
    """Return the results of runs of one task."""
    (task,) = by_task(records)
    return task


def around(middle: float, seeds: int = 3, spread: float = 0.1) -> list[list[float]]:
    """Return the errors of runs of two epochs that end around a value."""
    return [[90.0, 50.0, middle + spread * (seed - (seeds - 1) / 2)] for seed in range(seeds)]


def runs(method: str, of_seeds: Sequence[Sequence[float]], **more: Any) -> list[Record]:
    """Return one run per seed."""
    return [run(errors, method, seed, **more) for seed, errors in enumerate(of_seeds)]
