"""The pictures of a report. Each is one column wide, so that it can be read on a telephone too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from l2m_experiments.records import Record
from l2m_experiments.results import OURS, Axis, Measure, TaskResults, errors_at, points_at, positions
from l2m_experiments.statistics import FloatArray, interval
from l2m_experiments.tables import name_of, number, shown

# Okabe and Ito's palette keeps apart for every kind of colour vision (but for its yellow, which white paper swallows); the
# dashes double it.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_WIDTH = 7.0  # inches
_FEW_CLASSES = 12
_PLACES = 300  # of a curve over seconds

Line = tuple[str, str | tuple[int, tuple[float, ...]]]


def lines_of(results: Sequence[TaskResults]) -> dict[str, Line]:
    """Colour and dashes of each method, the same in every picture."""
    methods = dict.fromkeys(method for task in results for method in task.runs)
    count = len(_COLOURS)
    return {method: (_COLOURS[i % count], _DASHES[i // count % len(_DASHES)]) for i, method in enumerate(methods)}


def curves(task: TaskResults, measure: Measure, lines: dict[str, Line]) -> Figure:
    """Mean over seeds with its 95 % band, over each axis; a curve ends where the first run of its method did."""
    kind = task.first.kind
    figure = Figure(
        figsize=(_WIDTH, 0.4 + 3.3 * len(task.axes) + 0.2 * math.ceil(len(task.runs) / 3)), layout="constrained"
    )
    panels = figure.subplots(len(task.axes), 1, squeeze=False)[:, 0]
    for panel, axis in zip(panels, task.axes, strict=True):
        ends = {method: min(positions(run, axis)[-1] for run in runs) for method, runs in task.runs.items()}
        # What is many times slower would squeeze all others into the left edge.
        end = min(max(ends.values()), 2 * task.end(axis))
        seen = []
        for method, runs in task.runs.items():
            until = min(ends[method], end)
            at = np.arange(until + 1) if axis is Axis.EPOCHS else np.linspace(0, until, _PLACES)
            mean, half = interval(np.array([shown(errors_at(run, axis, at, measure), kind) for run in runs]))
            colour, dashes = lines[method]
            ours = method == OURS
            panel.plot(
                at,
                mean,
                color=colour,
                linestyle=dashes,
                label=_plain(method),
                linewidth=2.4 if ours else 1.4,
                zorder=3 if ours else 2,
            )
            panel.fill_between(at, mean - half, mean + half, color=colour, alpha=0.1, linewidth=0)
            seen.append(mean[at >= end / 10])
        _scale(panel, np.concatenate(seen), kind == "classification")
        panel.axvline(task.end(axis), color="0.6", linewidth=1, linestyle=":")
        panel.set(xlabel="epochs" if axis is Axis.EPOCHS else axis.value, ylabel=name_of(measure, kind))
        panel.set_xlim(0, 1.02 * end)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, handlelength=3)
    return figure


def proportions(task: TaskResults) -> Figure | None:
    """Class proportions of the methods that change them, mean over seeds; None where none does."""
    means = {method: _proportions(runs) for method, runs in task.runs.items()}
    moving = {method: mean for method, mean in means.items() if float(np.ptp(mean, axis=0).max()) > 1e-3}
    if not moving:
        return None
    names = task.first.class_names
    columns, few = min(2, len(moving)), len(names) <= _FEW_CLASSES
    rows = math.ceil(len(moving) / columns)
    figure = Figure(figsize=(_WIDTH, 0.6 + 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for panel in panels[len(moving) :]:
        panel.set_visible(False)
    most = max(float(mean.max()) for mean in moving.values())
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for panel, (method, mean) in zip(panels, moving.items(), strict=False):
        panel.set_title(_plain(method), fontsize="medium")
        panel.set_xlabel("epochs")
        if few:
            for k, name in enumerate(names):
                dashes = _DASHES[k % len(_DASHES)]
                panel.plot(100 * mean[:, k], color=colours[k], linestyle=dashes, label=_plain(name))
            panel.set_ylim(0, 105 * most)
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        else:
            image = panel.imshow(
                100 * mean.T,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap="viridis",
                vmin=0,
                vmax=100 * most,
            )
    for panel in panels[::columns]:
        panel.set_ylabel("Share of the batch (%)" if few else "class")
    if few:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(5, len(names)), frameon=False, title="class"
        )
    else:
        figure.colorbar(image, ax=list(panels), label="Share of the batch (%)")
    return figure


def classes(task: TaskResults) -> Figure:
    """Each method's accuracy, or squared error, of each class after E epochs, mean over seeds."""
    kind, names = task.first.kind, task.first.class_names
    means = np.array(
        [np.mean([_class_errors(run, task.epochs) for run in runs], axis=0) for runs in task.runs.values()]
    )
    values, few = shown(means, kind), len(names) <= _FEW_CLASSES
    figure = Figure(figsize=(_WIDTH, 1.2 + 0.32 * len(task.runs) + 0.05 * max(map(len, names))), layout="constrained")
    panel = figure.subplots()
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (1.0, 1.0)
    right_is_better = kind == "classification"
    norm = Normalize(low, high) if right_is_better or low <= 0 else LogNorm(low, high)
    palette = colormaps["viridis" if right_is_better else "viridis_r"].with_extremes(bad="0.85")
    image = panel.imshow(np.ma.masked_invalid(values), aspect="auto", interpolation="nearest", cmap=palette, norm=norm)
    panel.set_yticks(range(len(task.runs)), [_plain(method) for method in task.runs])
    if few:
        turned = 90 if sum(map(len, names)) > 50 else 0
        panel.set_xticks(range(len(names)), [_plain(name) for name in names], rotation=turned)
        for (row, column), value in np.ndenumerate(values):
            text = "-" if math.isnan(value) else f"{value:.1f}" if right_is_better else number(value, kind)
            dark = math.isfinite(value) and float(np.dot(palette(norm(value))[:3], (0.3, 0.59, 0.11))) < 0.55
            panel.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    panel.set_xlabel("class")
    label = "Test accuracy (%)" if right_is_better else "Test mean squared error"
    if few:
        panel.set_title(f"{label} of each class after {task.epochs} epochs", fontsize="medium")
    else:
        figure.colorbar(image, ax=panel, label=label)
    return figure


def _scale(panel: Axes, means: FloatArray, linear: bool) -> None:
    """Shows what happens after the first tenth; where errors fall by orders of magnitude, on a logarithmic scale."""
    finite = means[np.isfinite(means)]
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    if linear or low <= 0:
        margin = 0.05 * (high - low) or 0.5
        panel.set_ylim(low - margin, high + margin)
        return
    panel.set_yscale("log", nonpositive="clip")
    panel.set_ylim(low / 1.05, high * 1.05)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(plain)
    if high < 10 * low:
        panel.yaxis.set_minor_formatter(plain)


def _proportions(runs: Sequence[Record]) -> FloatArray:
    """Mean over runs, `[epochs + 1, K]`, as far as all of them go."""
    ends = min(run.points[-1].epoch for run in runs)
    at = np.arange(ends + 1.0)
    of_runs = [[point.proportions for point in points_at(run, Axis.EPOCHS, at)] for run in runs]
    return np.asarray(np.mean(of_runs, axis=0))


def _class_errors(run: Record, epochs: int) -> FloatArray:
    (point,) = points_at(run, Axis.EPOCHS, np.array([epochs]))
    return np.array(point.class_errors, np.float64)


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # which matplotlib would set as mathematics
