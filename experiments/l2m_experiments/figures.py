"""Figures of a report; each has one panel, or one row of panels, per task."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image

from l2m_experiments.cells import number, shown
from l2m_experiments.records import Record
from l2m_experiments.results import BASELINE, MAIN_RIVALS, Axis, Measure, TaskResults, errors_at, points_at, positions
from l2m_experiments.statistics import FloatArray, interval
from l2m_experiments.tables import LEADING, leading_methods

# The palette of Okabe and Ito is safe for color-blind readers (without its yellow, which is too light on white). Dashes
# tell apart methods of the same color.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_WIDTH = 10.0  # inches, 800 pixels
_FEW_CLASSES = 12
_OTHERS = "other methods"
_PLACES = 200  # positions of a curve over seconds
_CURVES: dict[str, tuple[Measure, Axis]] = {
    "Test set": ("test_error", Axis.EPOCHS),
    "Test set, over time": ("test_error", Axis.WARM_UP),
    "Worst class": ("worst_class_error", Axis.EPOCHS),
}

Line = tuple[str, str | tuple[int, tuple[float, ...]]]


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file with 36 colors, which is a quarter of the size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    with Image.open(drawn) as image:
        colors = image.convert("RGB").quantize(36, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colors.save(small, format="png", optimize=True)
    return small.getvalue()


def lines_of(results: Sequence[TaskResults]) -> dict[str, Line]:
    """Return the color and dashes of each method, the same in every figure."""
    methods = dict.fromkeys(method for task in results for method in task.runs)
    count = len(_COLORS)
    return {method: (_COLORS[i % count], _DASHES[i // count % len(_DASHES)]) for i, method in enumerate(methods)}


def overview(results: Sequence[TaskResults], lines: dict[str, Line]) -> Figure | None:
    """Draw the advantages of the first table as percent of the rival's error; None if nothing is compared."""
    rows: list[tuple[TaskResults, str]] = []  # a row without a method is the name of its task
    for task in results:
        others = [method for method in leading_methods(task, results) if method != task.subject]
        if task.subject is not None and others:
            rows += [(task, ""), *((task, other) for other in others)]
    if not rows:
        return None
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.2 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(LEADING), sharey=True)
    for panel, (measure, fraction) in zip(panels, LEADING, strict=True):
        compared = {
            (task.name, c.other): c
            for task in results
            for c in task.compare(Axis.EPOCHS, measure)
            if c.fraction == fraction and math.isfinite(c.relative[0])
        }
        leftmost = 0.0
        for row, (task, method) in enumerate(rows):
            if c := compared.get((task.name, method)):
                advantage, half = (100 * value for value in c.relative)
                color = lines[method][0]
                fill = color if c.verdict in ("wins", "loses") and task.valid else "white"
                panel.errorbar(advantage, row, xerr=half, color=color, fmt="o", mfc=fill, markersize=5, linewidth=1.2)
                leftmost = min(leftmost, advantage)
        panel.axvline(0, color="0.5", linewidth=1)
        low, high = panel.get_xlim()
        # A wide interval is cut off, so that it does not squeeze the others; a point never is.
        panel.set_xlim(max(low, min(-120, 1.1 * leftmost)), min(high, 120))
        what = "Test error" if measure == "test_error" else "Error of the worst class"
        panel.set_title(f"{what} at {100 * fraction:g} % of the epochs", fontsize="small")
        panel.tick_params(labelsize="small", left=False)
        panel.grid(axis="x", alpha=0.25)
        panel.spines[["top", "right", "left"]].set_visible(False)
    subjects = [subject for subject in MAIN_RIVALS if subject in {task.subject for task, _ in rows}]
    who = (
        f"the method has less error than {BASELINE}"
        if subjects == [BASELINE]
        else f"{subjects[0]} has less error than the method of the row"
    )
    figure.supxlabel(f"Advantage in percent of the rival's error: to the right, {who}", fontsize="small")
    panels[0].set_yticks(range(len(rows)), [_plain(method or task.name) for task, method in rows])
    for label, (_, method) in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if method else "bold")
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def curves(results: Sequence[TaskResults], lines: dict[str, Line]) -> Figure:
    """Draw the mean over seeds with 95 % bands for the methods of the first table, and the means of all others in gray.

    A curve ends at the end of the first run of its method.
    """
    named = {method for task in results for method in leading_methods(task, results)}
    height = 2.6 if len(results) == 1 else 1.4 * len(results)
    figure = Figure(figsize=(_WIDTH, 0.6 + height + 0.2 * math.ceil(len(named) / 4)), layout="constrained")
    rows = figure.subplots(len(results), len(_CURVES), squeeze=False)
    for task, panels in zip(results, rows, strict=True):
        kind, leading = task.first.kind, leading_methods(task, results)
        for panel, (measure, axis) in zip(panels, _CURVES.values(), strict=True):
            ends = {method: min(positions(run, axis)[-1] for run in runs) for method, runs in task.runs.items()}
            # A method that is many times slower would squeeze all others into the left edge.
            end = min(max(ends.values()), 2 * task.end(axis))
            seen = []
            for method, runs in task.runs.items():
                until = min(ends[method], end)
                at = np.arange(until + 1) if axis is Axis.EPOCHS else np.linspace(0, until, _PLACES)
                mean, half = interval(np.array([shown(errors_at(run, axis, at, measure), kind) for run in runs]))
                if method in leading:
                    color, dashes = lines[method]
                    width = 2.2 if method == task.subject else 1.3
                    panel.plot(at, mean, color=color, linestyle=dashes, linewidth=width, label=_plain(method), zorder=3)
                    if axis is Axis.EPOCHS:  # over time, the noise of the machine would hide the curves
                        panel.fill_between(at, mean - half, mean + half, color=color, alpha=0.12, linewidth=0)
                else:
                    panel.plot(at, mean, color="0.75", linewidth=0.8, label=_OTHERS)
                seen.append(mean[at >= end / 10])
            _scale(panel, np.concatenate(seen), kind == "classification")
            panel.axvline(task.end(axis), color="0.6", linewidth=1, linestyle=":")
            panel.set_xlim(0, 1.02 * end)
            panel.tick_params(which="both", labelsize="small")
            panel.xaxis.set_major_locator(MaxNLocator(4))
            panel.spines[["top", "right"]].set_visible(False)
        unit = "accuracy (%)" if kind == "classification" else "squared error"
        panels[0].set_ylabel(f"{_plain(task.name)}\n{unit}", fontsize="small")
    for (title, (_, axis)), top, bottom in zip(_CURVES.items(), rows[0], rows[-1], strict=True):
        top.set_title(title, fontsize="small", fontweight="bold")
        bottom.set_xlabel(axis.value, fontsize="small")
    _legend(figure, list(rows.flat))
    return figure


