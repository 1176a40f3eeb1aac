"""Tables of a report as text, and the CSV file of all results; the page decides on their looks."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from l2m_experiments import cells
from l2m_experiments.methods import METHODS
from l2m_experiments.paper import EPOCHS
from l2m_experiments.records import Record
from l2m_experiments.results import (
    BASELINE,
    COMPARED_AT,
    FRACTIONS,
    LEVEL,
    MAIN_RIVALS,
    OURS,
    POINTS,
    SHARE_OF_ERROR,
    Axis,
    Comparison,
    Measure,
    TaskResults,
)
from l2m_experiments.statistics import FloatArray, bootstrap, interval

_LETTERS = {Axis.EPOCHS: "E", Axis.SECONDS: "T", Axis.WARM_UP: "T with warm-up"}
_MARGINS = (
    f"Equivalent or not worse: by less than {POINTS:g} point of accuracy or {100 * SHARE_OF_ERROR:g} % of the rival's squared error "
    f"(p < {LEVEL} in two, or one, one-sided paired t tests, without correction)."
)
# Columns of the first table: what is compared, after which fraction of the epochs.
LEADING: tuple[tuple[Measure, float], ...] = (("test_error", 0.25), ("test_error", 1.0), ("worst_class_error", 1.0))
_OVER_TASKS: tuple[tuple[Measure, float], ...] = (
    *(("test_error", fraction) for fraction in FRACTIONS),
    ("worst_class_error", 1.0),
)


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: Title.
        about: Explanation of the rows and columns.
        header: Name of each column.
        rows: Cells of each row, one per column.
    """

    title: str
    about: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def leading_methods(task: TaskResults, results: Sequence[TaskResults]) -> list[str]:
    """Return the methods of the first table: of several tasks the main ones, otherwise all."""
    return task.main_methods if len(results) > 1 else list(task.runs)


def headline(results: Sequence[TaskResults]) -> Table:
    """Tabulate who wins where, by how much, and how sure that is: the first table of a report."""
    meanings = [
        f"how much better the method of the row is than {BASELINE}"
        if subject == BASELINE
        else f"how much better {subject} is than the method of the row"
        for subject in MAIN_RIVALS
        if subject in {task.subject for task in results}
    ]

    def rows(task: TaskResults) -> Iterator[tuple[str, ...]]:
        kind = task.first.kind
        gaps: dict[tuple[str, Measure, float], Comparison] = {}
        for measure in task.measures:
            for c in task.compare(Axis.EPOCHS, measure):
                gaps[c.other, measure, c.fraction] = c
        name = f"{task.name}, {'%' if kind == 'classification' else 'MSE'}"
        for i, method in enumerate(leading_methods(task, results)):
            texts = []
            for measure, fraction in LEADING:
                texts.append(cells.mean(cells.shown(task.errors(method, Axis.EPOCHS, fraction, measure), kind), kind))
                texts.append(cells.gap(gaps.get((method, measure, fraction)), kind, task.valid).removeprefix("ties: "))
            yield ("" if i else name, method, *texts)

    return Table(
        "Who wins where, by how much, and how sure that is",
        "Accuracy in % or mean squared error (MSE) at 25 % and 100 % of the epochs, mean over seeds ± half its 95 % interval. "
        + (f"Advantage: {', or '.join(meanings)} (negative: worse), ± half its 95 % interval. " if meanings else "")
        + f"Significant differences are marked as wins or loses: p < {LEVEL} in a paired t test over the seeds, two-sided, after Holm's "
        f"correction for {_families(results, 'all fractions of the task')}. {_MARGINS} "
        "With few seeds only large differences are significant, so the others are no evidence that methods are equal.",
        (
            *("task", "method"),
            *(title for place in LEADING for title in (_column(*place), "advantage")),
        ),
        tuple(row for task in results for row in rows(task)),
    )


