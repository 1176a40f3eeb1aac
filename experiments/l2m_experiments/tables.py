"""The tables of a report, as text; how they look is the page's business."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from l2m_experiments.methods import METHODS
from l2m_experiments.paper import EPOCHS
from l2m_experiments.records import Record
from l2m_experiments.results import (
    ASKED,
    BASELINE,
    FRACTIONS,
    LEVEL,
    OURS,
    Axis,
    Comparison,
    Measure,
    TaskResults,
    Verdict,
)
from l2m_experiments.statistics import FloatArray, interval
from l2m_experiments.task import Kind

NONE = "-"
_LETTERS = {Axis.EPOCHS: "E", Axis.SECONDS: "T", Axis.WARM_UP: "T with warm-up"}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        about: How to read it.
        header: Of each column.
        rows: Cells of each row, one a column.
    """

    title: str
    about: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float, kind: Kind) -> str:
    """An error, an accuracy or a difference of them: percent to two places, a squared error to three digits."""
    if math.isnan(value):
        return "diverged"
    if kind == "classification":
        return f"{value:.2f}"
    return _digits(value)


def shown(errors: FloatArray, kind: Kind) -> FloatArray:
    """What is shown of errors: accuracies for classification, and else the errors themselves."""
    return 100 - errors if kind == "classification" else errors


def name_of(measure: Measure, kind: Kind) -> str:
    """What is shown of a measure."""
    which = "Test" if measure == "test_error" else "Worst-class"
    return f"{which} accuracy (%)" if kind == "classification" else f"{which} mean squared error"


def overview(results: Sequence[TaskResults]) -> Table:
    """What was run, and which tasks count."""

    def row(task: TaskResults) -> tuple[str, ...]:
        first, kind = task.first, task.first.kind
        seeds = sorted({len(runs) for runs in task.runs.values()})
        final = NONE if task.target is None else number(float(shown(np.array(task.target), kind)), kind)
        bound = number(float(shown(np.array(first.learned), kind)), kind)
        return (
            task.name,
            f"{kind}: {first.description}",
            f"{sum(first.class_sizes)} in {len(first.class_names)} classes",
            f"{len(task.runs)}",
            " to ".join(f"{count}" for count in (seeds if len(seeds) == 1 else (seeds[0], seeds[-1]))),
            f"{task.epochs}",
            f"{_digits(task.seconds)} s",
            f"{final} ({'at least' if kind == 'classification' else 'at most'} {bound})",
            "yes" if task.counts else "NO",
        )

    return Table(
        "What was run",
        "E is the number of epochs that every run reached, T the seconds of training (neither warm-up nor evaluation) that "
        "every method filled. A task counts only if classical training ended with the accuracy or error in brackets, which "
        "was stated before any run: models that learned nothing are not compared.",
        (
            "task",
            "what is learned",
            "training rows",
            "methods",
            "seeds",
            "E",
            "T",
            "classical at the end (stated beforehand)",
            "counts",
        ),
        tuple(row(task) for task in results),
    )


def verdict_counts(results: Sequence[TaskResults]) -> Table | None:
    """How often Learn2Mix wins, ties and loses against each method; None where it is compared in no task that counts."""
    counted = _of_ours(results)
    counts: dict[str, Counter[tuple[Axis, float, str]]] = {}
    for task in counted:
        for axis in Axis:
            for c in task.compare(axis):
                counts.setdefault(c.other, Counter())[axis, c.fraction, c.verdict] += 1
    if not counts:
        return None
    places = [(axis, fraction) for axis in Axis for fraction in FRACTIONS]
    return Table(
        "Learn2Mix: wins / ties / losses / untested over tasks",
        f"In how many of the {len(counted)} tasks that count Learn2Mix has a significantly better, not significantly "
        "different, or significantly worse mean test error than the method of the row: at equal epochs, at equal seconds of "
        "training, and at equal seconds with warm-up. A tie is no proof of equality: few seeds see large differences only. Untested: "
        "a run diverged, or there is no spread between seeds.",
        ("method", *(_of_end(fraction, axis) for axis, fraction in places)),
        tuple(
            (
                other,
                *(" / ".join(f"{of[axis, at, word]}" for word in get_args(Verdict)) for axis, at in places),
            )
            for other, of in counts.items()
        ),
    )


