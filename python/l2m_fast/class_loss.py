"""Per-class losses: sums and counts of a batch, and the window in which they are gathered for the mixing policy."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from l2m_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    import torch
    from numpy.typing import ArrayLike, NDArray

    from l2m_fast.device_totals import DeviceTotals

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]


LARGEST_SUM = sys.float_info.max  # where sums of losses stop
_NOT_FINITE = "losses that are not finite were recorded; they are left out of the class losses"
MOST_CLASSES = 2**31 - 1


class ClassLoss(NamedTuple):
    """Sum and number of the losses of each class.

    Attributes:
        sum: float64, shape `[num_classes]`.
        count: int64, shape `[num_classes]`.
    """

    sum: Floats
    count: Sizes  # type: ignore[assignment]  # shadows tuple.count, which nobody calls


def class_loss(losses: torch.Tensor | ArrayLike, classes: torch.Tensor | ArrayLike, num_classes: int) -> ClassLoss:
    """Sums losses per class.

    Losses that are not finite are skipped, in the sum and in the count; a sum beyond the largest float64 stays there. On
    as many threads as the process has CPUs where the input is large; the result has the same bits for any number of them.

    Args:
        losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64; on the CPU. Detached.
        classes: Class of each loss, shape `[n]`; integers in `[0, num_classes)`.
        num_classes: Number of classes, at least 1.

    Raises:
        TypeError: Losses are not floats or classes are not integers.
        ValueError: Shapes differ or are not one-dimensional, or a class is out of range.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        msg = f"num_classes must be an int (got {num_classes!r})"
        raise TypeError(msg)
    if not 1 <= num_classes <= MOST_CLASSES:
        msg = f"num_classes must be in [1, {MOST_CLASSES}] (got {num_classes})"
        raise ValueError(msg)
    result = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
    _core.add_class_loss(loss_array(losses), class_array(classes), *result, num_threads=_core.usable_cpus())
    return result


def _host_array(name: str, values: Any) -> NDArray[Any]:
    """An array of one dimension, contiguous and aligned; of bfloat16, which numpy lacks, the int16 of its bits."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        if values.device.type != "cpu":
            msg = f"{name} must be on the CPU for now (got device {values.device}): pass {name}.cpu()"
            raise NotImplementedError(msg)
        dense = values.layout == torch.strided and not values.is_nested and not values.is_quantized
        if not dense or str(values.dtype).startswith("torch.float8"):
            kind = "nested" if values.is_nested else values.layout
            msg = f"{name} must be a plain dense tensor (got {values.dtype}, {kind})"
            raise TypeError(msg)
        values = values.detach().resolve_conj().resolve_neg()
        values = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    try:
        array = np.asarray(values)
    except ValueError as error:
        msg = f"{name} must be an array of one dimension, [n] (got {type(values).__name__}: {error})"
        raise ValueError(msg) from None
    if array.ndim != 1:
        msg = f"{name} must have one dimension, [n] (got shape {array.shape})"
        raise ValueError(msg)
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])


def _is_bfloat16(values: object) -> bool:
    return str(getattr(values, "dtype", "")) == "torch.bfloat16"


def is_on_device(losses: object) -> TypeGuard[torch.Tensor]:
    """Whether losses are a CUDA tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(losses, torch.Tensor) and losses.is_cuda


def check_device_losses(losses: torch.Tensor, classes: torch.Tensor) -> None:
    """Raises unless these are per-sample losses and their classes, without looking at the values."""
    dtype = str(losses.dtype).removeprefix("torch.")
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        msg = f"losses must be float16, bfloat16, float32 or float64 (got {dtype})"
        raise TypeError(msg)
    if classes.is_floating_point() or classes.is_complex():
        msg = f"classes must be integers (got {classes.dtype})"
        raise TypeError(msg)
    if losses.ndim != 1 or classes.shape != losses.shape:
        msg = f"losses must have one dimension, and classes one id for each of them (got shapes {tuple(losses.shape)} and {tuple(classes.shape)})"
        raise ValueError(msg)
    if classes.device.type != "cpu" and classes.device != losses.device:
        msg = f"classes must be on the CPU or on {losses.device}, as the losses are (got {classes.device})"
        raise ValueError(msg)


def loss_array(losses: Any) -> NDArray[Any]:
    """Per-sample losses as the core takes them."""
    array = _host_array("losses", losses)
    if _is_bfloat16(losses):
        return array
    if array.dtype.kind != "f" or array.itemsize > 8:
        msg = f"losses must be float16, bfloat16, float32 or float64 (got {array.dtype})"
        raise TypeError(msg)
    return array


def class_array(classes: Any) -> NDArray[Any]:
    """Class ids as the core takes them."""
    array = _host_array("classes", classes)
    if _is_bfloat16(classes):
        msg = "classes must be integers (got torch.bfloat16)"
        raise TypeError(msg)
    if array.size == 0 and isinstance(classes, (list, tuple)):
        array = array.astype(np.int64)  # an empty list is short of ids, not of another type
    if array.dtype == np.uint64:
        if array.size > 0 and array.max() > np.iinfo(np.int64).max:
            msg = f"classes must be below 2**63 (got {array.max()})"
            raise ValueError(msg)
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        msg = f"classes must be integers (got {array.dtype})"
        raise TypeError(msg)
    return array.view(np.uint8) if array.dtype == np.bool_ else array


