"""Statistics over seeds, each against a formula of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from l2m_fast.experiments.statistics import first_reach, half_interval, hedges_g, holm, welch

samples = st.lists(st.integers(-50, 50), min_size=2, max_size=8).map(lambda values: np.array(values) / 7)


def test_interval_of_five_seeds_by_the_table_of_t() -> None:
    values = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, 10.0], [4.0, 10.0], [5.0, 10.0]])
    half = half_interval(values)
    assert half is not None
    # t(0.975, 4) = 2.776, and the standard deviation of 1 .. 5 is sqrt(2.5).
    assert half == pytest.approx([2.776445 * math.sqrt(2.5 / 5), 0], abs=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert half_interval(np.array([[1.0, 2.0]])) is None


@given(samples, samples)
def test_welch_against_its_formula(first: np.ndarray, second: np.ndarray) -> None:
    of_means = first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)
    if sum(of_means) < 1e-12:
        assert math.isnan(welch(first, second))
        return
    t = abs(first.mean() - second.mean()) / math.sqrt(sum(of_means))
    # Welch and Satterthwaite's degrees of freedom, and the tails of the density of t by quadrature.
    free = sum(of_means) ** 2 / (of_means[0] ** 2 / (len(first) - 1) + of_means[1] ** 2 / (len(second) - 1))
    scale = math.gamma((free + 1) / 2) / (math.sqrt(free * math.pi) * math.gamma(free / 2))
    inner, _ = quad(lambda x: scale * (1 + x * x / free) ** (-(free + 1) / 2), 0, min(t, 1e3), limit=500, points=[1.0])
    assert welch(first, second) == pytest.approx(1 - 2 * inner, abs=1e-3 if t > 1e3 else 1e-6)


@given(samples, samples)
def test_hedges_g_against_its_formula(first: np.ndarray, second: np.ndarray) -> None:
    free = len(first) + len(second) - 2
    squares = sum(((sample - sample.mean()) ** 2).sum() for sample in (first, second))
    if squares < 1e-12:
        assert math.isnan(hedges_g(first, second))
        return
    d = (first.mean() - second.mean()) / math.sqrt(squares / free)
    exact = math.gamma(free / 2) / (math.sqrt(free / 2) * math.gamma((free - 1) / 2))
    assert hedges_g(first, second) == pytest.approx(exact * d)
    if free >= 4:  # the approximation that textbooks give
        assert exact == pytest.approx(1 - 3 / (4 * free - 1), rel=0.01)


@pytest.mark.parametrize("statistic", [welch, hedges_g])
def test_nothing_is_said_of_one_value_or_of_what_is_not_finite(statistic: object) -> None:
    assert callable(statistic)
    two = np.array([1.0, 2.0])
    for other in ([3.0], [3.0, math.nan], [3.0, math.inf]):
        assert math.isnan(statistic(two, np.array(other)))
        assert math.isnan(statistic(np.array(other), two))


def test_holm_on_a_textbook_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.integers(0, 100).map(lambda i: i / 100), max_size=8), st.integers(0, 100))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float], percent: int) -> None:
    level = percent / 100 + 1e-4  # never exactly on a product of the p-values
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected.add(i)
    corrected = holm(np.array(p_values))
    if level < 1:
        assert set(np.flatnonzero(corrected <= level)) == rejected


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm(np.array([0.02, math.nan, 0.03])) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)


def test_first_reach() -> None:
    at, values = np.array([0.0, 0.5, 1.5, 2.0]), np.array([3.0, 2.0, 2.5, 1.0])
    assert [first_reach(at, values, level) for level in (3, 2.2, 2, 1.5, 0.9)] == [0, 0.5, 0.5, 2, None]
    assert first_reach(at, np.full(4, np.nan), 5) is None