def verdict_matrix(results: Sequence[TaskResults], measure: Measure) -> Table | None:
    """Where Learn2Mix wins, ties and loses at the end; None where it is compared in no task that counts."""
    counted = _of_ours(results)
    verdicts: dict[tuple[str, str], dict[Axis, str]] = {}
    for task in counted:
        for axis in Axis:
            for c in task.compare(axis, measure):
                if c.fraction == 1:
                    verdicts.setdefault((c.other, task.name), {})[axis] = c.verdict

    def cell(verdict: dict[Axis, str]) -> str:
        if len(set(verdict.values())) <= 1:
            return next(iter(verdict.values()), NONE)
        axes = Axis if verdict[Axis.SECONDS] != verdict[Axis.WARM_UP] else (Axis.EPOCHS, Axis.SECONDS)
        return ", ".join(f"{verdict[axis]} at {_LETTERS[axis]}" for axis in axes)

    others = dict.fromkeys(other for other, _ in verdicts)
    if not others:
        return None
    return Table(
        f"Learn2Mix at the end, by task: {'test error' if measure == 'test_error' else 'error of the worst class'}",
        "Its verdict against the method of the row, after E epochs and after T seconds, with warm-up "
        "where that makes a difference; one word where all are the same, a dash where the method was not run.",
        ("method", *(task.name for task in counted)),
        tuple((other, *(cell(verdicts.get((other, task.name), {})) for task in counted)) for other in others),
    )


def errors(task: TaskResults, measure: Measure, axes: Sequence[Axis]) -> Table:
    """Mean and 95 % interval at each place; beside test errors the paper's figures, in which warm-up does not count."""
    kind, places = task.first.kind, _places(measure, axes)
    paper = task.first.paper if measure == "test_error" and Axis.WARM_UP not in axes else {}
    budgets = [f"{fraction:g}E" if fraction < 1 else "E" for fraction in FRACTIONS]
    reported = [budget for budget in budgets if any(method in task.runs for method in paper.get(budget, {}))]

    def row(method: str) -> tuple[str, ...]:
        return (
            method,
            *(_mean(shown(task.errors(method, axis, fraction, measure), kind), kind) for axis, fraction in places),
            *(_of_paper(paper[budget].get(method), kind) for budget in reported),
        )

    return Table(
        f"{name_of(measure, kind)} {_where(axes)}",
        "Mean ± half the 95 % interval over seeds."
        + (" Warm-up is what a method does before its first batch." if Axis.WARM_UP in axes else "")
        + (
            " The paper's columns (arXiv 2412.16482, mean ± as printed) are of its own budget E, seconds for "
            "classification and else epochs, on one RTX 3090 with its own loaders: budget, preset and hardware differ, so "
            "compare the order and the gaps, not the figures."
            if reported
            else ""
        ),
        ("method", *_heads(task, places), *(f"paper, {budget}" for budget in reported)),
        tuple(row(method) for method in task.runs),
    )


def comparisons(task: TaskResults, measure: Measure, axes: Sequence[Axis]) -> Table | None:
    """Verdict, advantage, effect size and p against each method; None where there is nothing to compare."""
    kind = task.first.kind
    of_other: dict[str, list[Comparison]] = {}
    for axis in axes:
        for c in task.compare(axis, measure):
            of_other.setdefault(c.other, []).append(c)
    if not of_other:
        return None
    unit = "points of accuracy" if kind == "classification" else "mean squared error"

    def cell(c: Comparison) -> str:
        if math.isnan(c.advantage):
            return f"{c.verdict}: a run diverged"
        gap = f"{c.verdict}: {'+' if c.advantage >= 0 else '-'}{number(abs(c.advantage), kind)}"
        return gap if math.isnan(c.p) else f"{gap}, g {c.effect:+.1f}, p {_p(c.p)} ({_p(c.p_alone)})"

    return Table(
        f"{task.subject} against each method: {name_of(measure, kind).split(' (')[0].lower()} {_where(axes)}",
        f"How much better {task.subject} is in {unit} (negative: worse), Hedges' g of that, p of Welch's t test after Holm's "
        f"correction for all methods and columns of the same axis, and in brackets before it. {task.subject} wins or loses "
        f"where the corrected p < {LEVEL}, and ties otherwise. Untested: one seed, or no spread between seeds.",
        ("method", *_heads(task, _places(measure, axes))),
        tuple((other, *map(cell, some)) for other, some in of_other.items()),
    )


