"""Policies and data for the oracle, and a test of uniformity.

The statistical tests use fixed seeds, so that they are not flaky; `FALSE_ALARM` is the probability that one of their
statistics fails for a new seed although the oracle is correct.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from oracle import Floats, Ints, OracleLoader

FALSE_ALARM = 1e-6
MAX_WORD = 2**64 - 1


def assert_uniform(counts: ArrayLike, degrees_of_freedom: int | None = None) -> None:
    """Apply Pearson's chi-square test of equal expected counts (at least 10 a cell) at level FALSE_ALARM."""
    observed = np.asarray(counts, np.float64).ravel()
    expected = observed.mean()
    assert expected >= 10
    df = observed.size - 1 if degrees_of_freedom is None else degrees_of_freedom
    z = NormalDist().inv_cdf(1 - FALSE_ALARM)
    limit = df * (1 - 2 / (9 * df) + z * (2 / (9 * df)) ** 0.5) ** 3  # Wilson and Hilferty (1931)
    assert ((observed - expected) ** 2 / expected).sum() < limit


def long_tail(num_rows: int = 60, num_classes: int = 5) -> Ints:
    """Return classes of decreasing size in random order."""
    rng = np.random.default_rng(0)
    return rng.choice(num_classes, num_rows, p=2.0 ** -np.arange(num_classes) / (2 - 2.0 ** (1 - num_classes)))


def loss_of(rows: Ints) -> Floats:
    return 0.1 + (rows % 7) / 3.0


def epoch_of(loader: OracleLoader) -> list[tuple[list[int], list[int]]]:
    """Return the rows and the classes of every batch."""
    return [(rows.tolist(), classes.tolist()) for rows, classes in loader]


def rows_of(loader: OracleLoader) -> list[int]:
    """Return the rows of an epoch."""
    return [row for rows, _ in loader for row in rows.tolist()]


def recording(loader: OracleLoader, epochs: int) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the content and the proportions of every batch, and record a loss for every row."""
    for _ in range(epochs):
        batches = iter(loader)
        while True:
            proportions = loader.proportions.tolist()
            try:
                rows, _ = next(batches)
            except StopIteration:
                break
            yield rows.tolist(), proportions
            loader.record(loss_of(rows))
