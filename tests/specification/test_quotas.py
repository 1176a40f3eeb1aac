"""Quotas of the oracle are exact and spread evenly over batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from oracle import (
    Due,
    Floats,
    Ints,
    change_due,
    checked_proportions,
    first_due,
    fractions,
    next_offset,
    quotas,
)
from specification.cases import assert_uniform


def many_quotas(seed: int, proportions: ArrayLike, total: int, steps: int) -> Ints:
    """Return the quotas of `steps` batches with the same proportions, shape `[steps, K]`."""
    p = np.asarray(proportions, np.float64)
    due = first_due(seed, len(p))
    change_due(due, np.zeros(len(p)), fractions(p, total), 0)
    return np.array([quotas(seed, p, total, due) for _ in range(steps)])


def assert_apportioned(quota: Ints, proportions: Floats, total: int) -> None:
    exact = proportions * total
    assert quota.sum() == total
    assert ((quota == np.floor(exact)) | (quota == np.ceil(exact))).all()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda p: sum(p) > 0),
    st.integers(1, 100) | st.integers(1, 2**31 - 1),
    st.integers(0, 2**64 - 1),
)
def test_quotas_are_exact_and_floor_or_ceil(shares: list[float], total: int, seed: int) -> None:
    proportions = checked_proportions(np.array(shares) / sum(shares), np.ones(len(shares), np.int64))
    for quota in many_quotas(seed, proportions, total, 5):
        assert_apportioned(quota, proportions, total)


@pytest.mark.parametrize(("num_classes", "total"), [(1_000_000, 1024), (10_000, 2**31 - 1)])
def test_quotas_of_many_classes_are_exact(num_classes: int, total: int) -> None:
    shares = np.random.default_rng(0).dirichlet(np.full(num_classes, 0.1))
    proportions = checked_proportions(shares, np.ones(num_classes, np.int64))
    due = Due([0] * num_classes, [0] * num_classes, [0.0] * num_classes)
    assert_apportioned(quotas(0, proportions, total, due), proportions, total)


@pytest.mark.parametrize(("num_classes", "total"), [(3, 7), (10, 32), (50, 8), (100, 50)])
def test_drift_does_not_grow_and_gaps_stay_below_twice_the_mean(num_classes: int, total: int) -> None:
    """The bounds are wide: no seed out of 80 came near them."""
    for seed in range(3):
        p = np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.7))
        quota = many_quotas(seed, p, total, 1500)
        drift = np.cumsum(quota, 0) - np.outer(np.arange(1, 1501), p * total)
        assert abs(drift[:750]).max() < 3
        assert abs(drift[750:]).max() < 3
        for k in np.flatnonzero((p * total < 1) & (p * total > 0.002)):
            longest, mean = np.diff(np.flatnonzero(quota[:, k])).max(), 1 / (p[k] * total)
            assert longest <= 1.5 * mean + 4
            if mean >= 10:
                assert longest < 2.2 * mean


@pytest.mark.parametrize(
    ("shares", "total"),
    [([1.0] * 10, 1), ([3.0] + [1.0] * 17, 1), ([11.0] * 6 + [1.0] * 34, 2), ([1.0] * 200, 7)],
    ids=["equal", "one larger", "some larger", "many"],
)
def test_gaps_of_a_rare_class_stay_below_2_2_times_the_mean(shares: list[float], total: int) -> None:
    """The maximum over 600 random sets of shares was 2.0 in 200,000 steps each."""
    p = np.array(shares) / sum(shares)
    quota = many_quotas(1, p, total, 4000)
    for k in np.flatnonzero(p * total <= 0.1):
        assert np.diff(np.flatnonzero(quota[:, k])).max() < 2.2 / (p[k] * total)


def test_offsets_stay_uniform_and_move_by_at_most_half_an_interval() -> None:
    generator = np.random.default_rng(0)
    offsets = generator.integers(0, 2**16, 20_000)
    for _ in range(5):
        quarters = generator.integers(0, 2**16, 20_000)
        moved = np.array([next_offset(int(o), int(q)) for o, q in zip(offsets, quarters, strict=True)])
        assert abs(moved - offsets).max() <= 2**15
        offsets = moved
    assert_uniform(np.bincount(offsets // 2**10, minlength=64))
    starts = np.repeat([0, 1, 2**15, 2**16 - 1], 2**16)
    ends = np.array([next_offset(int(o), q % 2**16) for q, o in enumerate(starts)])
    assert ends.min() == 0
    assert ends.max() == 2**16 - 1


def test_drift_does_not_grow_if_a_class_is_due_whole_rows_in_every_other_window() -> None:
    due, now, drift = first_due(2, 3), np.zeros(3), np.zeros(3)
    for window in range(1500):
        p = np.array([0.1, 0.3, 0.6]) if window % 2 else np.array([0.123, 0.271, 0.606])
        change_due(due, fractions(now, 10), fractions(p, 10), 3 * window)
        now = p
        for _ in range(3):
            drift += quotas(2, p, 10, due) - p * 10
            assert abs(drift).max() < 3


def test_classes_meet_in_batches_nearly_independently() -> None:
    steps = 1500
    quota = many_quotas(0, np.full(100, 0.01), 50, steps)
    assert len({row.tobytes() for row in quota}) == steps
    meetings = quota.T @ quota
    pairs = meetings[np.triu_indices(100, 1)] / steps
    # Independent classes would meet in a quarter of the batches, within 0.011; quotas distribute each class more evenly.
    assert abs(pairs.mean() - 0.25 * 49 / 49.5) < 0.002
    assert pairs.min() > 0.15
    assert pairs.max() < 0.35


def test_due_times_follow_changing_fractions() -> None:
    due = Due([0] * 5, [0] * 5, [0.75, 12.0, 0.5, 14.0, 15.0])
    old, new = np.array([0.0, 0.25, 0.0, 0.5, 0.125]), np.array([0.0, 0.5, 0.25, 0.0, 0.125])
    change_due(due, old, new, 10)
    assert due.times == [0.75, 11.0, 12.0, 2.0, 15.0]
