"""Recorded losses that have not been used yet, per open window and batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from oracle.arithmetic import LARGEST

AT_ONCE = -2  # precedes all batches: what a state held and, without lookahead, everything


@dataclass
class Sums:
    """Sum and number of the losses of each class."""

    losses: list[float]
    counts: list[int]

    def add(self, k: int, loss: float, count: int) -> None:
        """Add `count` losses of class `k` whose sum is `loss`; clamp the sum to the largest float."""
        self.losses[k] = min(max(self.losses[k] + loss, -LARGEST), LARGEST)
        self.counts[k] += count


class OpenWindows:
    """Sums of losses per window and batch.

    The losses of each batch are summed in the order of recording, and the sums of the batches in the order of batches,
    so that the sum of a window does not depend on when losses are recorded. Without lookahead, losses are recorded in
    order and added one by one.
    """

    def __init__(self, num_classes: int, lookahead: int) -> None:
        self._num_classes, self._lookahead = num_classes, lookahead
        self._sums: dict[int, dict[int, Sums]] = defaultdict(dict)

    def zeros(self) -> Sums:
        """Return the sums of no losses."""
        return Sums([0.0] * self._num_classes, [0] * self._num_classes)

    def add(self, window: int, batch: int, losses: Sequence[float], classes: Sequence[int]) -> None:
        """Add the finite losses of a batch."""
        sums = self._sums[window].setdefault(batch if self._lookahead > 0 else AT_ONCE, self.zeros())
        for loss, k in zip(losses, classes, strict=True):
            if math.isfinite(loss):
                sums.add(k, loss, 1)

    def load(self, window: int, losses: Sequence[float], counts: Sequence[int]) -> None:
        """Set the sums of a window from a state."""
        self._sums[window] = {AT_ONCE: Sums(list(losses), list(counts))}

    def total(self, window: int, before: float = math.inf) -> Sums:
        """Return the sums of a window over the batches below `before`."""
        total = self.zeros()
        of_window = self._sums[window]
        for sums in [of_window[batch] for batch in sorted(of_window) if batch < before]:
            for k, (loss, count) in enumerate(zip(sums.losses, sums.counts, strict=True)):
                total.add(k, loss, count)
        return total

    def close(self, window: int) -> Sums:
        """Return the sums of a window and remove it."""
        total = self.total(window)
        del self._sums[window]
        return total
