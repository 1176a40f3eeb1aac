"""What the demo says and leaves behind: the texts around a comparison, its figure and its JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from l2m_experiments.demo.comparison import Comparison, Settings
from l2m_experiments.errors import InputError

_CHECKPOINTS = (25, 50, 100)
# Okabe and Ito's palette keeps apart for every kind of colour vision; the dashes do in grey.
_LINES = {"Learn2Mix": ("#0072B2", "-"), "classical": ("#D55E00", "--"), "balanced": ("#009E73", "-.")}


def introduction(settings: Settings) -> str:
    """Says what is about to be compared."""
    source = settings.source
    sizes = source.class_sizes
    return (
        f"Data: {source.name}; {sum(sizes)} training images, long-tailed {sizes[0] / sizes[-1]:.0f}:1; "
        f"{source.test_rows_per_class * len(sizes)} test images, {source.test_rows_per_class} a class\n"
        f"Training images of class 0 to {len(sizes) - 1}: {' '.join(map(str, sizes))}\n"
        f"Budget: {settings.epochs} epochs of {sum(sizes) // settings.batch_size} batches of "
        f"{settings.batch_size}; {_seeds(settings)}; mixing rate {settings.mixing_rate}; Adam, learning rate 0.001"
    )


def conclusion(comparison: Comparison) -> str:
    """The table, the time of an epoch, and who won by how much."""
    return "\n".join(
        ["", *_table(comparison), "", _epoch_time(comparison), "", *_verdicts(comparison), _learned(comparison)]
    )


def make_directory(directory: Path) -> None:
    """Makes the output directory, before minutes of work end in front of a locked door.

    Raises:
        InputError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the output directory {directory}: {error.strerror}"
        raise InputError(msg) from error


