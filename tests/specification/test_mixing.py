"""Elementary functions and sums of the oracle have the stated accuracy, and its policies follow their papers."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oracle import (
    LARGEST,
    Balanced,
    EffectiveNumber,
    Floats,
    GroupDRO,
    Learn2Mix,
    Policy,
    Proportional,
    Static,
    Temperature,
    Window,
    checked_proportions,
    exp,
    expm1,
    log,
    neumaier_sum,
    pow,
    without_gaps,
)

SMALLEST = 2.0**-1074
SIZES = np.array([40, 10, 0, 1])


def relative_error(value: float, exact: Decimal) -> Decimal:
    return abs(Decimal(value) - exact) / abs(exact)


def many_digits() -> Any:
    return localcontext(Context(prec=60, Emin=-10_000, Emax=10_000))


# ---- Elementary functions

POSITIVE = st.floats(SMALLEST, LARGEST) | st.floats(0.5, 2)


@given(POSITIVE)
@example(SMALLEST)
@example(LARGEST)
@example(math.nextafter(1, 0))
@example(math.nextafter(1, 2))
@example(math.sqrt(0.5))
def test_log_is_within_its_error(x: float) -> None:
    if x == 1:
        assert log(x) == 0
        return
    with many_digits():
        assert relative_error(log(x), Decimal(x).ln()) <= Decimal(2) ** -51


@given(st.floats(-745.2, 709.7) | st.floats(-1, 1))
@example(709.7)
@example(-708.4)
@example(-745.1)
@example(-745.2)
def test_exp_is_within_its_error(x: float) -> None:
    with many_digits():
        exact = Decimal(x).exp()
        error = abs(Decimal(exp(x)) - exact)
        assert error <= max(exact * Decimal(2) ** -50, Decimal(SMALLEST) / 2)


@given(st.floats(-800, 709.7) | st.floats(-0.4, 0.4))
@example(1e-300)
@example(0.34)
@example(math.nextafter(0.34, 1))
@example(-0.34)
@example(math.nextafter(-0.34, -1))
def test_expm1_is_within_its_error(x: float) -> None:
    if x == 0:
        assert expm1(x) == 0
        return
    with many_digits():
        exact = Decimal(x).exp() - 1 if abs(x) > 1e-20 else Decimal(x) * (1 + Decimal(x) / 2)
        assert relative_error(expm1(x), exact) <= Decimal(2) ** -49


@given(st.floats(SMALLEST, 1) | st.floats(0.9, 1), st.floats(1e-3, 1e3))
@example(SMALLEST, 1.0)
@example(0.5, 1074.0)
@example(0.5, 1075.5)
def test_pow_is_within_its_error(x: float, y: float) -> None:
    with many_digits():
        exact = (Decimal(y) * Decimal(x).ln()).exp()
        assert abs(Decimal(pow(x, y)) - exact) <= max(exact * Decimal(2) ** -42, Decimal(SMALLEST) / 2)


def test_elementary_functions_at_the_ends_of_their_range() -> None:
    assert (exp(0.0), exp(-math.inf), exp(math.inf), exp(709.8), exp(-745.3)) == (1.0, 0.0, math.inf, math.inf, 0.0)
    assert (log(1.0), expm1(-math.inf), expm1(math.inf)) == (0.0, -1.0, math.inf)
    assert (pow(0.0, 3.0), pow(1.0, math.inf), pow(0.5, math.inf), pow(0.5, 0.0)) == (0.0, 1.0, 0.0, 1.0)


# ---- Policies


def window(proportions: list[float], class_losses: list[float], class_sizes: list[int]) -> Window:
    """Return a window with given shares, losses and sizes, and defaults for the rest."""
    zeros = np.zeros(len(class_sizes), np.int64)
    losses, sizes = np.array(class_losses), np.array(class_sizes)
    return Window(np.array(proportions), losses, sizes, zeros, zeros, zeros, 0, None, np.zeros((0, len(sizes))))


def next_of(policy: Policy, *of: Any) -> list[float]:
    result = policy.update(window(*of))
    assert isinstance(result, np.ndarray)
    return [float(share) for share in result]


def normalized(amounts: list[float]) -> Floats:
    return np.array(amounts) / math.fsum(amounts)


@pytest.mark.parametrize(
    ("policy", "amounts"),
    [
        (Proportional(), [40, 10, 0, 1]),
        (Balanced(), [1, 1, 0, 1]),
        (Static([0.2, 0.3, 0, 0.5]), [0.2, 0.3, 0, 0.5]),
        (Temperature(1.0), [40, 10, 0, 1]),
        (Temperature(2.0), [40**0.5, 10**0.5, 0, 1]),
        (Temperature(math.inf), [1, 1, 0, 1]),
        (Temperature(1e-310), [1, 0, 0, 0]),
        (EffectiveNumber(0), [40, 10, 0, 1]),
        (EffectiveNumber(0.9), [40 / (1 - 0.9**40), 10 / (1 - 0.9**10), 0, 1 / (1 - 0.9)]),
        (EffectiveNumber(1 - 2**-40), [1, 1, 0, 1]),
        (Learn2Mix(), [40, 10, 0, 1]),
        (Learn2Mix(start="balanced"), [1, 1, 0, 1]),
        (Learn2Mix(min_share=0.25), [0.25 + 0.25 * 40 / 51, 0.25 + 0.25 * 10 / 51, 0, 0.25 + 0.25 / 51]),
        (GroupDRO(0.1), [1, 1, 0, 1]),
    ],
    ids=repr,
)
def test_initial_proportions_are_the_shares_of_the_rule(policy: Policy, amounts: list[float]) -> None:
    np.testing.assert_allclose(np.asarray(policy.initial(SIZES)), normalized(amounts), rtol=1e-10)


@pytest.mark.parametrize("policy", [Proportional(), Balanced(), Static([1.0]), Temperature(2.0), EffectiveNumber(0.5)])
def test_fixed_policies_are_marked_fixed_and_keep_their_proportions(policy: Policy) -> None:
    assert getattr(policy, "fixed", False) is True
    assert next_of(policy, [0.25, 0.75], [3.0, 1.0], [1, 1]) == [0.25, 0.75]


@pytest.mark.parametrize("policy", [Learn2Mix(), GroupDRO(0.1)])
def test_policies_that_follow_losses_are_not_fixed(policy: Policy) -> None:
    assert not getattr(policy, "fixed", False)
    assert not getattr(policy, "schedule", False)


def test_learn2mix_steps_towards_the_loss_shares() -> None:
    of = ([0.5, 0.25, 0.25, 0.0], [1.0, 3.0, 0.0, 0.0], [2, 1, 1, 0])
    assert next_of(Learn2Mix(0.5), *of) == [0.375, 0.5, 0.125, 0.0]
    assert next_of(Learn2Mix(0.5, min_share=0.25), *of) == [0.34375, 0.375, 0.28125, 0.0]


def test_learn2mix_keeps_the_proportions_if_all_losses_are_0() -> None:
    assert next_of(Learn2Mix(0.5, min_share=0.25), [0.75, 0.25], [0.0, 0.0], [1, 1]) == [0.75, 0.25]


def test_learn2mix_accepts_losses_whose_sum_overflows() -> None:
    assert next_of(Learn2Mix(0.5), [0.25, 0.75], [LARGEST, LARGEST], [1, 1]) == [0.375, 0.625]


def test_group_dro_multiplies_by_the_exponential_of_the_loss() -> None:
    expected = normalized([0.5 * math.exp(0.25), 0.25 * math.exp(0.75), 0.25])
    given_by = next_of(GroupDRO(0.25), [0.5, 0.25, 0.25], [1.0, 3.0, 0.0], [1, 1, 1])
    np.testing.assert_allclose(given_by, expected, rtol=1e-14)


def test_group_dro_ignores_shares_of_0_and_their_losses() -> None:
    assert next_of(GroupDRO(1.0), [0.5, 0.5, 0.0], [1.0, 1.0, 1e300], [1, 1, 1]) == [0.5, 0.5, 0.0]
    assert next_of(GroupDRO(1.0), [0.5, 0.5], [LARGEST, 0.0], [1, 1]) == [1.0, 0.0]


def test_missing_losses_are_0_for_empty_classes_and_else_the_mean_of_the_others() -> None:
    assert without_gaps([3.0, None, None, 0.0], SIZES).tolist() == [3.0, 1.5, 0.0, 0.0]
    assert without_gaps([None] * 4, SIZES).tolist() == [0.0] * 4
    assert without_gaps([LARGEST, None, None, LARGEST], SIZES).tolist() == [LARGEST, LARGEST, 0.0, LARGEST]


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