def time_to_target(task: TaskResults) -> Table | None:
    """When each method reached what classical training ends with; None where that was not run, or diverged."""
    if task.target is None or math.isnan(task.target):
        return None
    kind = task.first.kind
    target = number(float(shown(np.array(task.target), kind)), kind)
    what = f"accuracy of {target} %" if kind == "classification" else f"mean squared error of {target}"

    def time(value: float, form: Callable[[float], str]) -> str:
        return form(value) if math.isfinite(value) else "not reached"

    def row(method: str) -> tuple[str, ...]:
        reached = task.reached(method, task.target or 0.0)
        return (
            method,
            f"{reached.reached} of {reached.runs}",
            time(reached.epochs, lambda value: f"{value:g}"),
            time(reached.seconds, _digits),
            time(reached.seconds_with_warm_up, _digits),
        )

    return Table(
        f"Time to a test {what}",
        f"The target is the mean with which {BASELINE} training ends, so at least about half of its own runs reach it. Given is the "
        "median over all runs of the first epoch and second at which a run is there; not reached: half of the runs or more "
        "never were.",
        ("method", "runs that reached it", "epochs", Axis.SECONDS.value, Axis.WARM_UP.value),
        tuple(row(method) for method in task.runs),
    )


def loader_share(task: TaskResults) -> Table | None:
    """What the loaders of the paper's program are worth here; None where they made no difference, or a method was not run."""
    ours, classical = EPOCHS.get(task.name, (1, 1))
    if ours == classical or not {OURS, BASELINE} <= set(task.runs):
        return None
    kind = task.first.kind

    def between(method: str, fraction: float) -> FloatArray:
        # Between two epochs too, or a few epochs would be rounded by more than the loaders differ.
        at = fraction * task.epochs
        points = [run.points for run in task.runs[method]]
        errors = [np.interp(at, [p.epoch for p in some], [p.test_error for p in some]) for some in points]
        return shown(np.array(errors, np.float64), kind)

    def row(fraction: float) -> tuple[str, ...]:
        slow, fast = between(BASELINE, fraction * classical / ours), between(BASELINE, fraction)
        mixed = between(OURS, fraction)
        seeds = min(len(fast), len(mixed))  # the same ones, and of one seed the gains belong together
        return (
            f"{_of_end(fraction, Axis.EPOCHS)} (epoch {fraction * task.epochs:g})",
            *(_mean(sample, kind) for sample in (slow, fast, mixed)),
            *(_mean(gain, kind) for gain in (fast - slow, mixed[:seeds] - fast[:seeds])),
        )

    return Table(
        "What part of the paper's gain is the loader",
        f"In the same seconds the authors' program trains Learn2Mix for {ours} epochs and classical training, which it gives a slower "
        f"loader, for {classical}. Here, mean ± half the 95 % interval: classical training after {classical} / {ours} of the epochs, "
        "as with their loaders; after all of them, as with equal loaders; and Learn2Mix. The first gain is the loader's, the second "
        "the method's; between two epochs the accuracy is interpolated.",
        ("at", "classical, slower loader", "classical, equal loader", OURS, "gain of the loader", "gain of the method"),
        tuple(map(row, FRACTIONS)),
    )


