"""How sure a mean over seeds is, and a difference between two of them.

A sample is one figure of each seed, `[S]`. Methods share data and first weights of a seed; Welch's test takes their samples as
independent all the same, and finds less for it. A NaN
(a run that diverged) makes everything NaN that it enters: leaving it out would flatter the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]


def interval(samples: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean over seeds, and half the width of its 95 % confidence interval by Student's t.

    The half width is t(0.975, S - 1) * s / sqrt(S), s^2 = sum (x - mean)^2 / (S - 1); Student 1908, Biometrika 6:1-25.

    Args:
        samples: `[S, ...]`, S at least 1, in any unit.

    Returns:
        Mean and half width, each `[...]`, in that unit. The half width is NaN for one seed, and 0 without spread.
    """
    mean = np.asarray(samples.mean(axis=0))
    seeds = len(samples)
    if seeds == 1:
        return mean, np.full_like(mean, math.nan)
    quantile = stats.t.ppf(0.975, seeds - 1)
    return mean, np.asarray(quantile * samples.std(axis=0, ddof=1) / math.sqrt(seeds))


def welch(first: FloatArray, second: FloatArray) -> float:
    """Two-sided p of Welch's t test: that the means are equal, whatever the variances.

    t = (m1 - m2) / sqrt(v1 + v2), v = s^2 / S, against Student's t with (v1 + v2)^2 / (v1^2 / (S1 - 1) + v2^2 / (S2 - 1))
    degrees of freedom; Welch 1947, Biometrika 34:28-35. Computed by scipy.

    Returns:
        p; NaN where there is nothing to judge by: one seed, no spread in either sample (errors on few test rows come in
        steps, so equal figures do not mean that there is none), or a NaN.
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    spreads = _spread(first), _spread(second)
    if max(spreads) == 0:
        return math.nan
    return float(
        stats.ttest_ind_from_stats(
            first.mean(), spreads[0], len(first), second.mean(), spreads[1], len(second), equal_var=False
        ).pvalue
    )


def hedges_g(first: FloatArray, second: FloatArray) -> float:
    """Difference of means in pooled standard deviations, freed of its small-sample bias.

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
    """Holm's p values: whoever calls those below 0.05 differences is wrong about any of them 5 times in 100 at most.

    The i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_j); Holm 1979, Scandinavian Journal of Statistics
    6:65-70.

    Args:
        values: p of each comparison of a family, `[m]`. A NaN stays one and counts as a comparison with p = 1.

    Returns:
        The corrected ones in the same order, `[m]`.
    """
    given = np.asarray(values, np.float64)
    ps = np.where(np.isnan(given), 1.0, given)
    order = np.argsort(ps, kind="stable")
    corrected = np.empty_like(ps)
    corrected[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(ps), 0, -1) * ps[order]))
    return np.where(np.isnan(given), math.nan, corrected)


def _spread(sample: FloatArray) -> float:
    # Rounding in the mean of equal figures must not make a spread of 1e-14, against which any difference is huge.
    return 0.0 if float(np.ptp(sample)) == 0 else float(sample.std(ddof=1))
