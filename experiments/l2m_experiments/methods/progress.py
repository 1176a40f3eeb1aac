"""Sampling by the progress of each class instead of its loss, for which classes of noise look hard for ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.method import Method
from l2m_experiments.task import Task
from l2m_fast import MixingPolicy, mixing

_FAST, _SLOW = 8, 2  # the running means cover about the last eighth and half of training
_PRIOR_COUNT = 30  # losses in a window with which a class's own progress weighs as much as the mean over classes
_PASSES = 15  # passes after which the share of a class has fallen by 1 / e


@dataclass(frozen=True)
class ProgressPolicy:
    """Shares that follow how much each class loss has fallen recently.

    With power-law class losses L = e + b n^-a, the best share is proportional to a (L - e), the slope of the loss over log n,
    which the difference of two running means estimates.

    Args:
        exponent: a of the base shares q ~ n^a; 1 is classical, 0 balanced.
        follow: Part of the proportions that follows progress, in [0, 1]. Shares do not fall below (1 - follow) * q.
        rate: Step of each update towards the new proportions, in (0, 1].
    """

    exponent: float = 0.5
    follow: float = 0.5
    rate: float = 0.2
    memory_rows = 2  # fast and slow running means

    def initial(self, class_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the base shares."""
        return mixing.Temperature(1 / self.exponent if self.exponent else np.inf).initial(class_sizes)

    def update(self, window: mixing.Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move the proportions towards the shares of progress."""
        fresh = window.counts / np.maximum(window.rows_drawn, 1)  # about 1 / number of windows
        fast, slow = (
            mean + np.minimum(1, speed * fresh) * (window.class_losses - mean)
            for mean, speed in zip(window.memory, (_FAST, _SLOW), strict=True)
        )
        base = self.initial(window.class_sizes)
        progress = np.maximum(slow - fast, 0)
        weight = window.counts / (window.counts + _PRIOR_COUNT)
        progress = weight * progress + (1 - weight) * (base @ progress)
        followed = base * progress * np.exp(-np.maximum(window.passes - 1, 0) / _PASSES)
        followed = followed / followed.sum() if followed.sum() > 0 else base
        target = (1 - self.follow) * base + self.follow * followed
        proportions = window.proportions + self.rate * (target - window.proportions)
        return proportions / proportions.sum(), np.stack((fast, slow))


class Progress(Method):
    """Shares that follow the progress of each class, around p ~ n^(1/2)."""

    name = "progress"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy with its defaults."""
        return ProgressPolicy()
