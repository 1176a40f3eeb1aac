"""Learn2Mix as in its authors' program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_experiments.authors import AuthorsBatches
from l2m_experiments.methods import method
from made_up_batches import SIZES, data_of, epoch_of, start_of, task_of


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), batch_size=st.integers(9, 60), rate=st.floats(0.05, 0.9))
def test_authors_batches_are_rounded_down_sorted_by_class_and_repeat_the_same_order(
    seed: int, batch_size: int, rate: float
) -> None:
    data = data_of()
    task = task_of(batch_size=batch_size, mixing_rate=rate)
    batches = method("learn2mix-authors").batches(start_of(data, task, steps=7, seed=seed))
    alpha = np.array(SIZES) / sum(SIZES)
    for _ in range(4):
        np.testing.assert_allclose(batches.proportions, alpha, rtol=1e-12)
        due = np.array([int(share * batch_size) for share in batches.proportions])
        taken = epoch_of(batches, lambda classes: classes + torch.linspace(1, 2, len(classes), dtype=torch.float64))
        for batch in taken:
            np.testing.assert_array_equal(batch["classes"], np.repeat(np.arange(4), due))
        for k, size in enumerate(SIZES):
            of_class = torch.cat([batch["inputs"][batch["classes"] == k, 0, 0] for batch in taken]).numpy()
            first = of_class[:size]
            assert len(np.unique(first)) == len(first)
            np.testing.assert_array_equal(of_class, np.resize(first, len(of_class)))
            assert set(of_class.astype(int)) <= set(np.flatnonzero(data.train.classes == k))
        # The last batch alone counts, and has the same classes as the others; a class without rows has loss 0.
        classes = np.repeat(np.arange(4), due)
        last = classes + np.linspace(1, 2, len(classes))
        losses = np.array([last[classes == k].mean() if due[k] > 0 else 0.0 for k in range(4)])
        alpha = alpha + rate * (losses / losses.sum() - alpha)


def test_authors_class_losses_are_those_of_the_last_batch() -> None:
    batches = method("learn2mix-authors").batches(start_of(data_of(), task_of(batch_size=20), steps=3))
    alpha = np.array(SIZES) / sum(SIZES)
    for step, batch in enumerate(batches):
        batches.record(torch.where(batch["classes"] == 0, 1.0, 3.0) if step == 2 else 100.0 * batch["classes"])
    losses = np.array([1, 3, 3, 3])
    np.testing.assert_allclose(batches.proportions, alpha + 0.1 * (losses / 10 - alpha), rtol=1e-6)


def test_authors_proportions_stay_without_losses_and_a_class_without_rows_shrinks() -> None:
    batches = method("learn2mix-authors").batches(start_of(data_of(), task_of(batch_size=10), steps=2))
    before = batches.proportions
    assert before[3] * 10 < 1
    for _ in batches:
        pass
    np.testing.assert_array_equal(batches.proportions, before)
    epoch_of(batches, lambda classes: torch.zeros(len(classes)))
    np.testing.assert_array_equal(batches.proportions, before)
    iterator = iter(batches)
    batches.record(torch.ones(len(next(iterator)["classes"])))
    assert len([*iterator]) == 1  # the last batch, whose losses are not recorded
    np.testing.assert_array_equal(batches.proportions, before)
    epoch_of(batches, lambda classes: torch.ones(len(classes)))
    assert batches.proportions[3] == pytest.approx(0.9 * before[3])


def test_the_authors_variant_refuses_batches_that_can_be_empty() -> None:
    authors = method("learn2mix-authors")
    assert authors.refusal(task_of(batch_size=5), data_of()) is None
    assert "can leave a batch empty" in (authors.refusal(task_of(batch_size=4), data_of()) or "")


def test_authors_proportions_stay_if_losses_are_nan() -> None:
    data = data_of()
    fields = {"inputs": data.train.inputs, "classes": data.train.classes}
    batches = AuthorsBatches(fields, 4, batch_size=20, steps=2, mixing_rate=0.1, seed=0)
    before = batches.proportions
    epoch_of(batches, lambda classes: torch.full((len(classes),), float("nan")))
    np.testing.assert_array_equal(batches.proportions, before)