def proportions(results: Sequence[TaskResults]) -> Figure | None:
    """Draw the class proportions of the methods that change them, mean over seeds; None if no method does."""
    moving: list[tuple[TaskResults, dict[str, FloatArray]]] = []
    for task in results:
        means = {method: _proportions(runs) for method, runs in task.runs.items()}
        changed = {method: mean for method, mean in means.items() if float(np.ptp(mean, axis=0).max()) > 1e-3}
        if changed:
            moving.append((task, changed))
    if not moving:
        return None
    alone = len(moving) == 1
    most = max(len(means) for _, means in moving)
    per_row = min(3, most) if alone else most
    cells = [
        (task, dict(list(means.items())[i : i + per_row]))
        for task, means in moving
        for i in range(0, len(means), per_row)
    ]
    figure = Figure(figsize=(_WIDTH, 0.8 + (2.4 if alone else 1.5) * len(cells)), layout="constrained")
    rows = figure.subplots(len(cells), per_row, squeeze=False, sharey="row")
    for panels, (task, means) in zip(rows, cells, strict=True):
        names = task.first.class_names
        top = 105 * max(float(mean.max()) for mean in means.values())
        colors = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
        for panel in panels[len(means) :]:
            panel.set_visible(False)
        for panel, (method, mean) in zip(panels, means.items(), strict=False):
            panel.set_title(_plain(method), fontsize="small" if alone else "x-small")
            panel.tick_params(labelsize="x-small")
            panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            if len(names) <= _FEW_CLASSES:
                for k, name in enumerate(names):
                    dashes = _DASHES[k % len(_DASHES)]
                    panel.plot(100 * mean[:, k], color=colors[k], linestyle=dashes, linewidth=1.1, label=_plain(name))
                panel.set_ylim(0, top)
                panel.grid(alpha=0.25)
                panel.spines[["top", "right"]].set_visible(False)
            else:
                image = panel.imshow(
                    100 * mean.T, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis", vmin=0, vmax=top
                )  # fmt: skip
        panels[0].set_ylabel("% of the batch" if alone else _plain(task.name), fontsize="small")
        if len(names) > _FEW_CLASSES:
            figure.colorbar(image, ax=list(panels), label="percent")
    for panel in rows[-1]:
        panel.set_xlabel("epochs", fontsize="small")
    if alone and len(moving[0][0].first.class_names) <= _FEW_CLASSES:
        _legend(figure, [rows[0, 0]], title="class")
    return figure


