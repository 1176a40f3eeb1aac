"""Self-taught curriculum: the easiest rows of each class first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.method import Batches, Method, Start, class_sizes, loader_of
from l2m_fast import Loader, mixing


class Curriculum(Method):
    """Self-taught curriculum (Hacohen & Weinshall 2019, arXiv 1904.03626): easiest rows first, fixed exponential pacing.

    The difficulty of a row is its loss in a model that was trained classically on all rows; that training is the warm-up. See
    `CurriculumBatches`.
    """

    name = "curriculum"

    def batches(self, start: Start) -> Batches:
        """Train the first model, and create batches from its losses."""
        return CurriculumBatches(start, start.fit().cpu().numpy())


class CurriculumBatches:
    """Epochs of the easiest rows of each class: half of them at first, 1.2 times as many every 10 epochs.

    The Learn2Mix paper gives start 0.5, increase 1.2 and step 10, without a unit. The unit must be epochs: at 60 steps per epoch
    (MNIST), a pace of 10 steps would reach all rows within the first of about 60 epochs, which is no curriculum, while a pace of
    10 epochs reaches them at epoch 40 of the 53 to 137 that the published figures have. If a protocol has fewer than 60 epochs,
    the pace is a sixth of them, so that the last third of the epochs uses all rows even if seconds end training earlier. The
    class proportions are those of all rows throughout.

    Args:
        start: Start of the run.
        scores: Difficulty of each training row, `[N]`.
    """

    def __init__(self, start: Start, scores: NDArray[np.floating]) -> None:
        classes, self._sizes = start.data.train.classes.cpu().numpy(), class_sizes(start.data)
        order = np.lexsort((scores, classes))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(self._sizes) - self._sizes, self._sizes)
        self._difficulty = rank / self._sizes[classes]  # in [0, 1) within the class
        self._start, self._epoch = start, 0
        self._pace = min(10, max(1, start.task.protocol.epochs // 6))
        self._fraction = self._scheduled_fraction()
        self._loader = self._create_loader()

    @property
    def proportions(self) -> NDArray[np.float64]:
        """Class proportions of the next batch, `[K]`."""
        return self._loader.proportions

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Start the next epoch, with more rows if they are scheduled."""
        if self._scheduled_fraction() > self._fraction:
            self._loader.close()
            self._fraction = self._scheduled_fraction()
            self._loader = self._create_loader()
            self._loader.set_epoch(self._epoch)  # otherwise the orders of the first epoch would repeat
        self._epoch += 1
        return iter(self._loader)

    def record(self, losses: torch.Tensor) -> None:
        """Record the losses of the last batch, `[B]`."""
        self._loader.record(losses)

    def close(self) -> None:
        """Stop the threads of the loader."""
        self._loader.close()

    def _scheduled_fraction(self) -> float:
        return min(1.0, 0.5 * 1.2 ** (self._epoch // self._pace))

    def _create_loader(self) -> Loader:
        mix = mixing.Static(self._sizes / self._sizes.sum())
        rows = np.flatnonzero(self._difficulty < self._fraction)
        return loader_of(self._start, mix, self._start.data.train, rows=rows)
