"""Sums of the losses of each class, of a batch at a time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened
from l2m_fast.losses.arrays import class_array, device_classes, is_on_device, loss_array
from l2m_fast.losses.sums import MOST_CLASSES, ClassLoss

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch
    from numpy.typing import ArrayLike

    from l2m_fast.losses.device import DeviceClassLoss
    from l2m_fast.losses.sums import ClassSums


def class_loss(losses: torch.Tensor | ArrayLike, classes: torch.Tensor | ArrayLike, num_classes: int) -> ClassSums:
    """Sum losses per class.

    Losses that are not finite are skipped, in the sum and in the count; a sum beyond the largest float64 stays there.

    On the CPU on as many threads as the process has CPUs where the input is large; the result has the same bits for any
    number of them. CUDA losses are summed on their device, in one launch where shared memory holds all classes (1,820 everywhere,
    4,096 at most) and two beyond, and nothing waits for it: `sum` and `count` of the result wait when they are looked at, and
    `Loader.record` takes it without waiting. Sums are rounded once: gpu-to-gpu deterministic, the same bits on every device and
    in every order; float64 losses are taken as sums of float32 numbers, so that those beyond the largest of these are not
    finite, and what is below 2^-149 is lost. Where the package was built without a CUDA compiler torch sums, not
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
        return on_device
    result = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
    _core.add_class_loss(loss_array(losses), class_array(classes), *result, num_threads=_core.usable_cpus())
    return result


def is_device_class_loss(losses: object) -> TypeGuard[DeviceClassLoss]:
    """Return whether these are sums on a device."""
    # Where there are such sums, their module has been imported; importing it here would import torch.
    module = sys.modules.get("l2m_fast.losses.device")
    return module is not None and isinstance(losses, module.DeviceClassLoss)