def write_files(comparison: Comparison, directory: Path) -> tuple[Path, Path]:
    """Writes `demo.png` and `demo.json`.

    Returns:
        Their paths.

    Raises:
        InputError: One cannot be written.
    """
    figure, record = directory / "demo.png", directory / "demo.json"
    try:
        _figure(comparison).savefig(figure, dpi=150, bbox_inches="tight", pad_inches=0.15)
        record.write_text(json.dumps(_record(comparison), allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"cannot write to {directory}: {error.strerror}"
        raise InputError(msg) from error
    return figure, record


def _seeds(settings: Settings) -> str:
    return "one seed" if settings.seeds == 1 else f"{settings.seeds} seeds"


def _checkpoint_epoch(percent: int, epochs: int) -> int:
    return math.ceil(epochs * percent / 100)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.mean(axis=0))


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Sample standard deviation over seeds, the first axis; one seed has none."""
    return np.asarray(values.std(axis=0, ddof=1)) if len(values) > 1 else None


def _plus_minus(values: NDArray[np.float64], sign: str = "") -> str:
    spread = _spread(values)
    # + 0.0 makes a rounded -0.0 positive.
    return f"{round(float(_mean(values)), 1) + 0.0:{sign}.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def _table(comparison: Comparison) -> Iterator[str]:
    settings, epochs = comparison.settings, comparison.settings.epochs
    yield "Test accuracy and worst-class accuracy (the lowest recall of a class) in percent,"
    yield f"mean ± sample standard deviation over {_seeds(settings)}:" if settings.seeds > 1 else "one seed, no spread:"
    at = [f"{percent} % (epoch {_checkpoint_epoch(percent, epochs)})" for percent in _CHECKPOINTS]
    yield (f"{'':10}" + "".join(f"  {heading:^25}" for heading in at)).rstrip()
    yield f"{'method':10}" + f"  {'accuracy':>12} {'worst class':>12}" * len(_CHECKPOINTS)
    for method in comparison.recalls:
        cells = [
            f"{_plus_minus(measure[method][:, _checkpoint_epoch(percent, epochs) - 1]):>12}"
            for percent in _CHECKPOINTS
            for measure in (comparison.accuracy, comparison.worst_class_accuracy)
        ]
        yield f"{method:10}  " + "  ".join(f"{a} {w}" for a, w in zip(cells[::2], cells[1::2], strict=True))


def _epoch_time(comparison: Comparison) -> str:
    timed = comparison.epoch_time
    return (
        f"Loading one epoch ({timed.batches} batches, medians of {timed.repeats} interleaved repeats): torch DataLoader "
        f"{timed.data_loader * 1e3:.2f} ms, this loader {timed.loader * 1e3:.2f} ms, ratio {timed.ratio:.1f}"
    )


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """Who won by how much; differences are paired, since the methods share data and initial weights within a seed."""
    epochs = comparison.settings.epochs
    finals = []
    for rival, measures in _differences(comparison).items():
        yield f"Learn2Mix against {rival}, in points, paired by seed:"
        for name, difference in measures.items():
            said = [
                f"{percent} %: {_outcome(difference[:, _checkpoint_epoch(percent, epochs) - 1]):23}"
                for percent in _CHECKPOINTS
            ]
            yield f"  {name.replace('_', ' '):20}  {' '.join(said)}".rstrip()
        finals.append(
            f"Against {rival}, in points of accuracy, Learn2Mix ends {_outcome(measures['accuracy'][:, -1])}."
        )
    final = {method: _mean(accuracy)[-1] for method, accuracy in comparison.accuracy.items()}
    best = max(final, key=lambda method: final[method])
    if comparison.settings.seeds > 1:
        yield "(level: the mean difference is no larger than its sample standard deviation over the seeds)"
    else:
        yield "(one seed says nothing about chance)"
    yield f"At the end of the budget {best} has the highest mean test accuracy, {final[best]:.1f} %."
    yield from finals


def _differences(comparison: Comparison) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Learn2Mix minus each other method, `[seeds, epochs]`, by measure."""
    measures = {"accuracy": comparison.accuracy, "worst_class_accuracy": comparison.worst_class_accuracy}
    return {
        rival: {name: measure["Learn2Mix"] - measure[rival] for name, measure in measures.items()}
        for rival in comparison.recalls
        if rival != "Learn2Mix"
    }


def _outcome(difference: NDArray[np.float64]) -> str:
    mean, spread = float(_mean(difference)), _spread(difference)
    if round(mean, 1) == 0 or (spread is not None and abs(mean) <= spread):
        return f"level ({_plus_minus(difference, sign='+')})"
    return f"ahead by {_plus_minus(difference)}" if mean > 0 else f"behind by {_plus_minus(-difference)}"


def _learned(comparison: Comparison) -> str:
    """Whether the budget was long enough for classical training, without which the table says little."""
    classical = _mean(comparison.accuracy["classical"])
    chance = 100 / len(comparison.settings.source.class_sizes)
    if classical[-1] < chance + (100 - chance) / 4:
        return (
            f"Classical training hardly learned in this budget ({classical[-1]:.1f} %, chance is {chance:.1f} %): "
            "raise --epochs before drawing conclusions."
        )
    gain = classical[-1] - classical[_checkpoint_epoch(75, len(classical)) - 1]
    if gain >= 1:
        return (
            f"Classical training was still rising ({gain:+.1f} points in the last quarter of the budget): "
            "more --epochs may bring it further."
        )
    return f"Classical training was no longer rising ({gain:+.1f} points in the last quarter of the budget)."


def _figure(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    halves = figure.add_gridspec(2, 1)
    top, bottom = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    left, right = top.subplots(1, 2)
    _draw_curves(left, comparison.accuracy, "Test accuracy (%)")
    _draw_curves(right, comparison.worst_class_accuracy, "Worst-class accuracy (%)")
    left.legend(loc="lower right", frameon=False)
    settings = comparison.settings
    spread = ": mean ± sample standard deviation" if settings.seeds > 1 else ""
    top.suptitle(f"{settings.source.name}, long-tailed training set, balanced test set; {_seeds(settings)}{spread}")
    _draw_proportions(bottom.subplots(), comparison)
    return figure


def _draw_curves(axes: Axes, curves: dict[str, NDArray[np.float64]], label: str) -> None:
    for method, values in curves.items():
        epochs = np.arange(1, values.shape[1] + 1)
        mean, spread = _mean(values), _spread(values)
        colour, dashes = _LINES[method]
        axes.plot(epochs, mean, color=colour, linestyle=dashes, label=method)
        if spread is not None:
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=label, xlim=(1, epochs[-1]), ylim=(0, 100))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_proportions(axes: Axes, comparison: Comparison) -> None:
    proportions = _mean(comparison.proportions["Learn2Mix"])
    sizes = comparison.settings.source.class_sizes
    colours = colormaps["viridis"](np.linspace(0, 1, len(sizes)))
    labels = [f"class {k} ({size} images)" for k, size in enumerate(sizes)]
    axes.stackplot(range(len(proportions)), 100 * proportions.T, colors=colours, labels=labels, edgecolor="white")
    axes.set(
        title="Learn2Mix: share of each class in the batches",
        xlabel="epoch",
        ylabel="Share of the batch (%)",
        xlim=(0, len(proportions) - 1),
        ylim=(0, 100),
    )
    # The legend in the order of the bands, top to bottom, beside them.
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _record(comparison: Comparison) -> dict[str, object]:
    settings = comparison.settings
    timed = comparison.epoch_time
    return {
        "units": "accuracies in percent, proportions as shares, times in seconds; spread: sample standard deviation",
        "config": {
            "data": settings.source.name,
            "class_sizes": settings.source.class_sizes,
            "test_rows_per_class": settings.source.test_rows_per_class,
            "seeds": settings.seeds,
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "mixing_rate": settings.mixing_rate,
            "num_threads": settings.num_threads,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("l2m-fast", "numpy", "torch", "scikit-learn", "matplotlib")},
        },
        "seconds": comparison.seconds,
        "epoch_time": {**dataclasses.asdict(timed), "ratio": timed.ratio},
        "checkpoints": {percent: _checkpoint_epoch(percent, settings.epochs) for percent in _CHECKPOINTS},
        "methods": {
            method: {
                "accuracy": _curves(comparison.accuracy[method]),
                "worst_class_accuracy": _curves(comparison.worst_class_accuracy[method]),
                "proportions": _curves(comparison.proportions[method]),
            }
            for method in comparison.recalls
        },
        "learn2mix_minus": {
            rival: {name: _curves(values) for name, values in measures.items()}
            for rival, measures in _differences(comparison).items()
        },
        "conclusion": conclusion(comparison).splitlines(),
    }


def _curves(values: NDArray[np.float64]) -> dict[str, object]:
    spread = _spread(values)
    return {
        "by_seed": values.round(6).tolist(),
        "mean": _mean(values).round(6).tolist(),
        "spread": None if spread is None else spread.round(6).tolist(),
    }
