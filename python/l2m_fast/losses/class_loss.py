"""`class_loss`: loss sums and counts per class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened
from l2m_fast.losses.arrays import class_array, device_classes, is_on_device, loss_array
from l2m_fast.losses.sums import MAX_CLASSES, ClassLoss

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch
    from numpy.typing import ArrayLike

    from l2m_fast.losses.device import DeviceClassLoss
    from l2m_fast.losses.sums import ClassSums


def class_loss(losses: torch.Tensor | ArrayLike, classes: torch.Tensor | ArrayLike, num_classes: int) -> ClassSums:
    """Return the sum and the number of losses of each class.

    Non-finite losses are skipped in both. A sum beyond the largest float64 is clamped to it.

    CPU: large inputs are summed by as many threads as the process has CPUs. The result does not depend on the number of
    threads.

    CUDA: losses are summed on their device without blocking the host. Reading `sum` or `count` of the result waits for
    the device; `Loader.record` does not. A call takes one kernel launch if shared memory holds all classes (up to
    1,820 on every device, 4,096 on the largest) and two otherwise. Sums are rounded once, so that they are gpu-to-gpu
    deterministic: the same bits on every device and in every order. A float64 loss is split into float32 numbers: a
    loss beyond the largest float32 counts as non-finite, and the part below 2^-149 is lost. If the package was built
    without a CUDA compiler, torch computes the sums, which is not deterministic.

    Args:
        losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64. Gradients are ignored.
        classes: Class of each loss, shape `[n]`; integers in `[0, num_classes)`, on the CPU or on the device of the
            losses.
        num_classes: Number of classes, at least 1.

    Returns:
        Object with `sum` (float64) and `count` (int64), both of shape `[num_classes]`.

    Raises:
        TypeError: Losses are not floats or classes are not integers.
        ValueError: Shapes differ or are not one-dimensional, devices differ, or a class is out of range. CUDA losses
            whose class is out of range are skipped, and the error is raised when the result is read.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        msg = f"num_classes must be an int (got {shortened(num_classes)})"
        raise TypeError(msg)
    if not 1 <= num_classes <= MAX_CLASSES:
        msg = f"num_classes must be in [1, {MAX_CLASSES}] (got {shortened(int(num_classes))})"
        raise ValueError(msg)
    if is_on_device(losses):
        from l2m_fast.losses.device import DeviceClassLoss

        on_device = DeviceClassLoss(int(num_classes), losses.device)
        on_device.add(losses, device_classes(losses, classes))
        return on_device
    result = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
    _core.add_class_loss(loss_array(losses), class_array(classes), *result)
    return result


def is_device_class_loss(losses: object) -> TypeGuard[DeviceClassLoss]:
    """Return whether `losses` is a `DeviceClassLoss`."""
    # If one exists, its module has been imported already; importing it here would import torch.
    module = sys.modules.get("l2m_fast.losses.device")
    return module is not None and isinstance(losses, module.DeviceClassLoss)