class LossWindow:
    """The losses recorded since the last update, and the last known mean loss of every class.

    Args:
        class_sizes: Rows of each class; a class without rows is left out of everything.
    """

    def __init__(self, class_sizes: Sizes) -> None:
        self._class_sizes, self._nonempty = class_sizes, class_sizes > 0
        self.class_losses: Floats = np.full(len(class_sizes), np.nan)
        self._pending = ClassLoss(np.zeros(len(class_sizes)), np.zeros(len(class_sizes), np.int64))
        self._on_device: DeviceTotals | None = None  # then it goes on from what was pending, and holds all of it
        self._warned: set[str] = set()

    @property
    def pending(self) -> ClassLoss:
        """What was recorded so far. Waits for the device of the losses.

        Raises:
            ValueError: Classes recorded on a device were out of range; their losses are left out.
        """
        if self._on_device is None:
            return self._pending
        pending, out_of_range, not_finite = self._on_device.read()
        if not_finite > 0:
            self._warn(_NOT_FINITE)
        if out_of_range > 0:
            self._on_device.forget_skipped()
            msg = f"classes must be in [0, {len(self._class_sizes)}) (got {out_of_range} others, left out, on {self._on_device.device})"
            raise ValueError(msg)
        return pending

    def add(self, losses: NDArray[Any], classes: NDArray[Any], num_threads: int) -> None:
        """Adds per-sample losses; nothing where it raises."""
        self._pending, self._on_device = self.pending, None
        if _core.add_class_loss(losses, classes, *self._pending, num_threads=max(num_threads, 1)) > 0:
            self._warn(_NOT_FINITE)

    def add_on_device(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds per-sample losses where they are; waits only where the last ones were elsewhere.

        Args:
            losses: Floats, shape `[n]`.
            classes: Integers, shape `[n]`, on the same device or on the CPU.
        """
        if self._on_device is None or self._on_device.device != losses.device:
            from l2m_fast.device_totals import DeviceTotals

            self._on_device = DeviceTotals(self.pending, losses.device)
        self._on_device.add(losses, classes)

    def add_sums(self, loss: ClassLoss) -> None:
        """Adds sums and counts; of a class whose sum is not finite, neither."""
        total, count = np.asarray(loss.sum), np.asarray(loss.count)
        if total.dtype.kind != "f" or count.dtype.kind not in "iu":
            msg = f"a ClassLoss must have a sum of floats and a count of integers (got {total.dtype} and {count.dtype})"
            raise TypeError(msg)
        shape = self._class_sizes.shape
        if total.shape != shape or count.shape != shape:
            msg = f"a ClassLoss must have sum and count of shape {shape} (got {total.shape} and {count.shape})"
            raise ValueError(msg)
        if count.min() < 0 or count.max() > 2**53:
            msg = f"the counts of a ClassLoss must be in [0, 2**53] (got {count.min()} to {count.max()})"
            raise ValueError(msg)
        if (total[count == 0] != 0).any():
            msg = f"a class without losses must have sum 0 (got {total[count == 0]})"
            raise ValueError(msg)
        finite = np.isfinite(total)
        if not finite.all():
            self._warn(_NOT_FINITE)
        self._pending, self._on_device = self.pending, None
        with np.errstate(over="ignore"):
            np.add(self._pending.sum, total, out=self._pending.sum, where=finite)
        np.clip(self._pending.sum, -LARGEST_SUM, LARGEST_SUM, out=self._pending.sum)
        np.add(self._pending.count, count, out=self._pending.count, where=finite, casting="unsafe")

    def totals(self, all_reduce: Callable[[Floats], object] | None) -> tuple[ClassLoss | None, Floats]:
        """What was recorded in the window, None for nothing, and the class losses after it. Changes nothing.

        Args:
            all_reduce: Sums a float64 array over all ranks, in place.
        """
        sums = np.concatenate(self.pending)
        if all_reduce is not None:
            all_reduce(sums)
        total, count = np.split(sums, 2)
        recorded = (count > 0) & self._nonempty & ~np.isnan(total)  # NaN: sums too large for a float, of both signs
        if not recorded.any():
            return None, self.class_losses
        mean = np.minimum(
            total[recorded] / count[recorded], LARGEST_SUM
        )  # where the sum of finite losses was not finite
        if (mean < 0).any():
            self._warn("the mean loss of a class is negative; it counts as 0")
        class_losses = self.class_losses.copy()
        class_losses[recorded] = np.maximum(mean, 0.0)
        return ClassLoss(total, count.astype(np.int64)), class_losses

    def successor(self, class_losses: Floats) -> LossWindow:
        """The next window, without losses."""
        window = LossWindow(self._class_sizes)
        window.class_losses, window._warned = class_losses, self._warned
        return window

    def filled(self, class_losses: Floats) -> Floats:
        """Class losses as a policy gets them: 0 without rows; where there was none yet, the mean of the others."""
        known = self._nonempty & ~np.isnan(class_losses)
        mean = min(_core.compensated_sum(class_losses[known]) / np.count_nonzero(known), LARGEST_SUM)
        losses: Floats = np.where(self._nonempty, np.where(known, class_losses, mean), 0.0)
        return losses

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)
