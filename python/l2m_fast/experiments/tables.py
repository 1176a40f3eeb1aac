"""What the results of a task say in numbers: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2m_fast.experiments.page import Table
from l2m_fast.experiments.paper import FIGURES
from l2m_fast.experiments.results import Clock, Measure, Results, Run
from l2m_fast.experiments.statistics import Floats, first_reach, half_interval, hedges_g, holm, welch

OURS = "learn2mix"
LEVEL = 0.05  # of the tests
NONE = "-"


def over_time(results: Results, measure: Measure) -> Table:
    """Means over seeds with 95 % intervals at parts of the budget in both units, and what the paper reports."""
    clocks: tuple[Clock, ...] = ("epochs", "seconds")
    paper = FIGURES.get(results.task, {}) if measure == "test" else {}
    header = ["method"]
    for clock in clocks:
        unit = "epoch {:.0f}" if clock == "epochs" else "{:.3g} s"
        header += [f"{part} ({unit.format(time)})" for part, time in results.parts(clock).items()]
    header += [f"paper, {part}" for part in paper]
    rows = []
    for name in results.rows("seconds"):
        row = [name]
        for clock in clocks:
            runs = results.rows(clock).get(name)
            row += [
                NONE if runs is None else interval(results, results.sample(runs, measure, clock, time))
                for time in results.parts(clock).values()
            ]
        for of_part in paper.values():
            row.append("{:g} ± {:g}".format(*of_part[name]) if name in of_part else NONE)
        rows.append(row)
    return Table(header, rows)


@dataclass(frozen=True)
class Contrast:
    """Learn2Mix against another method at the end of the budget.

    Attributes:
        rival: The other.
        advantage: How much lower the mean error of Learn2Mix is.
        effect: Hedges' g, positive where Learn2Mix is better; NaN: none.
        p_value: Of Welch's test, Holm-corrected over the rivals; NaN: none.
    """

    rival: str
    advantage: float
    effect: float
    p_value: float

    @property
    def outcome(self) -> str:
        """What it shows: "ahead of", "behind" or "not told apart from"."""
        if not self.p_value < LEVEL:
            return "not told apart from"
        return "ahead of" if self.advantage > 0 else "behind"


# The questions that are tested; each is a family of its own.
QUESTIONS: tuple[tuple[str, Measure, Clock], ...] = (
    ("after the epochs of the budget", "test", "epochs"),
    ("after the seconds of the budget", "test", "seconds"),
    ("worst class, after the epochs", "worst class", "epochs"),
)


def contrasts(results: Results, measure: Measure, clock: Clock) -> list[Contrast]:
    """Returns Learn2Mix against every other; empty where there is nothing to compare."""
    rows = results.rows(clock)
    if OURS not in rows:
        return []
    end = results.horizon[clock]
    errors = {name: results.sample(runs, measure, clock, end) for name, runs in rows.items()}
    ours = errors.pop(OURS)
    corrected = holm(np.array([welch(theirs, ours) for theirs in errors.values()]))
    return [
        Contrast(name, float(theirs.mean() - ours.mean()), hedges_g(theirs, ours), float(p_value))
        for (name, theirs), p_value in zip(errors.items(), corrected, strict=True)
    ]


def contrast_table(results: Results) -> Table:
    """Advantage of Learn2Mix, effect size and corrected p-value for each question and rival."""
    header = ["Learn2Mix against"]
    cells: dict[str, list[str]] = {}
    for i, (question, measure, clock) in enumerate(QUESTIONS):
        header += [f"{question}: advantage", "g", "p"]
        for contrast in contrasts(results, measure, clock):
            row = cells.setdefault(contrast.rival, [contrast.rival] + [NONE] * 3 * i)
            row += [f"{contrast.advantage:+.{2 if results.classifies else 3}{'f' if results.classifies else 'g'}}"]
            row += [NONE if math.isnan(contrast.effect) else f"{contrast.effect:+.2f}", p_text(contrast.p_value)]
    width = len(header)
    return Table(header, [row + [NONE] * (width - len(row)) for row in cells.values()])


def verdicts(results: Results) -> list[str]:
    """Returns a sentence for each question."""
    sentences = []
    for question, measure, clock in QUESTIONS:
        outcomes: dict[str, list[str]] = {"ahead of": [], "not told apart from": [], "behind": []}
        for contrast in contrasts(results, measure, clock):
            outcomes[contrast.outcome].append(contrast.rival)
        said = [f"{outcome} {', '.join(rivals)}" for outcome, rivals in outcomes.items() if rivals]
        sentences.append(f"{question[0].upper()}{question[1:]}, Learn2Mix is {'; '.join(said)}.")
    return sentences


def time_to_accuracy(results: Results) -> Table:
    """Epochs and seconds until the mean test error reaches what the task asks for, and what classical ends with."""
    learned = float(results.record["learned"])
    levels = {f"{_value(results, learned)} (asked for)": learned}
    if "classical" in results.methods:
        final = float(results.sample(results.methods["classical"], "test", "epochs", results.horizon["epochs"]).mean())
        levels[f"{_value(results, final)} (classical at E)"] = final
    header = ["method", *(f"{unit} to {level}" for level in levels for unit in ("epochs", "seconds"))]
    rows = []
    for name, timed in results.rows("seconds").items():
        row = [name]
        for level in levels.values():
            for clock, form in (("epochs", "{:.0f}"), ("seconds", "{:.3g}")):
                runs = results.rows("epochs").get(name) if clock == "epochs" else timed
                reached = (
                    None
                    if runs is None
                    else _reached(results, runs, "epochs" if clock == "epochs" else "seconds", level)
                )
                row.append(NONE if reached is None else form.format(reached))
        rows.append(row)
    return Table(header, rows)


def _reached(results: Results, runs: Sequence[Run], clock: Clock, level: float) -> float | None:
    times, errors = results.curve(runs, "test", clock)
    return first_reach(times, errors.mean(axis=0), level)


def seconds(results: Results) -> Table:
    """Where the time of a run goes, means over seeds."""
    rows = []
    for name, runs in results.methods.items():
        data = float(np.mean([run.data_seconds.sum() for run in runs]))
        compute = float(np.mean([run.compute_seconds.sum() for run in runs]))
        epochs = float(np.mean([len(run.errors) - 1 for run in runs]))
        warm_up = float(np.mean([run.warm_up_seconds for run in runs]))
        rows.append(
            [
                *(name, f"{len(runs)}", f"{epochs:.1f}"),
                *(f"{seconds:.3g}" for seconds in (warm_up, data, compute)),
                *(f"{100 * data / (data + compute):.1f} %", f"{1000 * (data + compute) / epochs:.3g}"),
            ]
        )
    return Table(
        ["method", "seeds", "epochs", "warm-up, s", "data, s", "compute, s", "data of both", "ms an epoch"], rows
    )


def overview(of_tasks: Sequence[Results]) -> Table:
    """One row a task: classical and Learn2Mix at the end of the budget in epochs, the best, and whether it counts."""
    rows = []
    for results in of_tasks:
        end = results.horizon["epochs"]
        errors = {name: results.sample(runs, "test", "epochs", end) for name, runs in results.methods.items()}
        # What is not finite is never the best.
        best = min(errors, key=lambda name: float(np.nan_to_num(errors[name].mean(), nan=math.inf)))
        told = {contrast.rival: contrast.outcome for contrast in contrasts(results, "test", "epochs")}
        rows.append(
            [
                results.task,
                *(interval(results, errors[name]) if name in errors else NONE for name in ("classical", OURS)),
                f"{told['classical']} it" if "classical" in told and len(errors[OURS]) > 1 else NONE,
                f"{best}, {interval(results, errors[best])}",
                {True: "yes", False: "no", None: "classical was not run"}[results.learned()],
            ]
        )
    return Table(
        ["task", "classical at E", "learn2mix at E", "Learn2Mix against classical", "best mean at E", "learned enough"],
        rows,
    )


def interval(results: Results, errors: Floats) -> str:
    """Returns mean ± half the 95 % interval of errors as they are shown; what is not finite is said."""
    lost = int((~np.isfinite(errors)).sum())
    if lost:
        return f"not finite in {lost} of {len(errors)}"
    shown = results.shown(errors)
    mean, half = float(shown.mean()), half_interval(shown)
    decimals = _decimals(results, mean)
    return f"{mean:.{decimals}f}" + ("" if half is None else f" ± {float(half):.{decimals}f}")


def p_text(p_value: float) -> str:
    """Returns a p-value as it is printed."""
    if math.isnan(p_value):
        return NONE
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _value(results: Results, error: float) -> str:
    shown = float(results.shown(np.array(error)))
    return f"{shown:.{_decimals(results, shown)}f}{' %' if results.classifies else ''}"


def _decimals(results: Results, value: float) -> int:
    """One of percents; of squared errors so many that there are three digits."""
    if results.classifies or value == 0 or not math.isfinite(value):
        return 1
    return max(0, 2 - math.floor(math.log10(abs(value))))
