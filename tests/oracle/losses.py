"""Recorded losses that have not been used yet, per open window and batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LARGEST_LOSS = float(np.finfo(np.float32).max)  # a larger loss is not finite
UNIT = Fraction(1, 2**149)  # losses are rounded to multiples of it
AT_ONCE = -2  # precedes all batches: what a state held and, without lookahead, everything


@dataclass
class Sums:
    """Exact sum, in units, and number of the losses of each class."""

    units: list[int]
    counts: list[int]

    def add(self, k: int, units: int, count: int) -> None:
        """Add `count` losses of class `k` whose sum is `units`."""
        self.units[k] += units
        self.counts[k] += count

    def terms(self) -> list[list[float]]:
        """Return the floats of which each sum is the sum, the nearest to the sum first."""
        return [_terms(units * UNIT) for units in self.units]


def _terms(rest: Fraction) -> list[float]:
    return [] if rest == 0 else [float(rest), *_terms(rest - Fraction(float(rest)))]


class OpenWindows:
    """Sums of losses per window and batch."""

    def __init__(self, num_classes: int, lookahead: int) -> None:
        self._num_classes, self._lookahead = num_classes, lookahead
        self._sums: dict[int, dict[int, Sums]] = defaultdict(dict)

    def zeros(self) -> Sums:
        """Return the sums of no losses."""
        return Sums([0] * self._num_classes, [0] * self._num_classes)

    def add(self, window: int, batch: int, losses: Sequence[float], classes: Sequence[int]) -> None:
        """Add the finite losses of a batch."""
        sums = self._sums[window].setdefault(batch if self._lookahead > 0 else AT_ONCE, self.zeros())
        for loss, k in zip(losses, classes, strict=True):
            if abs(loss) <= LARGEST_LOSS:
                sums.add(k, round(Fraction(loss) / UNIT), 1)

    def load(self, window: int, terms: Sequence[Sequence[float]], counts: Sequence[int]) -> None:
        """Set the sums of a window from a state."""
        units = [int(sum(map(Fraction, of_class)) / UNIT) for of_class in terms]
        self._sums[window] = {AT_ONCE: Sums(units, list(counts))}

    def total(self, window: int, before: float = math.inf) -> Sums:
        """Return the sums of a window over the batches below `before`."""
        total = self.zeros()
        of_window = self._sums[window]
        for sums in [of_window[batch] for batch in sorted(of_window) if batch < before]:
            for k, (units, count) in enumerate(zip(sums.units, sums.counts, strict=True)):
                total.add(k, units, count)
        return total

    def close(self, window: int) -> Sums:
        """Return the sums of a window and remove it."""
        total = self.total(window)
        del self._sums[window]
        return total
