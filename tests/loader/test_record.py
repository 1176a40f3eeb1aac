"""Recorded losses."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import (
    ClassLoss,
    class_loss,
)
from loader.small import CLASSES, START, Spy, make, record_means, stepped, window_sums


@pytest.mark.parametrize(
    "convert",
    [
        np.float16,
        np.float32,
        np.float64,
        torch.tensor,
        lambda losses: torch.tensor(losses, dtype=torch.bfloat16),
        lambda losses: torch.tensor(losses, dtype=torch.float16, requires_grad=True),
        lambda losses: torch.tensor(losses, requires_grad=True) * 1,
        lambda losses: np.repeat(losses, 2)[::2],
        lambda losses: np.array(losses, ">f4"),
        list,
    ],
)
@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_the_losses_of_a_batch_are_those_of_its_classes(convert: Any, batch_format: Any) -> None:
    loader = make(format=batch_format)
    total, count = np.zeros(4), np.zeros(4, np.int64)
    for rows in loader:
        losses = np.asarray(rows) * 0.5
        loader.record(convert(losses.tolist()))
        np.add.at(total, CLASSES[np.asarray(rows)], losses)
        np.add.at(count, CLASSES[np.asarray(rows)], 1)
        state = loader.state_dict()
        assert window_sums(state)[0] == total.tolist()
        assert state["window_counts"][0] == count.tolist()


def test_two_calls_for_one_batch_add_up() -> None:
    loader = make()
    next(iter(loader))
    loader.record(np.ones(6))
    once = loader.state_dict()
    loader.record(np.full(6, 2.0))
    twice = loader.state_dict()
    assert window_sums(twice)[0] == [3 * total for total in window_sums(once)[0]]
    assert twice["window_counts"][0] == [2 * count for count in once["window_counts"][0]]


def test_given_classes_are_used_and_allow_any_length() -> None:
    loader = make()
    next(iter(loader))
    loader.record([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], classes=torch.tensor([3, 3, 0, 1, 0, 3, 1]))
    loader.record(np.zeros(0), classes=np.zeros(0, np.int64))
    state = loader.state_dict()
    assert window_sums(state)[0] == [20, 72, 0, 35]
    assert state["window_counts"][0] == [2, 2, 0, 3]


def test_a_class_loss_adds_its_sums_and_counts() -> None:
    loader, other = make(), make()
    for rows, _ in zip(loader, other, strict=True):
        losses = np.sqrt(rows)
        loader.record(losses)
        other.record(class_loss(losses, CLASSES[rows], 4))
    assert other.state_dict() == loader.state_dict()


def test_non_finite_losses_are_skipped_with_one_warning() -> None:
    loader = make()
    batches = iter(loader)
    next(batches)
    with pytest.warns(RuntimeWarning, match="non-finite losses were recorded; they are excluded") as caught:
        loader.record([math.nan, 2.0, math.inf, 4.0, -math.inf], classes=[0, 0, 1, 1, 3])
    assert len(caught) == 1
    loader.record([math.nan], classes=[0])
    list(batches)
    assert loader.class_losses.tolist()[:2] == [2, 4]
    np.testing.assert_allclose(loader.proportions, stepped(START, [2, 4, 0, 3]))


def test_a_non_finite_class_loss_is_skipped_for_its_class() -> None:
    loader = make()
    with pytest.warns(RuntimeWarning, match="non-finite"):
        loader.record(ClassLoss(np.array([math.nan, 2.0, 0.0, math.inf]), np.array([3, 1, 0, 1])))
    assert loader.state_dict()["window_counts"][0] == [0, 1, 0, 0]
    assert window_sums(loader.state_dict())[0] == [0, 2, 0, 0]


def test_a_window_without_any_finite_loss_changes_nothing() -> None:
    loader = make()
    for _ in loader:
        with pytest.warns(RuntimeWarning, match="non-finite") if loader.step == 1 else nullcontext():
            loader.record(np.full(6, math.nan))
    assert loader.proportions.tolist() == START.tolist()
    assert np.isnan(loader.class_losses).all()
    assert loader.history == []


def test_negative_class_means_count_as_zero_with_one_warning() -> None:
    loader = make()
    for epoch in range(2):
        batches = iter(loader)
        record_means(loader, -3.0, 1.0, 1.0)
        with pytest.warns(RuntimeWarning, match="mean loss of a class is negative") if epoch == 0 else nullcontext():
            list(batches)
    assert loader.class_losses.tolist()[:2] == [0, 1]
    np.testing.assert_allclose(loader.proportions, stepped(stepped(START, [0, 1, 0, 1]), [0, 1, 0, 1]))


def test_single_negative_losses_do_not_warn() -> None:
    loader = make()
    loader.record([-1.0, 3.0], classes=[0, 0])
    loader.update()
    assert loader.class_losses[0] == 1


def test_if_all_losses_are_zero_the_proportions_stay() -> None:
    loader = make()
    for _ in loader:
        loader.record(np.zeros(6))
    assert loader.proportions.tolist() == START.tolist()
    assert loader.class_losses[[0, 1, 3]].tolist() == [0, 0, 0]


def test_a_class_without_losses_keeps_its_last_mean_or_takes_the_mean_of_the_others() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    record_means(loader, 2.0, 6.0)
    loader.update()
    assert repr(loader.class_losses.tolist()) == "[2.0, 6.0, nan, nan]"
    loader.record([3.0], classes=[0])
    loader.update()
    record_means(loader, 3.0, 6.0, 9.0)
    loader.update()
    loader.record([5.0], classes=[0])
    loader.update()
    assert [losses for _, losses, _ in spy.calls] == [[2, 6, 0, 4], [3, 6, 0, 4.5], [3, 6, 0, 9], [5, 6, 0, 9]]
    assert loader.class_losses.tolist()[:2] == [5, 6]


def test_losses_of_a_class_without_rows_are_ignored() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    loader.record([100.0], classes=[2])
    loader.update()
    assert spy.calls == []
    loader.record([100.0, 1.0], classes=[2, 0])
    loader.update()
    assert spy.calls[0][1] == [1, 1, 0, 1]
    assert math.isnan(loader.class_losses[2])
