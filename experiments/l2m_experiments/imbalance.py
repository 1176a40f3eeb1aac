"""Class sizes of imbalanced training sets, and the rows drawn for them.

Each pattern maps the available class sizes `[K]` to the sizes to keep, which are at least 1 and at most the available ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2m_experiments.user_input import InputError

Sizes = tuple[int, ...]


def long_tail(largest: int, num_classes: int, imbalance: float) -> Sizes:
    """Return class sizes that fall exponentially from `largest` to `largest / imbalance`, at least 1 each."""
    return tuple(max(1, round(largest * imbalance ** (-k / (num_classes - 1)))) for k in range(num_classes))


def exponential(sizes: Sequence[int], imbalance: float) -> Sizes:
    """Return a long tail from min(sizes), the most that every class has, down to min(sizes) / imbalance."""
    return long_tail(min(sizes), len(sizes), imbalance)


def linear(sizes: Sequence[int]) -> Sizes:
    """Keep the share 1 - k / K of class k of K: 1.0, 0.9 .. 0.1 of ten.

    This is the paper's Imagenette. Its formula 1 - 0.1 i with i from 1 would leave no row of the tenth class; its N = 5207
    follows from i starting at 0.
    """
    return tuple(max(1, size * (len(sizes) - k) // len(sizes)) for k, size in enumerate(sizes))


def log_decreasing(sizes: Sequence[int]) -> Sizes:
    """Keep the share 40^(-k / (K - 1)) of class k of K: from all rows to a fortieth.

    This is the paper's CIFAR-100. The paper writes 40^(-i / 100), which gives N = 12929, and reports N = 13209. The shares of
    its code, used here, give 13290; 13209 probably has two digits swapped.
    """
    return keep(sizes, [40 ** (-k / (len(sizes) - 1)) for k in range(len(sizes))])


def step(sizes: Sequence[int]) -> Sizes:
    """Give each class of the first half 0.1 / K of all rows, and each of the second 1.9 / K: 0.1 % and 1.9 % of 100 classes.

    This is the CIFAR-100 of an earlier version of the paper. As many rows are kept as the smallest class allows.
    """
    larger = min(sizes)
    half = len(sizes) // 2
    return (max(1, larger // 19),) * half + (larger,) * (len(sizes) - half)


def minority(sizes: Sequence[int], ratio: float) -> Sizes:
    """Keep one row of `ratio` in each class of the second half: 1:2, 1:5, 1:20."""
    half = len(sizes) // 2
    return keep(sizes, [1.0] * (len(sizes) - half) + [1 / ratio] * half)


def keep(sizes: Sequence[int], shares: Sequence[float]) -> Sizes:
    """Keep a share of each class, in (0, 1], rounded down."""
    # The small addend is far below one row; it corrects products such as 0.29 * 100, which are slightly too small as floats.
    return tuple(max(1, math.floor(size * share + 1e-9)) for size, share in zip(sizes, shares, strict=True))


def draw_rows(classes: ArrayLike, sizes: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `sizes[k]` rows of each class k, uniformly and without replacement.

    Args:
        classes: Class of each row, `[N]`, in [0, K).
        sizes: Number of rows to draw from each class, `[K]`.
        rng: Random generator.

    Returns:
        Row ids in ascending order, `[sum(sizes)]`.

    Raises:
        InputError: A class has too few rows.
    """
    labels = np.asarray(classes)
    rows = []
    for k, size in enumerate(sizes):
        candidates = np.flatnonzero(labels == k)
        if size > len(candidates):
            msg = f"class {k} must have at least {size} rows, the number to draw (got {len(candidates)})"
            raise InputError(msg)
        rows.append(rng.choice(candidates, size, replace=False))
    return np.sort(np.concatenate(rows)).astype(np.int64)


def shuffled_rows(classes: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return the row ids of each class, shuffled by the seed."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(classes == k)) for k in range(int(classes.max()) + 1)]
