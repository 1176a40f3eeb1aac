"""From records to what they say: errors at equal epochs and equal seconds, comparisons, and time to a target.

Everything is computed of errors, of which less is better: percent of wrong classes, or mean squared error. The error of a
model at a time is that of the last point at or before it: a model that is not there yet does not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import groupby
from typing import Literal

import numpy as np

from l2m_experiments.errors import InputError
from l2m_experiments.methods import METHODS
from l2m_experiments.records import Config, Point, Record, differences
from l2m_experiments.statistics import FloatArray, hedges_g, holm, welch

FRACTIONS = (0.25, 0.5, 1.0)  # those of the paper
LEVEL = 0.05  # of a family of comparisons
OURS, BASELINE = "learn2mix", "classical"

Measure = Literal["test_error", "worst_class_error"]
# Where each is compared. The worst class at the end only: the more questions, the less sure is each answer.
ASKED: dict[Measure, tuple[float, ...]] = {"test_error": FRACTIONS, "worst_class_error": (1.0,)}
Verdict = Literal["wins", "ties", "loses", "untested"]


class Axis(Enum):
    """What is equal where methods are compared; the value is its unit in words."""

    EPOCHS = "epochs"
    SECONDS = "seconds of training"
    WARM_UP = "seconds, warm-up counted"


@dataclass(frozen=True)
class Comparison:
    """The subject of a task against another method.

    Attributes:
        other: The other method.
        fraction: Of the axis at which they are compared.
        advantage: Mean error of the other method minus that of the subject; positive: the subject is better.
        effect: Hedges' g of it.
        p_alone: Welch's; NaN: it could not be tested.
        p: The same, corrected by Holm for the family.
        verdict: Of the subject; "ties" where p is not below LEVEL, "untested" where there is none.
    """

    other: str
    fraction: float
    advantage: float
    effect: float
    p_alone: float
    p: float
    verdict: Verdict


@dataclass(frozen=True)
class Reached:
    """When the runs of a method first had a test error at or below a target.

    Attributes:
        runs: All there are.
        reached: Those that ever had.
        epochs: Median over all runs; infinite where most never had.
        seconds: Likewise, of training.
        seconds_with_warm_up: Likewise, warm-up counted.
    """

    runs: int
    reached: int
    epochs: float
    seconds: float
    seconds_with_warm_up: float


@dataclass(frozen=True)
class TaskResults:
    """The runs of one task.

    Attributes:
        name: Of the task.
        runs: By method, in the order of METHODS; those of a method by seed.
    """

    name: str
    runs: dict[str, tuple[Record, ...]]

    @property
    def first(self) -> Record:
        """Any record, for what they agree in."""
        return next(iter(self.runs.values()))[0]

    @cached_property
    def epochs(self) -> int:
        """E: as many as every run reached."""
        return min(run.points[-1].epoch for runs in self.runs.values() for run in runs)

    @cached_property
    def seconds(self) -> float:
        """T: seconds of training that every method filled, by the median of its runs."""
        return min(float(np.median([run.points[-1].seconds for run in runs])) for runs in self.runs.values())

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those that differ: warm-up is counted where that of a method, by its median, is at least a hundredth of T."""
        longest = max(float(np.median([run.warm_up_seconds for run in runs])) for runs in self.runs.values())
        return tuple(Axis) if longest >= self.seconds / 100 else (Axis.EPOCHS, Axis.SECONDS)

    def end(self, axis: Axis) -> float:
        """E or T, where every method is still training."""
        return self.epochs if axis is Axis.EPOCHS else self.seconds

    def errors(self, method: str, axis: Axis, fraction: float, measure: Measure = "test_error") -> FloatArray:
        """Error of each run at a fraction of E or T, `[S]`."""
        at = np.array([fraction * self.end(axis)])
        return np.array([errors_at(run, axis, at, measure)[0] for run in self.runs[method]])

    @cached_property
    def target(self) -> float | None:
        """Mean final test error of classical training; None where it was not run."""
        if BASELINE not in self.runs:
            return None
        return float(np.mean([run.points[-1].test_error for run in self.runs[BASELINE]]))

    @property
    def counts(self) -> bool:
        """Whether classical training learned what was stated beforehand; else no comparison counts."""
        return self.target is not None and self.target <= self.first.learned

    @property
    def subject(self) -> str | None:
        """The method that is compared with all others: Learn2Mix; classical training in a study of variants only."""
        return next((name for name in (OURS, BASELINE) if name in self.runs and len(self.runs) > 1), None)

    def compare(self, axis: Axis, measure: Measure = "test_error") -> tuple[Comparison, ...]:
        """Compares the subject with every other method wherever it is asked; together they are Holm's family."""
        subject = self.subject
        if subject is None:
            return ()
        pairs = [
            (
                other,
                fraction,
                self.errors(other, axis, fraction, measure),
                self.errors(subject, axis, fraction, measure),
            )
            for other in self.runs
            if other != subject
            for fraction in ASKED[measure]
        ]
        alone = [welch(theirs, ours) for _, _, theirs, ours in pairs]
        comparisons = []
        for (other, fraction, theirs, ours), p_alone, p in zip(pairs, alone, map(float, holm(alone)), strict=True):
            advantage = float(theirs.mean() - ours.mean())
            verdict: Verdict = "untested" if math.isnan(p) else "ties"
            if p < LEVEL:
                verdict = "wins" if advantage > 0 else "loses"
            comparisons.append(Comparison(other, fraction, advantage, hedges_g(theirs, ours), p_alone, p, verdict))
        return tuple(comparisons)

    def reached(self, method: str, target: float) -> Reached:
        """When the runs of a method reached a test error."""
        runs = self.runs[method]
        firsts = [next((point for point in run.points if point.test_error <= target), None) for run in runs]

        def median(values: list[float]) -> float:
            return float(np.median(values))

        return Reached(
            len(runs),
            sum(point is not None for point in firsts),
            median([math.inf if point is None else point.epoch for point in firsts]),
            median([math.inf if point is None else point.seconds for point in firsts]),
            median(
                [
                    math.inf if point is None else run.warm_up_seconds + point.seconds
                    for run, point in zip(runs, firsts, strict=True)
                ]
            ),
        )


