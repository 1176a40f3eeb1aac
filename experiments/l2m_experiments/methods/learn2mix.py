"""Learn2Mix as in this package, and as in the program of its authors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.authors import AuthorsBatches
from l2m_experiments.method import Batches, Method, Refusal, Start, fields_of, loader_of
from l2m_experiments.task import Task
from l2m_fast import MixingPolicy, class_loss, mixing


class Learn2Mix(Method):
    """Learn2Mix (arXiv 2412.16482) as in this package: exact quotas, and mean losses over the whole window.

    Args:
        mixing_rate: Mixing rate per window, gamma in the paper; None: that of the task's protocol.
        min_share: Minimum share of each class.
        start: Proportions of the first window: "proportional" (the paper) or "balanced".
        update_every: Steps per window of losses; None: an epoch, as in the paper. With shorter windows, the same mixing rate
            follows the losses that many times faster.
    """

    def __init__(
        self,
        mixing_rate: float | None = None,
        min_share: float = 0.0,
        start: Literal["proportional", "balanced"] = "proportional",
        update_every: int | None = None,
    ) -> None:
        self._mixing_rate, self._min_share, self._start = mixing_rate, min_share, start
        self.update_every = update_every
        self.name = (
            "learn2mix"
            + ("-balanced-start" if start == "balanced" else "")
            + (f"-every-{update_every}" if update_every is not None else "")
            + (f" mixing_rate={mixing_rate:g}" if mixing_rate is not None else "")
            + (f" min_share={min_share:g}" if min_share > 0 else "")
        )

    def policy(self, task: Task) -> MixingPolicy:
        """Return steps towards the loss shares."""
        rate = task.protocol.mixing_rate if self._mixing_rate is None else self._mixing_rate
        return mixing.Learn2Mix(rate, self._min_share, self._start)


class _ExcessPolicy:
    """Learn2Mix with what the class losses exceed those of a reference by.

    Args:
        mixing_rate: Mixing rate per window.
        reference: Class losses of the reference, `[K]`.
    """

    def __init__(self, mixing_rate: float, reference: NDArray[np.float64]) -> None:
        self._mixing_rate, self._reference = mixing_rate, reference

    def initial(self, class_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the shares of the data."""
        proportions: NDArray[np.float64] = class_sizes / class_sizes.sum()
        return proportions

    def update(self, window: mixing.Window) -> NDArray[np.float64]:
        """Move the proportions towards the shares of the excess; leave them where no class exceeds its reference."""
        excess = np.maximum(window.class_losses - self._reference, 0) * (window.class_sizes > 0)
        if excess.sum() == 0:
            return window.proportions
        followed = excess / excess.sum()
        proportions: NDArray[np.float64] = window.proportions + self._mixing_rate * (followed - window.proportions)
        proportions /= proportions.sum()
        return proportions


class Learn2MixExcess(Method):
    """Learn2Mix with excess losses, as in DoReMi (Xie et al. 2023, arXiv 2305.10429): over those of a model trained classically.

    The reference is trained for as many epochs; this is the warm-up. A class that this model cannot learn, such as one of
    noise, has no excess.
    """

    name = "learn2mix-excess"

    def batches(self, start: Start) -> Batches:
        """Train the reference, and create batches that follow the excess over its class losses."""
        train = start.data.train
        sums = class_loss(start.fit().cpu(), train.classes.cpu(), len(start.data.class_names))
        reference = sums.sum / np.maximum(sums.count, 1)
        return loader_of(start, _ExcessPolicy(start.task.protocol.mixing_rate, reference), train)


class Learn2MixAuthors(Method):
    """Learn2Mix as in its authors' program, see `AuthorsBatches`; the loader does not form these batches."""

    name = "learn2mix-authors"
    refusals = (
        Refusal(
            "batches of no more rows than there are classes",
            "the authors' program rounds the rows of each class down, which can leave a batch empty",
            lambda task, data: data is not None and len(data.class_names) >= task.protocol.batch_size,
        ),
    )

    def batches(self, start: Start) -> Batches:
        """Create the authors' batches."""
        return AuthorsBatches(
            fields_of(start.data.train),
            len(start.data.class_names),
            batch_size=start.task.protocol.batch_size,
            steps=start.steps,
            mixing_rate=start.task.protocol.mixing_rate,
            seed=start.seed,
        )
