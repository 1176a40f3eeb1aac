"""Figures of the history of a loader."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, plot


def trained(num_classes: int = 3) -> Loader:
    classes = np.arange(60) % num_classes
    loader = Loader(torch.arange(60), batch_size=20, classes=classes, mixing=Learn2Mix(0.5), update_every=2, seed=0)
    for _ in range(3):
        for rows in loader:
            loader.record((rows % num_classes + 1).double())
    return loader


def test_the_figure_shows_proportions_and_losses_of_every_class() -> None:
    loader = trained()
    history = loader.history
    figure = plot(history, ["a", "b", "c"])
    top, bottom = figure.axes
    assert len(top.collections) == 3
    for k, line in enumerate(bottom.lines):
        assert np.asarray(line.get_xdata()).tolist() == [record["total_step"] for record in history]
        assert np.asarray(line.get_ydata()).tolist() == [record["class_losses"][k] for record in history]
        assert line.get_label() == "abc"[k]
    lower = np.asarray(top.collections[0].get_paths()[0].vertices)
    assert {round(p, 12) for p in lower[:, 1]} >= {round(record["proportions"][0], 12) for record in history}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    image = io.BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")


def test_many_classes_have_no_legend() -> None:
    assert plot(trained(30).history).legends == []


def test_a_history_without_updates_is_refused() -> None:
    loader = Loader(torch.arange(4), batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"history must have at least one update of the proportions \(got none\)"):
        plot(loader.history)


def test_labels_must_match_the_classes() -> None:
    with pytest.raises(ValueError, match="class_labels must have one label for each of the 3 classes"):
        plot(trained().history, ["a"])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot needs matplotlib: pip install matplotlib"):
        plot(trained().history)
