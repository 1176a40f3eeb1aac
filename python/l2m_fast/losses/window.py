"""Per-class losses: sums and counts of a batch, and the window in which they are gathered for the mixing policy."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import cut, has_memory, not_plain, shortened

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    import torch
    from numpy.typing import ArrayLike, NDArray

    from l2m_fast.losses.device import DeviceClassLoss

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]


LARGEST_SUM = sys.float_info.max  # where sums of losses stop
_NOT_FINITE = "losses that are not finite were recorded; they are left out of the class losses"
MAX_COUNT = 2**53  # of losses of a class in a window, and of whatever a saved state counts: exact as a float
MOST_CLASSES = 2**31 - 1
MOST_ON_DEVICE = 2**29  # losses, so that no digit of a sum overflows
_FLOATS = "float16, float32, float64 or torch.bfloat16"


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

    Losses that are not finite are skipped, in the sum and in the count; a sum beyond the largest float64 stays there.

    On the CPU on as many threads as the process has CPUs where the input is large; the result has the same bits for any
    number of them. CUDA losses are summed on their device, in one launch where shared memory holds all classes (1,820 everywhere,
    4,096 at most) and two beyond, and nothing waits for it: the result is read like a `ClassLoss`, waiting when it is
    looked at, and `Loader.record` takes it without waiting. Sums are rounded once: gpu-to-gpu deterministic, the same bits on
    every device and in every order; float64 losses are taken as sums of float32 numbers, so that those beyond the largest of
    these are not finite, and what is below 2^-149 is lost. Where the package was built without a CUDA compiler torch sums, not
    deterministically.

    Args:
        losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64. Detached.
        classes: Class of each loss, shape `[n]`; integers in `[0, num_classes)`, on the CPU or where the losses are.
        num_classes: Number of classes, at least 1.

    Raises:
        TypeError: Losses are not floats or classes are not integers.
        ValueError: Shapes differ or are not one-dimensional, devices do not fit, or a class is out of range. Of CUDA losses
            it is skipped and counted, and raises when the result is looked at.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        msg = f"num_classes must be an int (got {shortened(num_classes)})"
        raise TypeError(msg)
    if not 1 <= num_classes <= MOST_CLASSES:
        msg = f"num_classes must be in [1, {MOST_CLASSES}] (got {shortened(int(num_classes))})"
        raise ValueError(msg)
    if is_on_device(losses):
        from l2m_fast.losses.device import DeviceClassLoss

        on_device = DeviceClassLoss(int(num_classes), losses.device)
        on_device.add(losses, device_classes(losses, classes))
        return on_device  # type: ignore[return-value]  # it is read as one
    result = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
    _core.add_class_loss(loss_array(losses), class_array(classes), *result, num_threads=_core.usable_cpus())
    return result


def _host_array(name: str, values: Any, allowed: str) -> NDArray[Any]:
    """An array of one dimension, contiguous and aligned; of bfloat16, which numpy lacks, the int16 of its bits."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        if not values.is_cpu:
            msg = f"{name} must be on the CPU, or both losses and classes on a CUDA device (got device {values.device})"
            raise ValueError(msg)
        try:
            bits = values.resolve_neg().view(torch.int16) if values.dtype == torch.bfloat16 else values
            array = bits.numpy(force=True)  # one call to detach it and to resolve what is lazy
        except (TypeError, RuntimeError) as error:
            raise TypeError(not_plain(name, values, allowed)) from error
        # For a tensor without memory, as in torch.func.functionalize, numpy allocates some, with anything in it.
        if array.flags.owndata and array.size > 0:
            raise TypeError(not_plain(name, values, allowed))
        values = array
    if isinstance(values, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # of lists that are ragged, or have tensors with a gradient
        msg = f"{name} must be an array of one dimension, [n] (got {cut(f'{type(values).__name__}: {error}')})"
        raise (ValueError if isinstance(error, ValueError) else TypeError)(msg) from None
    if array.ndim != 1:
        msg = f"{name} must have one dimension, [n] (got shape {shortened(array.shape)})"
        raise ValueError(msg)
    if array.flags.carray and array.dtype.isnative:  # as nearly always: it is asked in every step
        return array
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])


def _is_bfloat16(values: object) -> bool:
    return str(getattr(values, "dtype", "")) == "torch.bfloat16"


def is_on_device(losses: object) -> TypeGuard[torch.Tensor]:
    """Whether losses are a CUDA tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(losses, torch.Tensor) and losses.is_cuda


def is_device_class_loss(losses: object) -> TypeGuard[DeviceClassLoss]:
    """Whether these are sums on a device."""
    module = sys.modules.get("l2m_fast.losses.device")
    return module is not None and isinstance(losses, module.DeviceClassLoss)


def device_classes(losses: torch.Tensor, classes: Any) -> torch.Tensor:
    """The classes of losses on a device, as a tensor; raises unless they fit, without looking at values there."""
    import torch

    if losses.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not _is_plain(losses):
        raise TypeError(not_plain("losses", losses, _FLOATS))
    if not isinstance(classes, torch.Tensor) or classes.device.type == "cpu":
        writeable = np.require(class_array(classes), requirements="W")  # torch warns of what is not
        classes = torch.from_numpy(writeable)
    if classes.is_floating_point() or classes.is_complex() or not _is_plain(classes):
        raise TypeError(not_plain("classes", classes, "integers"))
    if losses.ndim != 1 or classes.shape != losses.shape:
        msg = f"losses must have one dimension, and classes one id for each of them (got shapes {shortened(tuple(losses.shape))} and {shortened(tuple(classes.shape))})"
        raise ValueError(msg)
    if classes.device.type != "cpu" and classes.device != losses.device:
        msg = f"classes must be on the CPU or on {losses.device}, as the losses are (got {classes.device})"
        raise ValueError(msg)
    if losses.numel() >= MOST_ON_DEVICE:
        msg = f"losses on a device must be fewer than {MOST_ON_DEVICE} at a time (got {losses.numel()})"
        raise ValueError(msg)
    # Beyond 2^63 an id is negative then, which is out of range too.
    as_kernels_take = {torch.bool: torch.uint8, torch.uint64: torch.int64}
    ids: torch.Tensor = classes.view(as_kernels_take.get(classes.dtype, classes.dtype))
    return ids


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized and has_memory(tensor)


def loss_array(losses: Any) -> NDArray[Any]:
    """Per-sample losses as the core takes them."""
    array = _host_array("losses", losses, _FLOATS)
    if (array.dtype.kind != "f" or array.itemsize > 8) and not _is_bfloat16(losses):
        msg = f"losses must be {_FLOATS} (got {cut(str(array.dtype))})"
        raise TypeError(msg)
    return array


def class_array(classes: Any) -> NDArray[Any]:
    """Class ids as the core takes them."""
    array = _host_array("classes", classes, "integers")
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
        msg = f"classes must be integers (got {cut(str(array.dtype))})"
        raise TypeError(msg)
    return array.view(np.uint8) if array.dtype == np.bool_ else array


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
