"""Results of runs: errors at equal epochs and equal seconds, comparisons of methods, and time to a target.

All results are computed from errors, where less is better: percent of misclassified rows, or mean squared error. The error
at a time is that of the last point at or before it.
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

from l2m_experiments.methods import METHODS
from l2m_experiments.records import Config, Point, Record, differences
from l2m_experiments.statistics import FloatArray, equivalent, hedges_g, holm, not_worse, paired, wilcoxon
from l2m_experiments.user_input import InputError

FRACTIONS = (0.25, 0.5, 1.0)  # as in the paper
LEVEL = 0.05  # significance level of a family of comparisons
RECOMMENDED, OURS, BASELINE = "annealed-corrected", "learn2mix", "classical"
# Methods that are compared with all others, the first that was run on a task, with the rivals for which the experiments
# were planned. Holm's correction is for these together, and for all others together: more comparisons make each of them less
# certain. Variants are compared with the last.
MAIN_RIVALS: dict[str, tuple[str, ...]] = {
    RECOMMENDED: (OURS, "balanced"),
    OURS: (BASELINE, "balanced"),
    BASELINE: (),
}
# Largest differences that do not matter, for the tests that methods are equivalent or not worse.
POINTS, SHARE_OF_ERROR = 1.0, 0.03  # of accuracy; of the rival's mean squared error

Measure = Literal["test_error", "macro_error", "worst_class_error"]
# Fractions of the budget at which methods are compared. The worst class is compared at the end only: each comparison makes
# the others less certain.
COMPARED_AT: dict[Measure, tuple[float, ...]] = {
    "test_error": FRACTIONS,
    "macro_error": FRACTIONS,
    "worst_class_error": (1.0,),
}
Verdict = Literal["wins", "ties", "loses", "untested"]


class Axis(Enum):
    """Quantity that is equal when methods are compared; the value names it with its unit."""

    EPOCHS = "epochs"
    SECONDS = "seconds of training"
    WARM_UP = "seconds including warm-up"


@dataclass(frozen=True)
class Comparison:
    """One method against another: the subject against each other method, or each variant against classical training.

    Attributes:
        method: Method that wins, ties or loses.
        rival: Method it is compared with.
        fraction: Fraction of the axis at which they are compared.
        advantage: Mean error of the rival minus that of the method; positive if the method is better.
        half_width: Half the width of the advantage's 95 % confidence interval by the paired t test, without correction.
        relative: The advantage and its half width as fractions of the rival's mean error.
        effect: Hedges' g of the advantage.
        p_alone: p of the paired t test; NaN if it could not be tested.
        p: The same after Holm's correction for the family.
        p_ranks: p of Wilcoxon's test, without correction.
        p_not_worse: p of the test that the method is worse by at least the margin, without correction.
        p_equivalent: p of the test that the methods differ by at least the margin, without correction.
        verdict: "ties" unless p < LEVEL, "untested" without p.
        other: The one of the two that is not the subject.
    """

    method: str
    rival: str
    fraction: float
    advantage: float
    half_width: float
    relative: tuple[float, float]
    effect: float
    p_alone: float
    p: float
    p_ranks: float
    p_not_worse: float
    p_equivalent: float
    verdict: Verdict
    other: str


@dataclass(frozen=True)
class Reached:
    """When the runs of a method first had a test error at or below a target.

    Attributes:
        runs: Number of runs.
        reached: Number of runs that reached the target.
        epochs: Median epochs over all runs; infinite if most did not reach the target.
        seconds: Median seconds of training, like `epochs`.
        seconds_with_warm_up: Median seconds including warm-up, like `epochs`.
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
        name: Name of the task.
        runs: Runs by method, in the order of METHODS, sorted by seed.
    """

    name: str
    runs: dict[str, tuple[Record, ...]]

    @property
    def first(self) -> Record:
        """First record, for the entries that all of them share."""
        return next(iter(self.runs.values()))[0]

    @cached_property
    def epochs(self) -> int:
        """Number of epochs that every run reached, E."""
        return min(run.points[-1].epoch for runs in self.runs.values() for run in runs)

    @cached_property
    def seconds(self) -> float:
        """Seconds of training that the median run of every method reached, T."""
        return min(float(np.median([run.points[-1].seconds for run in runs])) for runs in self.runs.values())

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Measures that differ: the macro error is the test error if the test set has as many rows of each class."""
        balanced = len(set(self.first.test_class_sizes)) == 1
        return tuple(measure for measure in COMPARED_AT if not (balanced and measure == "macro_error"))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Axes that differ: warm-up has its own if the median warm-up of a method is at least a hundredth of T."""
        longest = max(float(np.median([run.warm_up_seconds for run in runs])) for runs in self.runs.values())
        return tuple(Axis) if longest >= self.seconds / 100 else (Axis.EPOCHS, Axis.SECONDS)

    def end(self, axis: Axis) -> float:
        """Return E or T, up to which every method is still training."""
        return self.epochs if axis is Axis.EPOCHS else self.seconds

    def errors(self, method: str, axis: Axis, fraction: float, measure: Measure = "test_error") -> FloatArray:
        """Return the error of each run at a fraction of E or T, `[S]`."""
        at = np.array([fraction * self.end(axis)])
        return np.array([errors_at(run, axis, at, measure)[0] for run in self.runs[method]])

    @cached_property
    def target(self) -> float | None:
        """Mean final test error of classical training; None if it was not run."""
        if BASELINE not in self.runs:
            return None
        return float(np.mean([run.points[-1].test_error for run in self.runs[BASELINE]]))

    @property
    def valid(self) -> bool:
        """Validity of the comparisons: classical training reached the test error that was required beforehand."""
        return self.target is not None and self.target <= self.first.learned

    @property
    def subject(self) -> str | None:
        """Method that is compared with all others; None if there is none."""
        return next((name for name in MAIN_RIVALS if name in self.runs and len(self.runs) > 1), None)

    @property
    def main_methods(self) -> list[str]:
        """The subject and its main rivals that were run, and classical training; without a subject or main rivals, all."""
        main = MAIN_RIVALS.get(self.subject or BASELINE, ())
        return [method for method in self.runs if not main or method in (self.subject, *main, BASELINE)]

    def compare(self, axis: Axis, measure: Measure = "test_error") -> tuple[Comparison, ...]:
        """Compare the subject with every other method at every fraction, seed by seed."""
        subject = self.subject
        if subject is None:
            return ()
        others = [other for other in self.runs if other != subject and self.common_seeds(subject, other)]
        main = [other for other in others if other in MAIN_RIVALS[subject]]
        compared = {}
        for family in (main, [other for other in others if other not in main]):
            compared.update(self._compare(subject, family, axis, measure))
        return tuple(comparison for other in others for comparison in compared[other])

    def _compare(
        self, subject: str, others: Sequence[str], axis: Axis, measure: Measure
    ) -> dict[str, list[Comparison]]:
        """Compare the subject with other methods, which together are Holm's family."""
        places = [
            (other, *((other, subject) if subject == BASELINE else (subject, other)), fraction)
            for other in others
            for fraction in COMPARED_AT[measure]
        ]
        samples = [
            self._of_common_seeds(rival, method, axis, fraction, measure) for _, method, rival, fraction in places
        ]
        tests = [paired(*sample) for sample in samples]
        corrected = map(float, holm([p for p, _ in tests]))
        comparisons: dict[str, list[Comparison]] = {other: [] for other in others}
        for place, (theirs, ours), (p_alone, half), p in zip(places, samples, tests, corrected, strict=True):
            other, method, rival, fraction = place
            scale, advantage = float(theirs.mean()), float(theirs.mean() - ours.mean())
            verdict: Verdict = "untested" if math.isnan(p) else "ties"
            if p < LEVEL:
                verdict = "wins" if advantage > 0 else "loses"
            relative = (advantage / scale, half / scale) if scale > 0 else (math.nan, math.nan)
            margin = POINTS if self.first.kind == "classification" else SHARE_OF_ERROR * scale
            comparison = Comparison(
                method,
                rival,
                fraction,
                advantage,
                half,
                relative,
                hedges_g(theirs, ours),
                p_alone,
                p,
                wilcoxon(theirs, ours),
                not_worse(theirs, ours, margin),
                equivalent(theirs, ours, margin),
                verdict,
                other,
            )
            comparisons[other].append(comparison)
        return comparisons

    def _of_common_seeds(
        self, first: str, second: str, axis: Axis, fraction: float, measure: Measure
    ) -> tuple[FloatArray, FloatArray]:
        """Return the errors of two methods for the seeds that both have, each `[S]`."""
        both = self.common_seeds(first, second)
        one, other = (
            self.errors(method, axis, fraction, measure)[[run.config.seed in both for run in self.runs[method]]]
            for method in (first, second)
        )
        return one, other

    def common_seeds(self, first: str, second: str) -> set[int]:
        """Return the seeds that both methods have."""
        one, other = ({run.config.seed for run in self.runs[method]} for method in (first, second))
        return one & other

    def reached(self, method: str, target: float) -> Reached:
        """Return when the runs of a method reached a test error."""
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
    """Return the positions of a run's points on an axis, `[P]`."""
    if axis is Axis.EPOCHS:
        return np.array([point.epoch for point in run.points], np.float64)
    warm_up = run.warm_up_seconds if axis is Axis.WARM_UP else 0.0
    return np.array([warm_up + point.seconds for point in run.points])


