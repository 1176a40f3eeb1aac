"""The window in which losses are gathered for the mixing policy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened
from l2m_fast.losses.sums import LARGEST_SUM, MAX_COUNT, ClassLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from l2m_fast.losses.device import DeviceClassLoss
    from l2m_fast.losses.sums import Floats, Sizes

_NOT_FINITE = "losses that are not finite were recorded; they are left out of the class losses"


class LossWindow:
    """The losses recorded between two updates.

    Args:
        num_classes: K.
        warned: What was warned about.
    """

    def __init__(self, num_classes: int, warned: set[str] | None = None) -> None:
        self._here = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
        self._on_device: DeviceClassLoss | None = None
        self._warned: set[str] = set() if warned is None else warned

    @property
    def pending(self) -> ClassLoss:
        """What was recorded so far. Waits for the device of the losses.

        Raises:
            ValueError: Classes recorded on a device were out of range; their losses are left out.
        """
        if self._on_device is None:
            return self._here
        there = self._on_device.read()
        if self._on_device.not_finite > 0:
            self._warn(_NOT_FINITE)
        with np.errstate(over="ignore"):
            total = np.clip(self._here.sum + there.sum, -LARGEST_SUM, LARGEST_SUM)
        return ClassLoss(total, self._here.count + there.count)

    @property
    def is_on_device(self) -> bool:
        """Whether pending waits for a device."""
        return self._on_device is not None

    def start_reading(self) -> None:
        """Has what is on a device copied to the CPU, without waiting."""
        if self._on_device is not None:
            self._on_device.start_reading()

    def add(self, losses: NDArray[Any], classes: NDArray[Any], num_threads: int) -> None:
        """Adds per-sample losses; nothing where it raises."""
        if _core.add_class_loss(losses, classes, *self._here, num_threads=max(num_threads, 1)) > 0:
            self._warn(_NOT_FINITE)

    def on_device(self, device: torch.device) -> DeviceClassLoss:
        """Where losses of a device are added; waits for the one before where it is another."""
        if self._on_device is None or self._on_device.device != device:
            from l2m_fast.losses.device import DeviceClassLoss

            self._here, self._on_device = self.pending, DeviceClassLoss(len(self._here.sum), device)
        return self._on_device

    def add_sums(self, loss: ClassLoss | DeviceClassLoss) -> None:
        """Adds sums and counts; of a class whose sum is not finite, neither. Waits for nothing."""
        if not isinstance(loss, ClassLoss):
            if loss.num_classes != len(self._here.sum):
                msg = f"the sums of losses must be of {len(self._here.sum)} classes (got {loss.num_classes})"
                raise ValueError(msg)
            self.on_device(loss.device).add_sums(loss)
            return
        total, count = np.asarray(loss.sum), np.asarray(loss.count)
        if total.dtype.kind != "f" or count.dtype.kind not in "iu":
            msg = f"a ClassLoss must have a sum of floats and a count of integers (got {total.dtype} and {count.dtype})"
            raise TypeError(msg)
        shape = self._here.sum.shape
        if total.shape != shape or count.shape != shape:
            msg = f"a ClassLoss must have sum and count of shape {shape} (got {total.shape} and {count.shape})"
            raise ValueError(msg)
        if count.min() < 0 or count.max() > MAX_COUNT:
            msg = f"the counts of a ClassLoss must be in [0, 2**53] (got {count.min()} to {count.max()})"
            raise ValueError(msg)
        together = int((self._here.count + count.astype(np.int64)).max())
        if together > MAX_COUNT:
            msg = f"the counts of a window must stay in [0, 2**53], and would become {together}"
            raise ValueError(msg)
        if (total[count == 0] != 0).any():
            msg = f"a class without losses must have sum 0 (got {shortened(total[count == 0])})"
            raise ValueError(msg)
        finite = np.isfinite(total)
        if not finite.all():
            self._warn(_NOT_FINITE)
        with np.errstate(over="ignore"):
            np.add(self._here.sum, total, out=self._here.sum, where=finite)
        np.clip(self._here.sum, -LARGEST_SUM, LARGEST_SUM, out=self._here.sum)
        np.add(self._here.count, count, out=self._here.count, where=finite, casting="unsafe")

    def result(
        self, class_losses: Floats, nonempty: NDArray[np.bool_], summed: Callable[[Floats], Floats]
    ) -> tuple[Sizes | None, Floats]:
        """Return the number of losses of each class, None where there are none, and the mean losses after them.

        Changes nothing.

        Args:
            class_losses: The mean losses before.
            nonempty: Which classes have rows; the others have no loss.
            summed: Returns the sums over all ranks.

        Raises:
            RuntimeError: The sums over the ranks are none.
        """
        total, count = summed(np.concatenate(self.pending)).reshape(2, -1)
        countable = (count >= 0) & (count <= MAX_COUNT) & (count == np.floor(count))
        if not countable.all():
            msg = (
                f"all_reduce must return sums (got {count[~countable][0]:g} for the number of losses of a class, which is an "
                "integer up to 2**53): it may sum in a type that is too narrow; reduce float64"
            )
            raise RuntimeError(msg)
        recorded = (count > 0) & nonempty & ~np.isnan(total)  # NaN: sums too large for a float, of both signs
        if not recorded.any():
            return None, class_losses
        mean = np.minimum(
            total[recorded] / count[recorded], LARGEST_SUM
        )  # where the sum of finite losses was not finite
        if (mean < 0).any():
            self._warn("the mean loss of a class is negative; it counts as 0")
        class_losses = class_losses.copy()
        class_losses[recorded] = np.maximum(mean, 0.0)
        return count.astype(np.int64), class_losses

    def successor(self) -> LossWindow:
        """The next window, without losses."""
        return LossWindow(len(self._here.sum), self._warned)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def without_gaps(class_losses: Floats, nonempty: NDArray[np.bool_]) -> Floats:
    """Class losses as a policy gets them: 0 without rows; where there was none yet, the mean of the others."""
    known = nonempty & ~np.isnan(class_losses)
    total, scale = _core.compensated_sum(class_losses[known]), 1.0
    if not np.isfinite(total):  # of losses near the largest float
        scale = 2.0**64
        total = _core.compensated_sum(class_losses[known] / scale)
    mean = min(total / np.count_nonzero(known) * scale, LARGEST_SUM)
    losses: Floats = np.where(nonempty, np.where(known, class_losses, mean), 0.0)
    return losses