def over_tasks(results: Sequence[TaskResults]) -> Table | None:
    """Tabulate the mean advantage over tasks of the method that is compared with all others; None for fewer than two tasks."""
    relative: dict[tuple[str, str], dict[tuple[Measure, float], list[float]]] = {}
    for task in results:
        for measure in dict.fromkeys(measure for measure, _ in _OVER_TASKS) if task.valid else ():
            for c in task.compare(Axis.EPOCHS, measure):
                places = relative.setdefault((c.method, c.rival), {})
                places.setdefault((measure, c.fraction), []).append(100 * c.relative[0])

    def cell(values: Sequence[float]) -> str:
        low, high = bootstrap(np.array(values))
        return "diverged" if math.isnan(low) else f"{np.mean(values):+.1f} ({low:+.1f} .. {high:+.1f})"

    rows = [
        (method, rival, str(len(of_pair["test_error", 1.0])), *(cell(of_pair[place]) for place in _OVER_TASKS))
        for (method, rival), of_pair in relative.items()
        if len(of_pair["test_error", 1.0]) > 1
    ]
    if not rows:
        return None
    return Table(
        "Over all tasks",
        "Advantage in percent of the rival's error (negative: worse), mean over the tasks on which both were run, every task with "
        "the same weight; in parentheses the 95 % interval by the bootstrap over tasks, which is too narrow for few tasks.",
        (
            *("method", "rival", "tasks"),
            *(_column(*place) for place in _OVER_TASKS),
        ),
        tuple(rows),
    )


def findings(results: Sequence[TaskResults], measure: Measure, axis: Axis) -> str | None:
    """Summarize all significant differences in a paragraph; None if nothing is compared in a task with valid comparisons."""
    compared = [(task.name, c) for task in results if task.valid for c in task.compare(axis, measure)]
    if not compared:
        return None
    count = Counter(c.verdict for _, c in compared)
    what = "Test error" if measure == "test_error" else "Error of the worst class"
    text = (
        f"{what} at equal {axis.value}, all methods: {len(compared)} comparisons, "
        f"{count['wins']} wins, {count['loses']} losses, {count['ties']} ties"
        + (f", {count['untested']} untested." if count["untested"] else ".")
    )
    for verdict, word, preposition in (("wins", "Wins", "over"), ("loses", "Losses", "to")):
        places: dict[tuple[str, str], dict[str, list[str]]] = {}
        for task, c in compared:
            if c.verdict == verdict:
                end = _of_end(c.fraction, Axis.SECONDS if axis is Axis.WARM_UP else axis)
                places.setdefault((c.method, c.rival), {}).setdefault(task, []).append(end)
        methods: dict[str, list[str]] = {}
        for (method, rival), tasks in places.items():
            listed = ", ".join(f"{task} ({cells.join(ends)})" for task, ends in tasks.items())
            methods.setdefault(f"{preposition} {rival} on {listed}", []).append(method)
        if methods:
            text += f" {word}: {'; '.join(f'{cells.join(some)} {against}' for against, some in methods.items())}."
    return text


def overview(results: Sequence[TaskResults]) -> Table:
    """Tabulate what was run, and which tasks have valid comparisons."""

    def row(task: TaskResults) -> tuple[str, ...]:
        first, kind = task.first, task.first.kind
        seeds = sorted({len(runs) for runs in task.runs.values()})
        final = (
            cells.NONE if task.target is None else cells.number(float(cells.shown(np.array(task.target), kind)), kind)
        )
        bound = cells.number(float(cells.shown(np.array(first.learned), kind)), kind)
        return (
            task.name,
            f"{kind}: {first.description}",
            f"{sum(first.class_sizes)} in {len(first.class_names)} classes",
            f"{len(task.runs)}",
            " to ".join(f"{count}" for count in (seeds if len(seeds) == 1 else (seeds[0], seeds[-1]))),
            f"{task.epochs}",
            f"{cells.digits(task.seconds)} s",
            f"{final} ({'at least' if kind == 'classification' else 'at most'} {bound})",
            "yes" if task.valid else "NO",
        )

    return Table(
        "What was run",
        "E is the number of epochs that every run reached, T the seconds of training (without warm-up and evaluation) that "
        "the median run of every method reached. The comparisons of a task are valid only if classical training ended with the "
        "accuracy or error in parentheses, which was fixed beforehand: models that learned nothing are not compared.",
        (
            "task",
            "description",
            "training rows",
            "methods",
            "seeds",
            "E",
            "T",
            "classical at the end (required)",
            "valid",
        ),
        tuple(row(task) for task in results),
    )