def points_at(run: Record, axis: Axis, at: FloatArray) -> list[Point]:
    """Return the last point at or before each position, `[A]`; point 0 before training begins."""
    last = np.searchsorted(positions(run, axis), at, side="right") - 1
    return [run.points[i] for i in np.maximum(last, 0)]


def errors_at(run: Record, axis: Axis, at: FloatArray, measure: Measure) -> FloatArray:
    """Return the error at each position, `[A]`."""
    return np.array([getattr(point, measure) for point in points_at(run, axis, at)], np.float64)


def by_task(records: Sequence[Record]) -> list[TaskResults]:
    """Group records by task, then by method.

    Raises:
        InputError: A run has no epoch or occurs twice; or runs cannot be compared: those of one task differ in anything but
            method and seed, or any two differ in preset, budget or device.
    """
    ordered = sorted(records, key=lambda record: (record.config.task, _rank(record.config.method), record.config.seed))
    results = []
    for name, of_task in groupby(ordered, key=lambda record: record.config.task):
        runs = {method: tuple(some) for method, some in groupby(of_task, key=lambda record: record.config.method)}
        results.append(TaskResults(name, runs))
    reference = results[0].first.config
    for task in results:
        for method, of_method in task.runs.items():
            for run in of_method:
                _check(run, task.first, reference)
            seeds = [run.config.seed for run in of_method]
            if len(set(seeds)) < len(seeds):
                msg = f"every run of {task.name}, {method} must have its own seed (got two runs of one seed, seeds {seeds})"
                raise InputError(msg)
    return results


