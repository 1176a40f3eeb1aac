"""Statistics over seeds and over tasks.

Over seeds: intervals of means and of differences, paired tests, effect sizes and Holm's correction. Over tasks: intervals by the
bootstrap.

A sample has one value per seed, `[S]`. Methods share the data and initial weights of a seed, so that their values are compared
seed by seed. A NaN (a run that diverged) makes every result NaN that depends on it: dropping it would favor the method.
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


def paired(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Test whether the mean of the differences of two samples is 0, by the paired t test.

    t = mean(d) / (s / sqrt(S)), d = first - second, s^2 = sum (d - mean(d))^2 / (S - 1), against Student's t with S - 1
    degrees of freedom; Student 1908, Biometrika 6:1-25.

    Args:
        first: `[S]`, in the order of the seeds.
        second: `[S]`, of the same seeds.

    Returns:
        Two-sided p, and half the width of the 95 % confidence interval of the mean difference, t(0.975, S - 1) * s / sqrt(S).
        Both are NaN if there is one seed, no spread of the differences (errors on few test rows come in steps, so equal
        differences do not mean zero variance), or a NaN.
    """
    differences = _differences(first, second)
    if _untestable(differences):
        return math.nan, math.nan
    error = _spread(differences) / math.sqrt(len(differences))
    freedom = len(differences) - 1
    t = float(differences.mean()) / error
    return float(2 * stats.t.sf(abs(t), freedom)), float(stats.t.ppf(0.975, freedom)) * error


def wilcoxon(first: FloatArray, second: FloatArray) -> float:
    """Test whether the differences of two samples are symmetric about 0, by Wilcoxon's signed-rank test.

    It needs no normal distribution, and is a check of `paired()`. Differences of 0 are dropped; Wilcoxon 1945, Biometrics
    Bulletin 1:80-83.

    Returns:
        Two-sided p, exact for up to 50 seeds without ties; NaN where `paired()` is NaN. At least 2^(1 - S).
    """
    differences = _differences(first, second)
    if _untestable(differences):
        return math.nan
    return float(stats.wilcoxon(differences).pvalue)


def not_worse(rival: FloatArray, method: FloatArray, margin: float) -> float:
    """Test whether a method is worse than a rival by less than a margin, by the paired t test: a test of non-inferiority.

    The null hypothesis is that it is worse by the margin or more. t = (mean(d) + margin) / (s / sqrt(S)),
    d = rival - method, as in `paired()`.

    Args:
        rival: Errors, `[S]`, in the order of the seeds.
        method: Errors, `[S]`, of the same seeds.
        margin: Largest mean difference that does not matter, above 0, in the unit of the errors.

    Returns:
        One-sided p; a small p shows that the method is worse by less than the margin, or better. NaN where `paired()` is NaN.
    """
    differences = _differences(rival, method)
    if _untestable(differences):
        return math.nan
    error = _spread(differences) / math.sqrt(len(differences))
    return float(stats.t.sf((float(differences.mean()) + margin) / error, len(differences) - 1))


def equivalent(first: FloatArray, second: FloatArray, margin: float) -> float:
    """Test whether the means of two samples differ by less than a margin, by two one-sided tests.

    Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657-680. See `not_worse()` for the arguments.

    Returns:
        The larger p of the two; a small p shows that the difference is within the margin. NaN where `paired()` is NaN.
    """
    return max(not_worse(first, second, margin), not_worse(second, first, margin))


def bootstrap(values: FloatArray) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of values, one per task, by the bootstrap.

    10,000 samples with replacement, the same for the same number of values; Efron 1979, Annals of Statistics 7:1-26. With few
    tasks it is too narrow: it cannot show more variety than the tasks have.

    Args:
        values: `[T]`, T at least 1.
    """
    if np.isnan(values).any():
        return math.nan, math.nan
    drawn = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


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


def _differences(first: FloatArray, second: FloatArray) -> FloatArray:
    # Rounding must not make differences of equal steps unequal.
    return np.asarray(np.round(first - second, 10))


def _untestable(differences: FloatArray) -> bool:
    """Return whether there is one seed, a NaN, or no spread."""
    return len(differences) < 2 or bool(np.isnan(differences).any()) or _spread(differences) == 0


def _spread(sample: FloatArray) -> float:
    # Rounding in the mean of equal values must not give a spread of 1e-14, which would make any difference significant.
    return 0.0 if float(np.ptp(sample)) == 0 else float(sample.std(ddof=1))