def summary(studies: Mapping[str, Sequence[TaskResults]]) -> str:
    """Return all means and comparisons as CSV: one row per study, task, method, measure, axis and fraction."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            *("study", "task", "method", "measure", "axis", "fraction", "position", "runs", "mean", "half_width"),
            *(
                "compared",
                "against",
                "advantage",
                "advantage_half_width",
                "hedges_g",
                "p",
                "p_holm",
                "p_wilcoxon",
                "verdict",
            ),
        )
    )
    for study, results in studies.items():
        for task in results:
            for measure in task.measures:
                for axis in task.axes:
                    writer.writerows((study, task.name, *row) for row in _summary_rows(task, measure, axis))
    return text.getvalue()


def _summary_rows(task: TaskResults, measure: Measure, axis: Axis) -> Iterator[tuple[str, ...]]:
    kind = task.first.kind
    of_other = {(c.other, c.fraction): c for c in task.compare(axis, measure)}
    for method, runs in task.runs.items():
        for fraction in COMPARED_AT[measure]:
            mean, half = interval(cells.shown(task.errors(method, axis, fraction, measure), kind))
            c = of_other.get((method, fraction))
            means = (fraction, fraction * task.end(axis), len(runs), float(mean), float(half))
            pair, tests, verdict = (("", ""), (math.nan,) * 6, "")
            if c is not None:
                pair, tests = (c.method, c.rival), (c.advantage, c.half_width, c.effect, c.p_alone, c.p, c.p_ranks)
                verdict = c.verdict if task.valid else "not valid"
            values = [["" if math.isnan(value) else f"{value:.5g}" for value in some] for some in (means, tests)]
            yield (method, cells.name_of(measure, kind), axis.value, *values[0], *pair, *values[1], verdict)


def errors(task: TaskResults, measure: Measure, axes: Sequence[Axis]) -> Table:
    """Tabulate means with 95 % intervals; test errors beside the figures of the paper, which do not include warm-up."""
    kind, places = task.first.kind, _places(measure, axes)
    paper = task.first.paper if measure == "test_error" and Axis.WARM_UP not in axes else {}
    budgets = [f"{fraction:g}E" if fraction < 1 else "E" for fraction in FRACTIONS]
    reported = [budget for budget in budgets if any(method in task.runs for method in paper.get(budget, {}))]

    def row(method: str) -> tuple[str, ...]:
        return (
            method,
            *(
                cells.mean(cells.shown(task.errors(method, axis, fraction, measure), kind), kind)
                for axis, fraction in places
            ),
            *(cells.of_paper(paper[budget].get(method), kind) for budget in reported),
        )

    return Table(
        f"{cells.name_of(measure, kind)} {_where(axes)}",
        "Mean ± half the 95 % interval over seeds."
        + (" Warm-up is the work of a method before its first batch." if Axis.WARM_UP in axes else "")
        + (
            " The columns of the paper (arXiv 2412.16482, mean ± as printed) refer to its own budget E, in seconds for "
            "classification and in epochs otherwise, on one RTX 3090 with its own loaders. Budget, preset and hardware differ, so "
            "compare the order and the gaps, not the values."
            if reported
            else ""
        ),
        ("method", *_heads(task, places), *(f"paper, {budget}" for budget in reported)),
        tuple(row(method) for method in task.runs),
    )


def comparisons(task: TaskResults, measure: Measure, axes: Sequence[Axis]) -> Table | None:
    """Tabulate verdict, advantage, effect size and p for each method; None if nothing is compared."""
    kind = task.first.kind
    of_other: dict[str, list[Comparison]] = {}
    for axis in axes:
        for c in task.compare(axis, measure):
            of_other.setdefault(c.other, []).append(c)
    if not of_other:
        return None
    unit = "points of accuracy" if kind == "classification" else "mean squared error"
    subject = task.subject
    pairing = f"each method against {subject}" if subject == BASELINE else f"{subject} against each method"

    def cell(c: Comparison) -> str:
        gap = cells.gap(c, kind)
        return (
            gap
            if math.isnan(c.p)
            else f"{gap}, g {c.effect:+.1f}, p {cells.p_value(c.p)} ({cells.p_value(c.p_alone)}, {cells.p_value(c.p_ranks)})"
        )

    return Table(
        f"{pairing[0].upper()}{pairing[1:]}: {cells.name_of(measure, kind).split(' (')[0].lower()} {_where(axes)}",
        f"Advantage in {unit} (negative: worse) ± half its 95 % interval, Hedges' g, and p of the paired t test "
        f"after Holm's correction for {_families([task], 'all columns of the same axis')}, in parentheses before it and "
        f"by Wilcoxon's signed-rank test. Wins and losses have a corrected p < {LEVEL}. {_MARGINS} Untested: one seed, or no spread between seeds.",
        ("method", *_heads(task, _places(measure, axes))),
        tuple((other, *map(cell, some)) for other, some in of_other.items()),
    )


def time_to_target(task: TaskResults) -> Table | None:
    """Tabulate when each method reached the final error of classical training; None if that was not run or diverged."""
    if task.target is None or math.isnan(task.target):
        return None
    kind = task.first.kind
    target = cells.number(float(cells.shown(np.array(task.target), kind)), kind)
    what = f"accuracy of {target} %" if kind == "classification" else f"mean squared error of {target}"

    def time(value: float, form: Callable[[float], str]) -> str:
        return form(value) if math.isfinite(value) else "not reached"

    def row(method: str) -> tuple[str, ...]:
        reached = task.reached(method, task.target or 0.0)
        return (
            method,
            f"{reached.reached} of {reached.runs}",
            time(reached.epochs, lambda value: f"{value:g}"),
            time(reached.seconds, cells.digits),
            time(reached.seconds_with_warm_up, cells.digits),
        )

    return Table(
        f"Time to a test {what}",
        f"The target is the mean final result of {BASELINE} training, so about half of its own runs reach it. Medians over all "
        "runs of the first epoch and second at which a run reached the target; not reached: half of the runs or more never did.",
        ("method", "runs that reached it", "epochs", Axis.SECONDS.value, Axis.WARM_UP.value),
        tuple(row(method) for method in task.runs),
    )


def loader_share(task: TaskResults) -> Table | None:
    """Split the paper's gain into loader and method; None if its loaders are equally fast or a method was not run."""
    ours, classical = EPOCHS.get(task.name, (1, 1))
    if ours == classical or not {OURS, BASELINE} <= set(task.runs):
        return None
    kind = task.first.kind

    seeds = task.common_seeds(OURS, BASELINE)
    if not seeds:
        return None

    def between(method: str, fraction: float) -> FloatArray:
        # Interpolate: with few epochs, rounding to one would change more than the loaders differ.
        at = fraction * task.epochs
        points = [run.points for run in task.runs[method] if run.config.seed in seeds]
        errors = [np.interp(at, [p.epoch for p in some], [p.test_error for p in some]) for some in points]
        return cells.shown(np.array(errors, np.float64), kind)

    def row(fraction: float) -> tuple[str, ...]:
        slow, fast = between(BASELINE, fraction * classical / ours), between(BASELINE, fraction)
        mixed = between(OURS, fraction)
        return (
            f"{_of_end(fraction, Axis.EPOCHS)} (epoch {fraction * task.epochs:g})",
            *(cells.mean(sample, kind) for sample in (slow, fast, mixed)),
            *(cells.mean(gain, kind) for gain in (fast - slow, mixed - fast)),
        )

    return Table(
        "How much of the paper's gain comes from the loader",
        f"In the same time, the authors' program trains Learn2Mix for {ours} epochs and classical training, which uses a slower "
        f"loader, for {classical}. Mean ± half the 95 % interval: classical training after {classical} / {ours} of the epochs, "
        "as with their loaders; after all epochs, as with equal loaders; and Learn2Mix. The first gain is due to the loader, the "
        "second to the method. Accuracies between two epochs are interpolated.",
        ("at", "classical, slower loader", "classical, equal loader", OURS, "gain of the loader", "gain of the method"),
        tuple(map(row, FRACTIONS)),
    )


