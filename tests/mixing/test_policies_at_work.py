"""Policies in a loader: their arguments, and the effect of their results."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_fast import (
    Annealed,
    Balanced,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Loader,
    Proportional,
    Static,
    Temperature,
    Window,
)
from loader.small import SIZES, START, STEPS, Spy, make, record_means

# ---- policies


@pytest.mark.parametrize(
    "mixing",
    [None, Proportional(), Balanced(), Static([0.25, 0.5, 0, 0.25]), EffectiveNumber(0.9), Temperature(2)],
    ids=str,
)
@pytest.mark.parametrize("every", [None, 2])
def test_a_fixed_policy_keeps_its_proportions_while_class_losses_are_updated(mixing: Any, every: Any) -> None:
    loader = make(mixing=mixing, update_every=every)
    before = loader.proportions.tolist()
    for _ in range(2):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
            assert loader.proportions.tolist() == before
    assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
    assert loader.history == []
    assert loader.proportions.tolist() == before


def test_annealed_needs_the_length_of_the_training_and_no_losses() -> None:
    with pytest.raises(
        ValueError, match=r"total_steps must be given for Annealed\(start=0.5, end=1.0\), .*\(got none\)"
    ):
        make(mixing=Annealed())
    loader = make(mixing=Annealed(0.0, 1.0), total_steps=8, update_every=2, steps_per_epoch=4)
    seen = [loader.batch_proportions for _ in range(3) for _batch in loader]
    for step, p in enumerate(seen):
        progress = min(max(step // 2 - 1, 0) * 2, 8) / 8  # a window takes effect after the next one
        expected = np.where(SIZES > 0, SIZES**progress, 0)
        np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-12)


def test_annealed_with_offsets_is_classical_training_on_classes_of_equal_size() -> None:
    classes = np.arange(700) % 7
    annealed, classical = (
        Loader(classes, batch_size=10, classes=classes, mixing=mixing, total_steps=140, seed=3, include=["rows"])
        for mixing in (Annealed(), None)
    )
    for _ in range(2):
        for ours, theirs in zip(annealed, classical, strict=True):
            assert torch.equal(ours[1], theirs[1])
            assert not annealed.class_offsets("balanced").any()
            assert not annealed.class_offsets("proportional").any()


def test_a_custom_policy_is_called_with_copies() -> None:
    class Vandal(Spy):
        def initial(self, class_sizes: Any) -> Any:
            shares = class_sizes / class_sizes.sum()
            class_sizes[:] = 0
            return shares

        def update(self, window: Any) -> Any:
            super().update(window)
            for field in dataclasses.fields(window):
                if isinstance(array := getattr(window, field.name), np.ndarray):
                    array[:] = 0
            return [0.5, 0.25, 0, 0.25]

    spy = Vandal()
    loader = make(mixing=spy)
    for _ in range(2):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
    assert loader.class_sizes.tolist() == SIZES.tolist()
    assert [sizes for _, _, sizes in spy.calls] == [SIZES.tolist()] * 2
    assert [before for before, _, _ in spy.calls] == [START.tolist(), [0.5, 0.25, 0, 0.25]]
    assert loader.class_losses[[0, 1, 3]].tolist() == [1, 2, 3]


def test_a_custom_policy_may_return_a_list_or_a_tensor() -> None:
    for answer in ([0.5, 0.25, 0, 0.25], np.array([0.5, 0.25, 0, 0.25]), torch.tensor([0.5, 0.25, 0, 0.25])):
        loader = make(mixing=Spy(lambda _, answer=answer: answer))
        record_means(loader, 1.0)
        loader.update()
        assert loader.proportions.tolist() == [0.5, 0.25, 0, 0.25]


def test_proportions_that_nearly_sum_to_one_are_renormalized() -> None:
    loader = make(mixing=Spy(lambda p: p * (1 + 5e-7)))
    record_means(loader, 1.0)
    loader.update()
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)


MISBEHAVIOUR: dict[str, tuple[Any, Any, str]] = {
    "too short": (lambda p: p[:3], ValueError, r"shape \(4,\) \(got \(3,\) from (initial|update)\(\) of Spy"),
    "too long": (lambda p: np.append(p, 0), ValueError, "4"),
    "two dimensions": (lambda p: p[None], ValueError, r"shape \(4,\) \(got \(1, 4\)"),
    "a number": (lambda p: 0.25, ValueError, "proportions must"),  # noqa: ARG005
    "NaN": (lambda p: p * math.nan, ValueError, "finite"),
    "infinite": (lambda p: p * math.inf, (ValueError, RuntimeWarning), "finite|invalid value"),
    "negative": (lambda p: p - [0, 0, 0.5, -0.5], ValueError, ">= 0"),
    "too much": (lambda p: p * 2, ValueError, "sum to 1"),
    "share for an empty class": (lambda p: p[[0, 1, 3, 2]], ValueError, r"without rows must have proportion 0"),
    "strings": (lambda p: ["a"] * 4, TypeError, "proportions must be numbers"),  # noqa: ARG005
    "None": (lambda p: None, TypeError, r"proportions must be numbers \(got None"),  # noqa: ARG005
    "complex": (lambda p: p + 0j, TypeError, "proportions must be numbers"),
    "ragged": (lambda p: [[0.5], 0.5], TypeError, "proportions must be numbers"),  # noqa: ARG005
    "raises": (lambda p: p["x"], IndexError, "only integers"),
}


@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_misbehaving_policy_raises_and_no_losses_are_lost(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]
    behaves = [False]
    loader = make(mixing=Spy(lambda p: p if behaves[0] else answer(p)))
    for _ in range(2):
        batches = iter(loader)
        for _batch in itertools.islice(batches, STEPS):
            record_means(loader, 1.0, 2.0, 3.0)
        before = loader.state_dict()
        with pytest.raises(error, match=message):
            next(batches)
        assert loader.state_dict() == before
        behaves[0] = True
        assert list(batches) == []
        assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
        assert loader.history[-1]["counts"].tolist() == [STEPS, STEPS, 0, STEPS]
        behaves[0] = False


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_misbehaving_policy_raises_at_the_end_of_its_window(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]
    behaves = [False]
    loader = make(mixing=Spy(lambda p: p if behaves[0] else answer(p)), update_every=2, prefetch=4)
    twin = make(mixing=Spy(), update_every=2)
    expected = [batch.tolist() for batch in twin]
    batches, got = iter(loader), []
    for _ in range(2):
        got.append(next(batches).tolist())
        record_means(loader, 1.0, 2.0, 3.0)
    before = loader.state_dict()
    with pytest.raises(error, match=message):
        next(batches)
    assert loader.state_dict() == before
    behaves[0] = True
    got += [batch.tolist() for batch in batches]
    assert got == expected
    assert loader.history[0]["counts"].tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_policy_that_keeps_misbehaving_does_not_stop_the_run(how: str, every: Any) -> None:
    answer, error, _ = MISBEHAVIOUR[how]
    loader = make(mixing=Spy(answer), update_every=every)
    expected = [batch.tolist() for batch in make(mixing=Proportional(), steps_per_epoch=2 * STEPS)]
    got: list[list[int]] = []
    batches, failed = iter(loader), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while len(got) < 2 * STEPS:
            try:
                batch = next(batches, None)
            except error:
                failed += 1
                continue
            if batch is None:
                batches = iter(loader)
                continue
            got.append(batch.tolist())
            record_means(loader, 1.0, 2.0, 3.0)
    assert failed == sum("failed again on the same losses" in str(warning.message) for warning in caught) > 0
    assert [len(batch) for batch in got] == [6] * 2 * STEPS
    assert loader.history == []
    assert loader.proportions.tolist() == START.tolist()
    assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
    assert got[:STEPS] == expected[:STEPS]


@pytest.mark.parametrize("how", [how for how in MISBEHAVIOUR if how != "raises"])
def test_wrong_initial_proportions_are_refused(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]

    class Wrong(Spy):
        def initial(self, class_sizes: Any) -> Any:
            return answer(class_sizes / class_sizes.sum())

    with pytest.raises(error, match=message):
        make(mixing=Wrong())


def test_group_dro_continues_after_a_share_became_0() -> None:
    policy = GroupDRO(1.0)
    proportions = np.array([0.5, 0.5])
    for losses in ([1000.0, 0.0], [1000.0, 0.0], [0.0, 2000.0]):
        proportions = policy.update(Window.of(proportions, losses, [10, 10]))
    assert proportions.tolist() == [1, 0]


# ---- properties


@pytest.mark.filterwarnings("ignore:non-finite losses", "ignore:the mean loss of a class is negative")
@settings(max_examples=150)
@given(
    losses=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3]), st.floats(width=32) | st.floats(0, 10)), min_size=1, max_size=30
    ),
    mixing=st.sampled_from([Learn2Mix(0.3), Learn2Mix(1.0, min_share=0.05), GroupDRO(0.5)]),
)
def test_any_recorded_losses_give_valid_proportions(losses: list[tuple[int, float]], mixing: Any) -> None:
    loader = make(mixing=mixing, num_threads=0, prefetch=0)
    for _ in range(2):
        loader.record([loss for _, loss in losses], classes=[k for k, _ in losses])
        loader.update()
        p = loader.proportions
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        assert p[2] == 0
        assert p.sum() == pytest.approx(1, abs=1e-12)
    assert next(iter(loader)).shape == (6,)


def test_a_policy_that_raises_stop_iteration_does_not_end_the_epoch() -> None:
    class Stopping:
        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, *_: Any) -> Any:
            return next(iter(()))

    loader = Loader(
        np.arange(96),
        batch_size=8,
        classes=np.arange(96) % 4,
        mixing=Stopping(),
        update_every=3,
        format="numpy",
        seed=0,
    )
    batches = iter(loader)
    for _ in range(3):
        next(batches)
        loader.record(np.ones(8))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        next(batches)
