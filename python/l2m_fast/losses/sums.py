"""Sums and counts of the losses of each class, and their limits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]

LARGEST_SUM = sys.float_info.max  # where sums of losses stop
MAX_COUNT = 2**53  # of losses of a class in a window, and of whatever a saved state counts: exact as a float
MOST_CLASSES = 2**31 - 1


class ClassSums(Protocol):
    """Sum and number of the losses of each class, on the CPU or on a device.

    Attributes:
        sum: float64, shape `[num_classes]`.
        count: int64, shape `[num_classes]`.
    """

    @property
    def sum(self) -> Floats:
        """Sum of the losses of each class."""

    @property
    def count(self) -> Sizes:
        """Number of the losses of each class."""


class ClassLoss(NamedTuple):
    """Sum and number of the losses of each class, on the CPU.

    Attributes:
        sum: float64, shape `[num_classes]`.
        count: int64, shape `[num_classes]`.
    """

    sum: Floats
    count: Sizes  # type: ignore[assignment]  # shadows tuple.count, which nobody calls