def costs(task: TaskResults) -> Table:
    """Tabulate the time of an epoch and of the warm-up."""

    def median(runs: Iterable[Record], figure: Callable[[Record], float]) -> float:
        return float(np.median([figure(run) for run in runs]))

    def row(method: str) -> tuple[str, ...]:
        runs = task.runs[method]
        data = median(runs, lambda run: run.points[-1].data_seconds / run.points[-1].epoch)
        compute = median(runs, lambda run: run.points[-1].compute_seconds / run.points[-1].epoch)
        whole = median(runs, lambda run: run.points[-1].seconds / run.points[-1].epoch)
        warm_up = median(runs, lambda run: run.warm_up_seconds)
        return (method, *(cells.digits(1000 * value) for value in (whole, data, compute)), cells.digits(warm_up))

    return Table(
        "Time of an epoch",
        "Medians over runs. Data: waiting for the next batch. Compute: forward, backward, optimizer step, and recording the "
        "losses, which every method does, even if it does not use them. Warm-up: work before the first batch (the synthetic rows "
        "of SMOTE, the first model of the curriculum).",
        ("method", "epoch, ms", "data, ms", "compute, ms", "warm-up, s"),
        tuple(row(method) for method in task.runs),
    )


def refused() -> Table:
    """Tabulate the combinations of method and task that are refused."""
    return Table(
        "Refused combinations",
        "These are refused before training, so a method may be missing from a task above.",
        ("method", "task", "reason"),
        tuple((name, refusal.where, refusal.reason) for name, make in METHODS.items() for refusal in make().refusals),
    )


