"""Statistics over seeds: intervals of means and of differences, Welch's test, effect sizes and Holm's correction.

A sample has one value per seed, `[S]`. Methods share the data and initial weights of a seed; Welch's test treats the samples
as independent anyway, which makes it conservative. A NaN (a run that diverged) makes every result NaN that depends on it:
dropping it would favor the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]


def interval(samples: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean over seeds and half the width of its 95 % confidence interval by Student's t.

    The half width is t(0.975, S - 1) * s / sqrt(S), s^2 = sum (x - mean)^2 / (S - 1); Student 1908, Biometrika 6:1-25.

    Args:
        samples: `[S, ...]`, S at least 1, in any unit.

    Returns:
        Mean and half width, each `[...]`, in the same unit. The half width is NaN for one seed, and 0 without spread.
    """
    mean = np.asarray(samples.mean(axis=0))
    seeds = len(samples)
    if seeds == 1:
        return mean, np.full_like(mean, math.nan)
    quantile = stats.t.ppf(0.975, seeds - 1)
    return mean, np.asarray(quantile * samples.std(axis=0, ddof=1) / math.sqrt(seeds))


def welch(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Test whether the means of two samples differ, by Welch's t test with unequal variances.

    t = (m1 - m2) / sqrt(v1 + v2), v = s^2 / S, against Student's t with f = (v1 + v2)^2 / (v1^2 / (S1 - 1) + v2^2 / (S2 - 1))
    degrees of freedom; Welch 1947, Biometrika 34:28-35.

    Returns:
        Two-sided p, and half the width of the 95 % confidence interval of m1 - m2, t(0.975, f) * sqrt(v1 + v2). Both are NaN
        if there is one seed, no spread in either sample (errors on few test rows come in steps, so equal values do not mean
        zero variance), or a NaN.
    """
    if min(len(first), len(second)) < 2:
        return math.nan, math.nan
    variances = [_spread(sample) ** 2 / len(sample) for sample in (first, second)]
    variance = sum(variances)
    if variance == 0 or math.isnan(variance):
        return math.nan, math.nan
    freedom = variance**2 / sum(v**2 / (len(s) - 1) for v, s in zip(variances, (first, second), strict=True))
    t = float(first.mean() - second.mean()) / math.sqrt(variance)
    return float(2 * stats.t.sf(abs(t), freedom)), float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)


def hedges_g(first: FloatArray, second: FloatArray) -> float:
    """Return the difference of means in pooled standard deviations, corrected for small samples.

    g = J(m) * (m1 - m2) / s, s^2 = ((S1 - 1) s1^2 + (S2 - 1) s2^2) / m, m = S1 + S2 - 2,
    J(m) = Gamma(m / 2) / (sqrt(m / 2) * Gamma((m - 1) / 2)); Hedges 1981, Journal of Educational Statistics 6:107-128.

    Returns:
        g; NaN for one seed, without spread, or with a NaN.
    """
    sizes = len(first), len(second)
    if min(sizes) < 2:
        return math.nan
    freedom = sum(sizes) - 2
    squares = sum((size - 1) * _spread(sample) ** 2 for size, sample in zip(sizes, (first, second), strict=True))
    if squares == 0:
        return math.nan
    unbiased = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return unbiased * float(first.mean() - second.mean()) / math.sqrt(squares / freedom)


def holm(values: Sequence[float]) -> FloatArray:
    """Correct the p values of a family by Holm's method.

    If every corrected p below 0.05 is called significant, the probability of any false positive is at most 5 %. The i-th
    smallest of m becomes max over j <= i of min(1, (m - j + 1) p_j); Holm 1979, Scandinavian Journal of Statistics 6:65-70.

    Args:
        values: p of each comparison of a family, `[m]`. A NaN stays NaN and counts as a comparison with p = 1.

    Returns:
        Corrected values in the same order, `[m]`.
    """
    given = np.asarray(values, np.float64)
    ps = np.where(np.isnan(given), 1.0, given)
    order = np.argsort(ps, kind="stable")
    corrected = np.empty_like(ps)
    corrected[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(ps), 0, -1) * ps[order]))
    return np.where(np.isnan(given), math.nan, corrected)


def _spread(sample: FloatArray) -> float:
    # Rounding in the mean of equal values must not give a spread of 1e-14, which would make any difference significant.
    return 0.0 if float(np.ptp(sample)) == 0 else float(sample.std(ddof=1))