def positions(run: Record, axis: Axis) -> FloatArray:
    """Where the points of a run lie on an axis, `[P]`."""
    if axis is Axis.EPOCHS:
        return np.array([point.epoch for point in run.points], np.float64)
    warm_up = run.warm_up_seconds if axis is Axis.WARM_UP else 0.0
    return np.array([warm_up + point.seconds for point in run.points])


def points_at(run: Record, axis: Axis, at: FloatArray) -> list[Point]:
    """The last point at or before each place, `[A]`; before training begins point 0."""
    last = np.searchsorted(positions(run, axis), at, side="right") - 1
    return [run.points[i] for i in np.maximum(last, 0)]


def errors_at(run: Record, axis: Axis, at: FloatArray, measure: Measure) -> FloatArray:
    """Error of those points, `[A]`."""
    return np.array([getattr(point, measure) for point in points_at(run, axis, at)], np.float64)


def by_task(records: Sequence[Record]) -> list[TaskResults]:
    """Groups records by task, then method.

    Raises:
        InputError: A run has no epoch or is there twice; or runs differ that are to be compared: those of one task in
            anything but method and seed, or any two in preset, budget or device.
    """
    ordered = sorted(records, key=lambda record: (record.config.task, _place(record.config.method), record.config.seed))
    results = []
    for name, of_task in groupby(ordered, key=lambda record: record.config.task):
        runs = {method: tuple(some) for method, some in groupby(of_task, key=lambda record: record.config.method)}
        results.append(TaskResults(name, runs))
    everywhere = results[0].first.config
    for task in results:
        for method, of_method in task.runs.items():
            for run in of_method:
                _check(run, task.first, everywhere)
            seeds = [run.config.seed for run in of_method]
            if len(set(seeds)) < len(seeds):
                msg = f"{task.name}, {method}: there are two runs of one seed (seeds {seeds}); every run needs its own"
                raise InputError(msg)
    return results


def _check(run: Record, first: Record, everywhere: Config) -> None:
    config = run.config
    name = f"{config.task}, {config.method}, seed {config.seed}"
    if not run.points or run.points[-1].epoch < 1:
        msg = f"{name}: the run has no epoch; every run needs at least one"
        raise InputError(msg)
    wanted = replace(first.config, method=config.method, seed=config.seed)
    shared = replace(config, preset=everywhere.preset, budget=everywhere.budget, device=everywhere.device)
    different = differences(wanted, config) or differences(shared, config)
    for field in ("kind", "description", "source", "class_names", "class_sizes", "test_class_sizes", "learned"):
        if not different and getattr(run, field) != getattr(first, field):
            different = f"{field} {getattr(run, field)!r} (wanted {getattr(first, field)!r})"
    if different:
        msg = f"{name} cannot be compared with the other runs, it was made with {different}; report each folder apart"
        raise InputError(msg)


def _place(method: str) -> tuple[int, list[str | float]]:
    # As the command line lists them, a variant behind what it varies, and variants by their number.
    names = list(METHODS)
    base = max((name for name in names if method.startswith(name)), key=len, default=None)
    parts = re.split(r"(\d+(?:\.\d+)?)", method)
    return (
        len(names) if base is None else names.index(base),
        [float(part) if i % 2 else part for i, part in enumerate(parts)],
    )
