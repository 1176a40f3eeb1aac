"""Proportions of the oracle, and how they follow losses."""

from __future__ import annotations

import numpy as np
import pytest

from oracle import (
    checked_proportions,
    neumaier_sum,
)


def test_neumaier_sum_keeps_what_the_plain_sum_loses() -> None:
    assert neumaier_sum([1.0, 1e100, 1.0, -1e100]) == 2.0
    assert neumaier_sum([0.1] * 10) == 1.0
    assert neumaier_sum([]) == 0.0


@pytest.mark.parametrize(
    ("proportions", "message"),
    [
        ([0.5, 0.5], "must be 3 finite"),
        ([0.5, 0.5, 0.0, 0.0], "must be 3 finite"),
        ([1.5, -0.5, 0.0], "must be 3 finite"),
        ([np.nan, 1.0, 0.0], "must be 3 finite"),
        ([np.inf, 1.0, 0.0], "must be 3 finite"),
        ([0.5, 0.49, 0.0], "must sum to 1"),
        ([0.5, 0.25, 0.25], "empty classes must be 0"),
    ],
)
def test_bad_proportions_are_refused(proportions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_proportions(proportions, np.array([4, 4, 0]))


def test_proportions_are_renormalized() -> None:
    assert checked_proportions([0.5000004, 0.5000004], np.array([1, 1])).tolist() == [0.5, 0.5]