def _check(run: Record, first: Record, reference: Config) -> None:
    """Raise InputError if a run cannot be compared with the first of its task and the reference of all tasks."""
    config = run.config
    name = f"{config.task}, {config.method}, seed {config.seed}"
    if not run.points or run.points[-1].epoch < 1:
        msg = f"{name}: a run must have at least one epoch (got none)"
        raise InputError(msg)
    wanted = replace(first.config, method=config.method, seed=config.seed)
    shared = replace(config, preset=reference.preset, budget=reference.budget, device=reference.device)
    different = differences(wanted, config) or differences(shared, config)
    for field in ("kind", "description", "source", "class_names", "class_sizes", "test_class_sizes", "learned"):
        if not different and getattr(run, field) != getattr(first, field):
            different = f"{field} {getattr(run, field)!r} (wanted {getattr(first, field)!r})"
    if different:
        msg = f"{name} cannot be compared with the other runs: it has {different}; report each folder separately"
        raise InputError(msg)


def _rank(method: str) -> tuple[int, list[str | float]]:
    # In the order of the command line, a variant after its base method, and variants by their number.
    names = list(METHODS)
    base = max((name for name in names if method.startswith(name)), key=len, default=None)
    parts = re.split(r"(\d+(?:\.\d+)?)", method)
    return (
        len(names) if base is None else names.index(base),
        [float(part) if i % 2 else part for i, part in enumerate(parts)],
    )
