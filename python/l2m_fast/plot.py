"""`plot`: the history of a loader as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

_MAX_LABELS = 20


def plot(history: Sequence[dict[str, Any]], class_labels: Sequence[object] | None = None) -> Figure:
    """Plot proportions, stacked, and class losses over the batches of a run. Needs matplotlib.

    For example::

        plot(loader.history, loader.class_labels).savefig("history.png")

    Args:
        history: `Loader.history`, or a part of it.
        class_labels: Label of each class; None: class ids. Shown for up to 20 classes.

    Returns:
        A figure that does not belong to pyplot: show it in a notebook, or save it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The history is empty, or the number of labels is not that of classes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        msg = "plot needs matplotlib: pip install matplotlib"
        raise ImportError(msg) from None
    if len(history) == 0:
        msg = "history must have at least one update of the proportions (got none): record losses, or train longer"
        raise ValueError(msg)
    steps = [record["total_step"] for record in history]
    proportions, class_losses = (
        np.stack([record[key] for record in history]) for key in ("proportions", "class_losses")
    )
    num_classes = proportions.shape[1]
    labels = [str(label) for label in (range(num_classes) if class_labels is None else class_labels)]
    if len(labels) != num_classes:
        msg = f"class_labels must have one label for each of the {num_classes} classes (got {shortened(class_labels)})"
        raise ValueError(msg)
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True)
    areas = top.stackplot(steps, proportions.T)
    top.set(ylabel="proportion", ylim=(0, 1))
    for k, area in enumerate(areas):
        bottom.plot(steps, class_losses[:, k], color=area.get_facecolor()[0], label=labels[k])
    bottom.set(xlabel="batches", ylabel="class loss")
    if num_classes <= _MAX_LABELS:
        figure.legend(loc="outside right upper", title="class")
    return figure
