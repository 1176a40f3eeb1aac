"""Sums and counts of the losses of each class, and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from l2m_fast import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]

MAX_COUNT = 2**53  # for losses of a class in a window and all counters in saved states; exact as a float
MAX_CLASSES = 2**31 - 1


class ClassSums(Protocol):
    """Protocol for the sum and the number of losses of each class, on the CPU or on a device.

    Attributes:
        sum: float64, shape `[num_classes]`.
        count: int64, shape `[num_classes]`.
    """

    @property
    def sum(self) -> Floats:
        """Sum of the losses of each class, float64, shape `[num_classes]`."""

    @property
    def count(self) -> Sizes:
        """Number of losses of each class, int64, shape `[num_classes]`."""

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over sum and count."""


class ClassLoss(NamedTuple):
    """Sum and number of losses of each class, computed elsewhere.

    Attributes:
        sum: Sum of the losses of each class, float64, shape `[num_classes]`.
        count: Number of losses of each class, int64, shape `[num_classes]`.
    """

    sum: Floats
    count: Sizes  # type: ignore[assignment]  # shadows tuple.count, which is not needed


class HostClassLoss:
    """Exact sum and number of losses of each class, on the CPU. Implements `ClassSums`.

    Args:
        words: int64, shape `[num_host_words(num_classes)]`: digits of the sums, then the counts.
    """

    def __init__(self, words: Sizes) -> None:
        self.words = words

    @property
    def sum(self) -> Floats:
        """Sum of the losses of each class, rounded once to float64, shape `[num_classes]`."""
        return _core.nearest_sums(self.words)

    @property
    def count(self) -> Sizes:
        """Number of losses of each class, int64, shape `[num_classes]`."""
        return self.words[_core.SUM_DIGITS * (len(self.words) // num_host_words(1)) :].copy()

    def __iter__(self) -> Iterator[Floats | Sizes]:
        """Return an iterator over sum and count, like that of a `ClassLoss`."""
        return iter((self.sum, self.count))

    def __len__(self) -> int:
        """Return 2, like a `ClassLoss`."""
        return 2

    def __getitem__(self, i: int) -> Floats | Sizes:
        """Return sum or count, like a `ClassLoss`."""
        return (self.sum, self.count)[i]

    def __repr__(self) -> str:
        return f"HostClassLoss(sum={self.sum}, count={self.count})"


def num_host_words(num_classes: int) -> int:
    """Return the number of 64-bit words of the sums and counts of classes."""
    return (_core.SUM_DIGITS + 1) * num_classes


def checked_sums(loss: ClassLoss, num_classes: int) -> tuple[Floats, Sizes]:
    """Return sums and counts as float64 and int64. The core checks their values.

    Raises:
        TypeError: Sums are not floats or counts are not integers.
        ValueError: The number of classes is wrong, or a count is not in [0, 2^53].
    """
    total, count = np.asarray(loss.sum), np.asarray(loss.count)
    if total.dtype.kind != "f" or count.dtype.kind not in "iu":
        msg = f"a ClassLoss must have a sum of floats and a count of integers (got {total.dtype} and {count.dtype})"
        raise TypeError(msg)
    if total.shape != (num_classes,) or count.shape != (num_classes,):
        msg = f"a ClassLoss must have sum and count of shape {(num_classes,)} (got {total.shape} and {count.shape})"
        raise ValueError(msg)
    if count.min() < 0 or count.max() > MAX_COUNT:
        msg = f"the counts of a ClassLoss must be in [0, 2**53] (got {count.min()} to {count.max()})"
        raise ValueError(msg)
    return np.ascontiguousarray(total, np.float64), np.ascontiguousarray(count, np.int64)