def classes(results: Sequence[TaskResults]) -> Figure:
    """Draw the accuracy or squared error of each class at the end, mean over seeds."""
    columns = min(2, len(results))
    rows = [results[i : i + columns] for i in range(0, len(results), columns)]
    heights = [1.0 + 0.19 * max(len(task.runs) for task in row) for row in rows]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for panel in panels.ravel()[len(results) :]:
        panel.set_visible(False)
    for panel, task in zip(panels.ravel(), results, strict=False):
        _classes(figure, panel, task, columns)
    return figure


def _classes(figure: Figure, panel: Axes, task: TaskResults, columns: int) -> None:
    kind, names = task.first.kind, task.first.class_names
    means = np.array(
        [np.mean([_class_errors(run, task.epochs) for run in runs], axis=0) for runs in task.runs.values()]
    )
    values, few = shown(means, kind), len(names) <= _FEW_CLASSES
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (1.0, 1.0)
    right_is_better = kind == "classification"
    norm = Normalize(low, high) if right_is_better or low <= 0 else LogNorm(low, high)
    palette = colormaps["viridis" if right_is_better else "viridis_r"].resampled(12).with_extremes(bad="0.85")
    image = panel.imshow(np.ma.masked_invalid(values), aspect="auto", interpolation="nearest", cmap=palette, norm=norm)
    panel.set_yticks(range(len(task.runs)), [_plain(method) for method in task.runs])
    panel.tick_params(labelsize="x-small")
    if few:
        rotation = 90 if sum(map(len, names)) > 90 / columns else 0
        panel.set_xticks(range(len(names)), [_plain(name) for name in names], rotation=rotation)
        for (row, column), value in np.ndenumerate(values):
            text = "-" if math.isnan(value) else f"{value:.0f}" if right_is_better else number(value, kind)
            dark = math.isfinite(value) and float(np.dot(palette(norm(value))[:3], (0.3, 0.59, 0.11))) < 0.55
            panel.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    else:
        figure.colorbar(image, ax=panel)
    what = "accuracy (%)" if right_is_better else "squared error"
    panel.set_title(f"{_plain(task.name)}: {what} of each class", fontsize="small")


def _legend(figure: Figure, panels: Sequence[Axes], title: str | None = None) -> None:
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    handles |= {_OTHERS: handles.pop(_OTHERS)} if _OTHERS in handles else {}  # last
    columns = min(4 if title is None else 10, len(handles))
    style = {"frameon": False, "handlelength": 3, "fontsize": "small"}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, title=title, **style)


def _scale(panel: Axes, means: FloatArray, linear: bool) -> None:
    """Fit the y axis to the values after the first tenth, logarithmic for squared errors."""
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
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if high < 10 * low:
        panel.yaxis.set_major_locator(MaxNLocator(4))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _proportions(runs: Sequence[Record]) -> FloatArray:
    """Return the mean over runs, `[epochs + 1, K]`, up to the end of the shortest run."""
    end = min(run.points[-1].epoch for run in runs)
    at = np.arange(end + 1.0)
    of_runs = [[point.proportions for point in points_at(run, Axis.EPOCHS, at)] for run in runs]
    return np.asarray(np.mean(of_runs, axis=0))


def _class_errors(run: Record, epochs: int) -> FloatArray:
    (point,) = points_at(run, Axis.EPOCHS, np.array([epochs]))
    return np.array(point.class_errors, np.float64)


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib would typeset it as mathematics
