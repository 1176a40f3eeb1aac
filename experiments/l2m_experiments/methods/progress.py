"""Sampling by the progress of each class instead of its loss, for which classes of noise look hard for ever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.imbalance import shuffled_rows
from l2m_experiments.method import Batches, Method, Start, loader_of
from l2m_experiments.task import Rows, Task
from l2m_fast import MixingPolicy, class_loss, mixing

_FAST, _SLOW = 8, 2  # the running means cover about the last eighth and half of training
_PRIOR_COUNT = 30  # losses in a window with which a class's own progress weighs as much as the mean over classes
_PASSES = 15  # passes after which the share of a class has fallen by 1 / e
_FOLLOW = 0.5  # part of the proportions that follows progress: no share falls below half the base share
_RATE = 0.2  # step of each update towards the new proportions


class ProgressPolicy:
    """Shares that follow how much each class loss has fallen recently, around the base shares q ~ n^(1/2).

    With power-law class losses L = e + b n^-a, the best share is proportional to a (L - e), the slope of the loss over log n,
    which the difference of two running means estimates.
    """

    memory_rows = 2  # fast and slow running means

    def initial(self, class_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the base shares."""
        return mixing.Temperature(2).initial(class_sizes)

    def losses(self, window: mixing.Window) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Return mean loss and number of losses of each class, `[K]`; None if there are none yet."""
        return window.class_losses, window.counts

    def update(self, window: mixing.Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move the proportions towards the shares of progress."""
        known = self.losses(window)
        if known is None:
            return window.proportions, window.memory
        class_losses, counts = known
        fresh = window.counts / np.maximum(window.rows_drawn, 1)  # about 1 / number of windows
        fast, slow = (
            mean + np.minimum(1, speed * fresh) * (class_losses - mean)
            for mean, speed in zip(window.memory, (_FAST, _SLOW), strict=True)
        )
        base = self.initial(window.class_sizes)
        progress = np.maximum(slow - fast, 0)
        weight = counts / (counts + _PRIOR_COUNT)
        progress = weight * progress + (1 - weight) * (base @ progress)
        followed = base * progress * np.exp(-np.maximum(window.passes - 1, 0) / _PASSES)
        followed = followed / followed.sum() if followed.sum() > 0 else base
        target = (1 - _FOLLOW) * base + _FOLLOW * followed
        proportions = window.proportions + _RATE * (target - window.proportions)
        return proportions / proportions.sum(), np.stack((fast, slow))


class Progress(Method):
    """Shares that follow the progress of each class, around p ~ n^(1/2)."""

    name = "progress"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy."""
        return ProgressPolicy()


class _HeldOutPolicy(ProgressPolicy):
    """The same from losses of held-out rows.

    Attributes:
        newest: Mean and number of these losses after the last epoch, which a saved state would lack; None in the first epoch.
    """

    newest: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None

    def losses(self, window: mixing.Window) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:  # noqa: ARG002
        """Return mean loss and number of losses of each class, `[K]`; None if there are none yet."""
        return self.newest


class HeldOut(Method):
    """Progress on a tenth of the rows of each class, which are kept out of the batches; its last epoch counts for the next.

    Every method has the same number of steps; the time of measuring counts as training.
    """

    name = "held-out"

    def __init__(self) -> None:
        self._policy = _HeldOutPolicy()
        self._held: Rows | None = None
        self._num_classes = 0

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy that sees the losses of the held-out rows."""
        return self._policy

    def batches(self, start: Start) -> Batches:
        """Create batches of the other rows."""
        train, self._num_classes = start.data.train, len(start.data.class_names)
        shuffled = shuffled_rows(train.classes.cpu().numpy(), start.seed)
        held = np.concatenate([rows[: max(1, len(rows) // 10)] for rows in shuffled if len(rows) > 1])
        kept = np.setdiff1d(np.arange(len(train.classes)), held)
        self._held = train.map(lambda tensor: tensor[torch.from_numpy(held)])
        return loader_of(start, self.policy(start.task), train, rows=kept)

    def end_epoch(self, measure: Callable[[Rows], torch.Tensor]) -> None:
        """Measure the mean loss of each class."""
        assert self._held is not None
        sums = class_loss(measure(self._held).cpu(), self._held.classes.cpu(), self._num_classes)
        self._policy.newest = sums.sum / np.maximum(sums.count, 1), sums.count
