"""The runs of one task, seen by epochs and by seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from l2m_fast.experiments import records
from l2m_fast.experiments.files import InputError
from l2m_fast.experiments.methods import METHODS
from l2m_fast.experiments.records import Record
from l2m_fast.experiments.statistics import Floats
from l2m_fast.experiments.tasks import TASKS

Clock = Literal["epochs", "seconds"]
Measure = Literal["test", "worst class"]
UNCOUNTED = "curriculum (warm-up not counted)"
_PARTS = {"0.25E": 0.25, "0.5E": 0.5, "E": 1.0}


@dataclass(frozen=True)
class Run:
    """One run, before training and after each epoch.

    Attributes:
        seed: Of the run.
        warm_up_seconds: What the method did before its first batch.
        errors: Test error, percent or mean squared error, `[E + 1]`; NaN where it was not finite.
        class_errors: Of each class, `[E + 1, K]`.
        proportions: In force during the epoch that ended, `[E + 1, K]`.
        data_seconds: Of each epoch, `[E + 1]`, the first 0.
        compute_seconds: Of each epoch, `[E + 1]`, the first 0.
        diverged: Whether the loss was not finite in the end.
    """

    seed: int
    warm_up_seconds: float
    errors: Floats
    class_errors: Floats
    proportions: Floats
    data_seconds: Floats
    compute_seconds: Floats
    diverged: bool

    @staticmethod
    def of(record: Record) -> Run:
        """Takes a run out of its record."""

        def column(name: str) -> Floats:
            return np.array([epoch[name] for epoch in record["epochs"]], dtype=np.float64)

        return Run(
            record["config"]["seed"],
            record["warm_up_seconds"],
            column("test_error"),
            column("test_class_errors"),
            column("proportions"),
            column("data_seconds"),
            column("compute_seconds"),
            record["epochs"][-1]["train_loss"] is None,
        )

    def measured(self, measure: Measure) -> Floats:
        """Returns the test error, or that of the worst class, `[E + 1]`."""
        return self.errors if measure == "test" else self.class_errors.max(axis=1)

    def times(self, clock: Clock) -> Floats:
        """Returns when each state was reached, `[E + 1]`: epochs, or seconds of training after those of the warm-up."""
        if clock == "epochs":
            return np.arange(len(self.errors), dtype=np.float64)
        seconds = self.warm_up_seconds + np.cumsum(self.data_seconds + self.compute_seconds)
        seconds[0] = 0
        return np.asarray(seconds)

    def at(self, measure: Measure, clock: Clock, times: Floats) -> Floats:
        """Returns the error of the newest state at each time; after the last that of the last."""
        return self.measured(measure)[np.searchsorted(self.times(clock), times, side="right") - 1]


@dataclass(frozen=True)
class Results:
    """The runs of a task.

    Attributes:
        record: Of one run, for what is the same in all.
        methods: Runs of each method, by seed; Learn2Mix first.
    """

    record: Record
    methods: dict[str, Sequence[Run]]

    @property
    def task(self) -> str:
        """Its name."""
        return str(self.record["config"]["task"])

    @property
    def classifies(self) -> bool:
        """Whether errors are percents of wrong classes."""
        return bool(self.record["kind"] == "classification")

    def shown(self, errors: Floats) -> Floats:
        """Returns errors as they are shown: as accuracy in percent, or as they are."""
        return 100 - errors if self.classifies else errors

    def name_of(self, measure: Measure) -> str:
        """Returns what is shown."""
        quantity = "accuracy" if self.classifies else "error"
        return f"test {quantity}" if measure == "test" else f"worst-class {quantity}"

    def rows(self, clock: Clock) -> dict[str, Sequence[Run]]:
        """Returns what is compared by a clock: the methods; by seconds the curriculum also without its warm-up."""
        rows = dict(self.methods)
        if clock == "seconds" and "curriculum" in rows:
            rows[UNCOUNTED] = [replace(run, warm_up_seconds=0.0) for run in rows["curriculum"]]
        return rows

    @cached_property
    def horizon(self) -> dict[Clock, float]:
        """The budget E in both units.

        The unit it was not given in: the epochs that every run reached; the mean seconds that classical training took, or
        where there is none those of the fastest method.
        """
        budget = self.record["config"]["budget"]
        fewest = min(len(run.errors) - 1 for runs in self.methods.values() for run in runs)
        mean_seconds = {
            name: float(np.mean([run.times("seconds")[-1] for run in runs])) for name, runs in self.methods.items()
        }
        seconds = mean_seconds.get("classical", min(mean_seconds.values()))
        return {
            "epochs": float(budget.get("epochs", fewest)),
            "seconds": float(budget.get("seconds", seconds)),
        }

    def parts(self, clock: Clock) -> dict[str, float]:
        """Returns the points 0.25E, 0.5E and E; whole epochs, rounded up."""
        points = {name: part * self.horizon[clock] for name, part in _PARTS.items()}
        return {name: float(math.ceil(point)) for name, point in points.items()} if clock == "epochs" else points

    def sample(self, runs: Iterable[Run], measure: Measure, clock: Clock, time: float) -> Floats:
        """Returns the error of each run at a time, `[S]`."""
        return np.concatenate([run.at(measure, clock, np.array([time])) for run in runs])

    def curve(
        self, runs: Sequence[Run], measure: Measure, clock: Clock, most: int | None = None
    ) -> tuple[Floats, Floats]:
        """Returns times `[T]` and the errors of all runs there, `[S, T]`.

        By epochs until the first run ended, by seconds until the last: a run that has ended keeps its last state.

        Args:
            runs: Of one method.
            measure: Which error.
            clock: Unit of the times.
            most: Times at most, evenly spread; None: all at which a run reached a new state.
        """
        times = np.unique(np.concatenate([run.times(clock) for run in runs]))
        end = (min if clock == "epochs" else max)(run.times(clock)[-1] for run in runs)
        times = times[times <= end]
        if most is not None and len(times) > most:
            times = np.linspace(0, end, most)
        return times, np.array([run.at(measure, clock, times) for run in runs])

    def learned(self) -> bool | None:
        """Returns whether the mean test error of classical training reached what the task asks for; None: it was not run."""
        if "classical" not in self.methods:
            return None
        _, errors = self.curve(self.methods["classical"], "test", "epochs")
        return bool((errors.mean(axis=0) <= self.record["learned"]).any())


def read_results(folder: Path) -> list[Results]:
    """Reads the records below a folder.

    Returns:
        The results of each task.

    Raises:
        InputError: There are none, one cannot be read, or those of a task are of different configurations.
    """
    found = records.read_all(folder)
    if not found:
        msg = f"there are no records of runs below {folder}"
        raise InputError(msg)
    tasks: dict[str, dict[Path, Record]] = {}
    for path, record in found.items():
        tasks.setdefault(record["config"]["task"], {})[path] = record
    results = []
    for task in sorted(tasks, key=lambda name: _order(name, tuple(TASKS))):
        first, *_ = of_task = tasks[task].values()
        records.check_alike(tasks[task], first["config"])
        methods: dict[str, list[Run]] = {}
        for record in of_task:
            methods.setdefault(record["config"]["method"], []).append(Run.of(record))
        names = sorted(methods, key=lambda name: _order(name, tuple(METHODS)))
        results.append(Results(first, {name: sorted(methods[name], key=lambda run: run.seed) for name in names}))
    return results


def _order(name: str, known: Sequence[str]) -> tuple[object, ...]:
    """Sorts as the command line has them, variants after what they vary, and numbers by their value."""
    stem = max((other for other in known if name.startswith(other)), key=len, default="")
    pieces = re.split(r"(\d+(?:\.\d+)?)", name[len(stem) :])
    return (
        known.index(stem) if stem else len(known),
        *(float(piece) if i % 2 else piece for i, piece in enumerate(pieces)),
    )
