"""Figures of a task's results, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2m_fast.experiments.results import Clock, Measure, Results
from l2m_fast.experiments.statistics import half_interval

# Okabe and Ito's palette keeps apart for every kind of colour vision (its yellow is too light for lines); the dashes do
# in grey. As their numbers have no common divisor, no two of 28 lines are alike.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MOST_NAMES = 20  # classes that are named one by one


def curves(results: Results) -> bytes:
    """Test error and worst-class error over epochs and seconds: means over seeds and the 95 % intervals of the means."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    measures: tuple[Measure, ...] = ("test", "worst class")
    clocks: tuple[Clock, ...] = ("epochs", "seconds")
    styles = {name: (_COLOURS[i % 7], _DASHES[i % 4]) for i, name in enumerate(results.rows("seconds"))}
    for axes_of_measure, measure in zip(panels, measures, strict=True):
        for axes, clock in zip(axes_of_measure, clocks, strict=True):
            _draw_curves(axes, results, measure, clock, styles)
        _limit(axes_of_measure, logarithmic=not results.classifies)
        axes_of_measure[0].set_ylabel(results.name_of(measure) + (" (%)" if results.classifies else ""))
    handles, names = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return _png(figure)


def _draw_curves(
    axes: Axes, results: Results, measure: Measure, clock: Clock, styles: dict[str, tuple[str, str]]
) -> None:
    for name, runs in results.rows(clock).items():
        times, errors = results.curve(runs, measure, clock, most=400)
        shown = results.shown(errors)
        mean, half = shown.mean(axis=0), half_interval(shown)
        colour, dashes = styles[name]
        ours = name == "learn2mix"
        # Between epochs the newest model counts, which is to be seen where epochs are long.
        drawn = "default" if clock == "epochs" else "steps-post"
        width, above = (2.2, 3) if ours else (1.3, 2)
        axes.plot(
            times, mean, color=colour, linestyle=dashes, label=name, linewidth=width, zorder=above, drawstyle=drawn
        )
        if half is not None:
            step: Literal["post"] | None = None if clock == "epochs" else "post"
            axes.fill_between(times, mean - half, mean + half, color=colour, alpha=0.1, linewidth=0, step=step)
    axes.set_xlabel("epoch" if clock == "epochs" else "seconds of training")
    # A warm-up or a slow method may go on for long after the others.
    axes.set_xlim(0, min(axes.get_xlim()[1], 1.25 * results.horizon[clock]) if clock == "seconds" else None)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _limit(panels: Sequence[Axes], logarithmic: bool) -> None:
    """Has the axis show the means whole; the bands of few seeds may be wider than all of it."""
    means = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for axes in panels for line in axes.lines])
    means = means[np.isfinite(means)]
    if logarithmic:
        means = means[means > 0]
    if len(means) == 0:
        return
    low, high = means.min(), means.max()
    margin = 0.05 * (high - low) or 1
    for axes in panels:
        if logarithmic:
            axes.set_yscale("log", nonpositive="clip")
            axes.set_ylim(low / 1.2, high * 1.2)
        else:
            axes.set_ylim(low - margin, high + margin)


def moving(results: Results) -> list[str]:
    """Returns the methods whose proportions move."""
    return [
        name
        for name, runs in results.methods.items()
        if any(np.abs(run.proportions - run.proportions[0]).max() > 1e-9 for run in runs)
    ]


def proportions(results: Results, methods: Sequence[str]) -> bytes:
    """Share of each class in the batches over epochs, mean over seeds, a panel a method.

    Args:
        results: Of the task.
        methods: At least one.
    """
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(4 * columns + 1.5, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    classes = [str(name) for name in results.record["class_names"]]
    colours = colormaps["viridis"](np.linspace(0, 1, len(classes)))
    edge = "white" if len(classes) <= _MOST_NAMES else "none"
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, methods, strict=False):
        axes.set_axis_on()
        runs = results.methods[name]
        epochs = min(len(run.proportions) for run in runs)
        mean = np.mean([run.proportions[:epochs] for run in runs], axis=0)
        axes.stackplot(range(epochs), 100 * mean.T, colors=colours, labels=classes, edgecolor=edge, linewidth=0.4)
        axes.set(title=name, xlabel="epoch", xlim=(0, epochs - 1), ylim=(0, 100))
    for axes in panels[:, 0]:
        axes.set_ylabel("share of the batch (%)")
    if len(classes) <= _MOST_NAMES:
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside right upper", frameon=False, title="class")
    return _png(figure)


def class_map(results: Results) -> bytes:
    """What each method reaches on each class at the end of the budget in epochs, mean over seeds."""
    end = int(results.horizon["epochs"])
    shown = np.array(
        [results.shown(np.mean([run.class_errors[end] for run in runs], axis=0)) for runs in results.methods.values()]
    )
    methods, classes = list(results.methods), [str(name) for name in results.record["class_names"]]
    figure = Figure(
        figsize=(max(6.0, min(14.0, 3 + 0.8 * len(classes))), 1.4 + 0.36 * len(methods)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(shown, aspect="auto", cmap="viridis")
    axes.set_yticks(range(len(methods)), methods)
    if len(classes) <= _MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right", rotation_mode="anchor")
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2 if np.isfinite(shown).any() else 0
        for (row, column), value in np.ndenumerate(shown):
            colour = "white" if value < middle else "black"
            axes.text(
                column,
                row,
                f"{value:.1f}" if results.classifies else f"{value:.3g}",
                color=colour,
                ha="center",
                va="center",
                fontsize=8,
            )
    else:
        axes.set_xlabel("class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="accuracy (%)" if results.classifies else "error", pad=0.02)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    return file.getvalue()
