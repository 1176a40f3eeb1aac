"""Intervals, tests and effect sizes against independent formulas, and their results without spread or with NaN."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import special, stats

from l2m_experiments.statistics import (
    bootstrap,
    equivalent,
    hedges_g,
    holm,
    interval,
    not_worse,
    paired,
    wilcoxon,
)

# Hundredths, like errors on a test set: values are equal or clearly different, never different by rounding only.
figures = st.integers(-100_000, 100_000).map(lambda hundredths: hundredths / 100)
samples = st.lists(figures, min_size=2, max_size=6).map(np.array)
probabilities = st.floats(0, 1)


def test_the_interval_of_a_worked_example() -> None:
    mean, half = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert half == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)


@given(samples)
def test_the_interval_agrees_with_scipy(sample: np.ndarray) -> None:
    assume(np.ptp(sample) > 0)
    mean, half = interval(sample)
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=sample.mean(), scale=stats.sem(sample))
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-9, atol=1e-9)


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    mean, half = interval(np.random.default_rng(0).normal(7, 3, (3, 4000)))
    assert np.mean(np.abs(mean - 7) <= half) == pytest.approx(0.95, abs=0.012)


def test_the_interval_of_one_seed_of_equal_values_and_of_nan() -> None:
    curve = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(interval(curve), [[1, 2], [math.nan, math.nan]])
    np.testing.assert_array_equal(interval(np.repeat(curve, 3, axis=0)), [[1, 2], [0, 0]])
    mean, half = interval(np.array([[1.0, 1.0], [math.nan, 3.0]]))
    np.testing.assert_array_equal(np.isnan([mean, half]), [[True, False], [True, False]])


pairs = st.lists(st.tuples(figures, figures), min_size=2, max_size=6).map(lambda of: np.array(of).T)


@given(pairs)
def test_the_paired_test_is_the_incomplete_beta_function_of_its_statistic(sample: np.ndarray) -> None:
    first, second = sample
    d = np.round(first - second, 2)
    assume(np.ptp(d) > 0)
    freedom = len(d) - 1
    error = math.sqrt(((d - d.mean()) ** 2).sum() / freedom / len(d))
    t = d.mean() / error
    p, half = paired(first, second)
    assert p == pytest.approx(special.betainc(freedom / 2, 0.5, freedom / (freedom + t * t)), rel=1e-6)
    assert half == pytest.approx(special.stdtrit(freedom, 0.975) * error, rel=1e-6)
    assert paired(second, first) == pytest.approx((p, half))


def test_the_tests_agree_with_scipy() -> None:
    first, second = np.array([3.1, 2.9, 3.4, 3.3]), np.array([4.0, 5.5, 3.8, 3.2])
    tested = stats.ttest_rel(first, second)
    low, high = tested.confidence_interval(0.95)
    assert paired(first, second) == pytest.approx((tested.pvalue, (high - low) / 2))
    assert wilcoxon(first, second) == pytest.approx(stats.wilcoxon(first, second).pvalue)


@given(st.integers(2, 9), st.integers(0, 3))
def test_wilcoxon_counts_the_signs_of_the_ranks(seeds: int, seed: int) -> None:
    rng = np.random.default_rng(100 * seeds + seed)
    d = rng.normal(0.5, 1, seeds)
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=seeds)]
    got = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    assert wilcoxon(d, np.zeros(seeds)) == pytest.approx(min(1.0, 2 * np.mean(np.array(sums) <= got)))


def test_what_seeds_share_does_not_hide_a_difference() -> None:
    of_seed = np.array([1.0, 5.0, 9.0, 3.0])
    better = of_seed - np.array([0.5, 0.6, 0.4, 0.5])
    assert paired(of_seed, better)[0] < 0.002
    assert stats.ttest_ind(of_seed, better).pvalue > 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0], [2.0]),
        ([97.1, 97.1, 97.1], [95.3, 95.3, 95.3]),  # the mean is not 95.3 to the last bit
        ([1.0, 1.0], [1.0, 1.0]),
        ([1.0, math.nan], [2.0, 3.0]),
        ([0.3, 0.1 + 0.2, 0.7], [0.1, 0.1, 0.5]),  # equal steps, except for rounding
    ],
)
def test_without_spread_or_seeds_the_results_are_nan(first: list[float], second: list[float]) -> None:
    assert np.isnan(paired(np.array(first), np.array(second))).all()
    assert math.isnan(wilcoxon(np.array(first), np.array(second)))
    assert math.isnan(not_worse(np.array(first), np.array(second), 1.0))
    assert math.isnan(equivalent(np.array(first), np.array(second), 1.0))


@given(pairs, st.floats(0.01, 1000))
def test_not_worse_and_equivalent_are_one_sided_tests_of_shifted_differences(sample: np.ndarray, margin: float) -> None:
    rival, method = sample
    d = np.round(rival - method, 2)
    assume(np.ptp(d) > 0)
    worse = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    better = stats.ttest_1samp(d, margin, alternative="less").pvalue
    assert not_worse(rival, method, margin) == pytest.approx(worse, rel=1e-6, abs=1e-12)
    assert equivalent(rival, method, margin) == pytest.approx(max(worse, better), rel=1e-6, abs=1e-12)
    assert equivalent(method, rival, margin) == equivalent(rival, method, margin)


def test_methods_at_the_margin_are_called_equivalent_at_most_5_times_in_100() -> None:
    d = np.random.default_rng(0).normal(1.0, 1.0, (2000, 8))
    zero = np.zeros(8)
    # 0.05 + 4 standard errors of 2000 draws: a false alarm in 30,000 seeds.
    assert np.mean([not_worse(zero, of_seeds, 1.0) < 0.05 for of_seeds in d]) < 0.05 + 4 * 0.0049
    assert np.mean([equivalent(zero, of_seeds, 1.0) < 0.05 for of_seeds in d]) < 0.05 + 4 * 0.0049
    assert np.mean([equivalent(zero, 0.1 * (of_seeds - 1), 1.0) < 0.05 for of_seeds in d]) > 0.99


def test_the_bootstrap_of_a_normal_sample_is_near_its_interval() -> None:
    sample = np.random.default_rng(1).normal(5, 2, 200)
    mean, half = interval(sample)
    np.testing.assert_allclose(bootstrap(sample), (mean - half, mean + half), atol=0.05)
    assert bootstrap(np.array([3.0])) == (3, 3)
    assert np.isnan(bootstrap(np.array([3.0, math.nan]))).all()


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0, math.nan], [2.0, 3.0])]
)
def test_without_spread_or_seeds_there_is_no_effect_size(first: list[float], second: list[float]) -> None:
    assert math.isnan(hedges_g(np.array(first), np.array(second)))


def test_hedges_g_of_a_worked_example() -> None:
    # Means 6 and 3, variances 4 and 1, so 2.5 pooled; J(4) = Gamma(2) / (sqrt(2) Gamma(1.5)) = 0.797885.
    g = hedges_g(np.array([4.0, 6.0, 8.0]), np.array([2.0, 3.0, 4.0]))
    assert g == pytest.approx(0.797885 * 3 / math.sqrt(2.5), rel=1e-6)


@given(samples, samples, figures)
def test_hedges_g_is_antisymmetric_and_ignores_a_shift(first: np.ndarray, second: np.ndarray, shift: float) -> None:
    assume(np.ptp(first) + np.ptp(second) > 0)
    g = hedges_g(first, second)
    assert hedges_g(second, first) == pytest.approx(-g)
    assert hedges_g(first + shift, second + shift) == pytest.approx(g, rel=1e-6, abs=1e-6)


def test_hedges_g_is_unbiased_and_near_the_usual_approximation() -> None:
    rng = np.random.default_rng(1)
    gs = [hedges_g(rng.normal(1, 1, 3), rng.normal(0, 1, 3)) for _ in range(4000)]
    assert np.mean(gs) == pytest.approx(1, abs=4 * float(np.std(gs)) / math.sqrt(len(gs)))
    first, second = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
    d = (first.mean() - second.mean()) / math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    assert hedges_g(first, second) == pytest.approx((1 - 3 / (4 * 38 - 1)) * d, rel=1e-4)


def test_holm_of_a_worked_example() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@given(st.lists(probabilities, min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(ps: list[float]) -> None:
    """A hypothesis is rejected only if every intersection that contains it is (Marcus, Peritz and Gabriel 1976)."""
    closed = [
        max(
            min(1.0, size * min(ps[j] for j in group))
            for size in range(1, len(ps) + 1)
            for group in combinations(range(len(ps)), size)
            if i in group
        )
        for i in range(len(ps))
    ]
    np.testing.assert_allclose(holm(ps), closed)


@given(st.lists(probabilities, min_size=1, max_size=6))
def test_holm_never_lowers_a_p_and_keeps_the_order(ps: list[float]) -> None:
    corrected = holm(ps)
    assert np.all(corrected >= ps)
    assert np.all(corrected <= 1)
    assert np.all(np.diff(corrected[np.argsort(ps)]) >= 0)


def test_a_comparison_without_p_still_counts_in_its_family() -> None:
    np.testing.assert_array_equal(holm([0.02, math.nan]), [0.04, math.nan])
    assert len(holm([])) == 0