def costs(task: TaskResults) -> Table:
    """What an epoch costs, and what comes before the first."""

    def median(runs: Iterable[Record], figure: Callable[[Record], float]) -> float:
        return float(np.median([figure(run) for run in runs]))

    def row(method: str) -> tuple[str, ...]:
        runs = task.runs[method]
        data = median(runs, lambda run: run.points[-1].data_seconds / run.points[-1].epoch)
        compute = median(runs, lambda run: run.points[-1].compute_seconds / run.points[-1].epoch)
        whole = median(runs, lambda run: run.points[-1].seconds / run.points[-1].epoch)
        warm_up = median(runs, lambda run: run.warm_up_seconds)
        return (method, *(_digits(1000 * value) for value in (whole, data, compute)), _digits(warm_up))

    return Table(
        "Time of an epoch",
        "Medians over runs. Data: waiting for the next batch. Compute: forward, backward, optimizer, and recording the "
        "losses, which is counted for every method, also where it does not follow them. "
        "Warm-up: what the method does once before its first batch (SMOTE's new rows, the curriculum's first model).",
        ("method", "ms an epoch", "of them data", "of them compute", "warm-up, s"),
        tuple(row(method) for method in task.runs),
    )


def refused() -> Table:
    """The pairs of method and task that make no sense."""
    return Table(
        "Pairs that make no sense",
        "These are refused before anything is trained, so a method may be missing from a task above.",
        ("method", "on", "reason"),
        tuple((name, refusal.where, refusal.reason) for name, make in METHODS.items() for refusal in make().refusals),
    )


def environment(records: Sequence[Record]) -> Table:
    """What the runs were made with; where it differs, every value and of how many runs."""
    names = dict.fromkeys(name for record in records for name in record.environment)

    def cell(name: str) -> str:
        values = Counter(str(record.environment.get(name, "not recorded")) for record in records)
        if len(values) == 1:
            return next(iter(values))
        if len(values) > 4:
            return f"{min(values)} .. {max(values)} ({len(values)} different)"
        return "; ".join(f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in sorted(values.items()))

    config = records[0].config
    return Table(
        "What it was run with",
        "Where runs differ, each value is given with the number of its runs.",
        ("entry", "value"),
        (
            ("preset, budget, device", f"{config.preset}, {config.budget}, {config.device}"),
            *((name, cell(name)) for name in names),
        ),
    )


def differing(records: Sequence[Record]) -> list[str]:
    """Entries of the environment that are not the same in all runs, the date left out."""
    names = dict.fromkeys(name for record in records for name in record.environment)
    return [name for name in names if name != "date" and len({record.environment.get(name) for record in records}) > 1]


def _of_ours(results: Sequence[TaskResults]) -> list[TaskResults]:
    return [task for task in results if task.counts and task.subject == OURS]


def _places(measure: Measure, axes: Sequence[Axis]) -> list[tuple[Axis, float]]:
    return [(axis, fraction) for axis in axes for fraction in ASKED[measure]]


def _where(axes: Sequence[Axis]) -> str:
    return f"at equal {axes[0].value}" if len(axes) == 1 else "at the end"


def _heads(task: TaskResults, places: Sequence[tuple[Axis, float]]) -> tuple[str, ...]:
    def at(axis: Axis, fraction: float) -> str:
        # The last whole epoch, of which the figure is.
        return (
            f"epoch {int(fraction * task.epochs)}" if axis is Axis.EPOCHS else f"{_digits(fraction * task.seconds)} s"
        )

    return tuple(f"{_of_end(fraction, axis)} ({at(axis, fraction)})" for axis, fraction in places)


def _of_end(fraction: float, axis: Axis) -> str:
    return _LETTERS[axis] if fraction == 1 else f"{fraction:g} {_LETTERS[axis]}"


def _mean(sample: FloatArray, kind: Kind) -> str:
    mean, half = (float(value) for value in interval(sample))
    if math.isnan(mean):
        return f"diverged ({int(np.isnan(sample).sum())} of {len(sample)})"
    return number(mean, kind) + ("" if math.isnan(half) else f" ± {number(half, kind)}")


def _of_paper(figure: tuple[float, float] | None, kind: Kind) -> str:
    return NONE if figure is None else f"{number(figure[0], kind)} ± {number(figure[1], kind)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _digits(value: float) -> str:
    """Three digits, without an exponent where one can read it without."""
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
