"""Class sizes of unbalanced training sets, and the rows that are kept for them.

Each pattern takes the class sizes `[K]` that there are and returns those to keep, at least 1 each, never more than there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from l2m_experiments.errors import InputError

Sizes = tuple[int, ...]


def long_tail(largest: int, num_classes: int, imbalance: float) -> Sizes:
    """Class sizes that fall exponentially from `largest` to `largest / imbalance`, at least 1 each."""
    return tuple(max(1, round(largest * imbalance ** (-k / (num_classes - 1)))) for k in range(num_classes))


def exponential(sizes: Sequence[int], imbalance: float) -> Sizes:
    """The long tail that the smallest class leaves room for: from min(sizes) down to min(sizes) / imbalance."""
    return long_tail(min(sizes), len(sizes), imbalance)


def linear(sizes: Sequence[int]) -> Sizes:
    """Class k of K keeps the share 1 - k / K: 1.0, 0.9 .. 0.1 of ten.

    The paper's Imagenette; its formula 1 - 0.1 i with i from 1 would leave the tenth class without a row, and its
    N = 5207 is that of i from 0.
    """
    return tuple(max(1, size * (len(sizes) - k) // len(sizes)) for k, size in enumerate(sizes))


def log_decreasing(sizes: Sequence[int]) -> Sizes:
    """Class k of K keeps the share 40^(-k / (K - 1)): from all to a fortieth.

    The paper's CIFAR-100. It writes 40^(-i / 100), which gives N = 12929, and reports 13209; the shares of its code, taken
    here, give 13290, of which 13209 is very likely a slip of two digits.
    """
    return kept(sizes, [40 ** (-k / (len(sizes) - 1)) for k in range(len(sizes))])


def step(sizes: Sequence[int]) -> Sizes:
    """The first half of the classes has 0.1 / K of all rows each, the last half 1.9 / K: 0.1 % and 1.9 % of 100 classes.

    The CIFAR-100 of an earlier version of the paper. As many rows are kept as the smallest class allows.
    """
    larger = min(sizes)
    half = len(sizes) // 2
    return (max(1, larger // 19),) * half + (larger,) * (len(sizes) - half)


def minority(sizes: Sequence[int], ratio: float) -> Sizes:
    """The last half of the classes keeps 1 row of `ratio`: 1:2, 1:5, 1:20."""
    half = len(sizes) // 2
    return kept(sizes, [1.0] * (len(sizes) - half) + [1 / ratio] * half)


def kept(sizes: Sequence[int], shares: Sequence[float]) -> Sizes:
    """Each class keeps its share, in (0, 1], rounded down."""
    # Far below a row, and enough to lift 0.29 * 100 and its like, which floats leave a little short, to the whole number.
    return tuple(max(1, math.floor(size * share + 1e-9)) for size, share in zip(sizes, shares, strict=True))


def thin(classes: ArrayLike, sizes: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws `sizes[k]` rows of each class k, uniformly and without replacement.

    Args:
        classes: Class of each row, `[N]`, in [0, K).
        sizes: Rows to keep of each class, `[K]`.
        rng: Its state decides what is drawn.

    Returns:
        Ids of the rows, ascending, `[sum(sizes)]`.

    Raises:
        InputError: A class has fewer rows than are to be kept.
    """
    of_class = np.asarray(classes)
    rows = []
    for k, size in enumerate(sizes):
        candidates = np.flatnonzero(of_class == k)
        if size > len(candidates):
            msg = f"class {k} must have at least the {size} rows that are to be kept (got {len(candidates)})"
            raise InputError(msg)
        rows.append(rng.choice(candidates, size, replace=False))
    return np.sort(np.concatenate(rows)).astype(np.int64)


def shuffled_rows(classes: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Ids of the rows of each class, each class in an order of its own that the seed decides."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(classes == k)) for k in range(int(classes.max()) + 1)]
