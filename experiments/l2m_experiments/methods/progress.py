"""Sampling by the progress of each class instead of its loss, for which classes of noise look hard for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.imbalance import shuffled_rows
from l2m_experiments.method import Batches, Method, Start, loader_of
from l2m_experiments.task import Rows, Task
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
        return self.follow_losses(window, window.class_losses, window.counts)

    def follow_losses(
        self, window: mixing.Window, class_losses: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the next proportions and memory, given class losses that are means over these numbers of rows."""
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
        target = (1 - self.follow) * base + self.follow * followed
        proportions = window.proportions + self.rate * (target - window.proportions)
        return proportions / proportions.sum(), np.stack((fast, slow))


class Progress(Method):
    """Shares that follow the progress of each class, around p ~ n^(1/2)."""

    name = "progress"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy with its defaults."""
        return ProgressPolicy()


@dataclass(frozen=True)
class _HeldOutPolicy(ProgressPolicy):
    """The same from the newest losses of the held-out rows, which are not part of a saved state: good for these experiments only.

    Args:
        losses: Classes and losses of the held-out rows after each epoch.
    """

    losses: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=list)

    def update(self, window: mixing.Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move the proportions towards the shares of progress."""
        if not self.losses:  # at the end of the first epoch
            return window.proportions, window.memory
        classes, losses = self.losses[-1]
        num_classes = len(window.class_sizes)
        counts = np.bincount(classes, minlength=num_classes)
        means = np.bincount(classes, weights=losses, minlength=num_classes) / np.maximum(counts, 1)
        return self.follow_losses(window, means, counts)


class HeldOut(Method):
    """Progress on a tenth of the rows of each class, which are kept out of the batches; its last epoch counts for the next.

    Every method has the same number of steps; the time of measuring counts as training.
    """

    name = "held-out"

    def __init__(self) -> None:
        self._policy = _HeldOutPolicy()
        self._held: Rows | None = None

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy that sees the losses of the held-out rows."""
        return self._policy

    def batches(self, start: Start) -> Batches:
        """Create batches of the other rows."""
        train = start.data.train
        shuffled = shuffled_rows(train.classes.cpu().numpy(), start.seed)
        held = np.concatenate([rows[: max(1, len(rows) // 10)] for rows in shuffled if len(rows) > 1])
        kept = np.setdiff1d(np.arange(len(train.classes)), held)
        self._held = train.map(lambda tensor: tensor[torch.from_numpy(held)])
        return loader_of(start, self.policy(start.task), train, rows=kept)

    def end_epoch(self, measure: Callable[[Rows], torch.Tensor]) -> None:
        """Measure the mean loss of each class."""
        assert self._held is not None
        classes, losses = self._held.classes.cpu().numpy(), measure(self._held).double().cpu().numpy()
        self._policy.losses.append((classes, losses))
