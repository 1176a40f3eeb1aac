"""Statistics over seeds: intervals, tests and effect sizes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln

Floats = NDArray[np.float64]


def half_interval(values: Floats, confidence: float = 0.95) -> Floats | None:
    """Returns half the width of the t-interval of the mean over seeds.

    Args:
        values: One row a seed, `[S, ...]`.
        confidence: In (0, 1).

    Returns:
        `[...]`; None where one seed says nothing of chance.
    """
    seeds = len(values)
    if seeds < 2:
        return None
    width = stats.t.ppf((1 + confidence) / 2, seeds - 1) * values.std(axis=0, ddof=1) / math.sqrt(seeds)
    return np.asarray(width)


def welch(first: Floats, second: Floats) -> float:
    """Returns the two-sided p-value of Welch's t-test (unequal variances) of two samples, `[S]` each.

    NaN where there is no test: fewer than two values or one that is not finite in a sample, or no spread in both.
    """
    if not _comparable(first, second):
        return math.nan
    # From moments: the test of the samples warns where one of them has no spread, which is no trouble here.
    moments = [(sample.mean(), sample.std(ddof=1), len(sample)) for sample in (first, second)]
    return float(stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue)


def hedges_g(first: Floats, second: Floats) -> float:
    """Returns Hedges' g, the difference of means in pooled standard deviations, without the bias of small samples.

    Hedges (1981): the exact correction, by gamma functions. NaN as in `welch`.
    """
    if not _comparable(first, second):
        return math.nan
    free = len(first) + len(second) - 2
    pooled = ((len(first) - 1) * first.var(ddof=1) + (len(second) - 1) * second.var(ddof=1)) / free
    correction = math.exp(gammaln(free / 2) - gammaln((free - 1) / 2)) / math.sqrt(free / 2)
    return float(correction * (first.mean() - second.mean()) / math.sqrt(pooled))


def holm(p_values: Floats) -> Floats:
    """Returns the p-values of one family corrected by Holm's step-down method (1979), in their order; NaN stays NaN."""
    order = [int(i) for i in np.argsort(p_values) if not math.isnan(p_values[i])]
    corrected = np.full(len(p_values), math.nan)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * float(p_values[i])))
        corrected[i] = least
    return corrected


def first_reach(at: Floats, values: Floats, level: float) -> float | None:
    """Returns the first of `at`, ascending, whose value is at most `level`; None: there is none."""
    reached = np.flatnonzero(values <= level)
    return float(at[reached[0]]) if len(reached) else None


def _comparable(first: Floats, second: Floats) -> bool:
    if min(len(first), len(second)) < 2 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False
    # Rounding gives equal values a spread of about this.
    scale = max(np.abs(first).max(), np.abs(second).max())
    return bool(max(np.ptp(first), np.ptp(second)) > 1e-12 * scale)