def environment(records: Sequence[Record]) -> Table:
    """Tabulate the environment of the runs, with the number of runs for each value that differs."""
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
        "Environment",
        "Where runs differ, each value is followed by the number of its runs.",
        ("entry", "value"),
        (
            ("preset, budget, device", f"{config.preset}, {config.budget}, {config.device}"),
            *((name, cell(name)) for name in names),
        ),
    )


def differing(records: Sequence[Record]) -> list[str]:
    """Return the entries of the environment that differ between runs, except the date."""
    names = dict.fromkeys(name for record in records for name in record.environment)
    return [name for name in names if name != "date" and len({record.environment.get(name) for record in records}) > 1]


def _families(results: Sequence[TaskResults], places: str) -> str:
    """Name what Holm's correction is for."""
    rivals = dict.fromkeys(rival for task in results for rival in MAIN_RIVALS[task.subject or BASELINE])
    if not rivals:
        return f"all methods and {places}"
    return f"the main rivals, {cells.join([*rivals])}, and {places} (and for all other methods together)"


def _column(measure: Measure, fraction: float) -> str:
    return f"{'test' if measure == 'test_error' else 'worst class'}, {100 * fraction:g} %"


def _places(measure: Measure, axes: Sequence[Axis]) -> list[tuple[Axis, float]]:
    return [(axis, fraction) for axis in axes for fraction in COMPARED_AT[measure]]


def _where(axes: Sequence[Axis]) -> str:
    return f"at equal {axes[0].value}" if len(axes) == 1 else "at the end"


def _heads(task: TaskResults, places: Sequence[tuple[Axis, float]]) -> tuple[str, ...]:
    def at(axis: Axis, fraction: float) -> str:
        # Epochs are rounded down, as the last point at or before them is taken.
        return (
            f"epoch {int(fraction * task.epochs)}"
            if axis is Axis.EPOCHS
            else f"{cells.digits(fraction * task.seconds)} s"
        )

    return tuple(f"{_of_end(fraction, axis)} ({at(axis, fraction)})" for axis, fraction in places)


def _of_end(fraction: float, axis: Axis) -> str:
    return _LETTERS[axis] if fraction == 1 else f"{fraction:g} {_LETTERS[axis]}"
