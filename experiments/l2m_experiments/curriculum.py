"""Self-taught curriculum: the easiest rows of each class first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.method import Batches, Method, Start, class_sizes, loader_of
from l2m_fast import Loader, mixing


class Curriculum(Method):
    """Self-taught curriculum (Hacohen & Weinshall 2019, arXiv 1904.03626): the easiest rows first, by a fixed exponential pace.

    A row is as hard as its loss in a model that was trained classically on all of them; that training is the warm-up. See
    `CurriculumBatches`.
    """

    name = "curriculum"

    def batches(self, start: Start) -> Batches:
        """Trains the first model, and makes batches by its losses."""
        return CurriculumBatches(start, start.fit().cpu().numpy())


class CurriculumBatches:
    """Epochs of the easiest rows of each class: half of them at first, 1.2 times as many every 10 epochs.

    The Learn2Mix paper gives start 0.5, increase 1.2 and step 10, without a unit. It must be epochs: at 60 steps an epoch
    (MNIST) a pace of 10 steps would be through in the first epoch of about 60, no curriculum at all, while 10 epochs end at
    epoch 40, of the 53 to 137 that the published figures have. Where a protocol has fewer than 60 epochs a pace is a sixth
    of them, so that all rows are seen in the last third of the epochs, also where seconds end training before them. The class mix is that of all rows throughout.

    Args:
        start: Of the run.
        scores: How hard each training row is, `[N]`.
    """

    def __init__(self, start: Start, scores: NDArray[np.floating]) -> None:
        classes, self._sizes = start.data.train.classes.cpu().numpy(), class_sizes(start.data)
        order = np.lexsort((scores, classes))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(self._sizes) - self._sizes, self._sizes)
        self._hardness = rank / self._sizes[classes]  # in [0, 1) within the class
        self._start, self._epoch = start, 0
        self._pace = min(10, max(1, start.task.protocol.epochs // 6))
        self._fraction = self._due()
        self._loader = self._of_fraction()

    @property
    def proportions(self) -> NDArray[np.float64]:
        """See `Batches`."""
        return self._loader.proportions

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """See `Batches`."""
        if self._due() > self._fraction:
            self._loader.close()
            self._fraction = self._due()
            self._loader = self._of_fraction()
            self._loader.set_epoch(self._epoch)  # fresh orders, not those of the first epoch again
        self._epoch += 1
        return iter(self._loader)

    def record(self, losses: torch.Tensor) -> None:
        """See `Batches`."""
        self._loader.record(losses)

    def close(self) -> None:
        """See `Batches`."""
        self._loader.close()

    def _due(self) -> float:
        return min(1.0, 0.5 * 1.2 ** (self._epoch // self._pace))

    def _of_fraction(self) -> Loader:
        mix = mixing.Static(self._sizes / self._sizes.sum())
        return loader_of(self._start, mix, self._start.data.train, rows=np.flatnonzero(self._hardness < self._fraction))
