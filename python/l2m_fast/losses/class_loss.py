"""`class_loss`: loss sums and counts per class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened
from l2m_fast.losses.arrays import class_array, device_classes, is_on_device, loss_array
from l2m_fast.losses.sums import MAX_CLASSES, ClassLoss, HostClassLoss, num_host_words

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch
    from numpy.typing import ArrayLike

    from l2m_fast.losses.device import DeviceClassLoss
    from l2m_fast.losses.sums import ClassSums


def class_loss(losses: torch.Tensor | ArrayLike, classes: torch.Tensor | ArrayLike, num_classes: int) -> ClassSums:
    """Return the sum and the number of losses of each class.

    Losses that are non-finite as a float32 are skipped in both. Sums are exact, and rounded to float64 when they are
    read: they have the same bits for every order of the losses, number of threads, and device. `Loader.record` adds
    them without rounding. The part of a float64 loss below 2^-149 is lost. A sum is clamped to 2^168.

    CPU: large inputs are summed by as many threads as the process has CPUs.

    CUDA: losses are summed on their device without blocking the host, by one kernel launch, or by torch if the package
    was built without a CUDA compiler. Reading `sum` or `count` of the result waits for the device; `Loader.record` does
    not.

    Args:
        losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64. Gradients are ignored.
        classes: Class of each loss, shape `[n]`; integers in `[0, num_classes)`, on the CPU or on the device of the
            losses.
        num_classes: Number of classes, at least 1.

    Returns:
        Object with `sum` (float64) and `count` (int64), both of shape `[num_classes]` and rounded copies of what
        `Loader.record` adds.

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
    words = np.zeros(num_host_words(int(num_classes)), np.int64)
    _core.add_class_loss(loss_array(losses), class_array(classes), words)
    return HostClassLoss(words)


def is_class_loss(losses: object) -> TypeGuard[ClassLoss | HostClassLoss | DeviceClassLoss]:
    """Return whether `losses` are sums and counts of classes."""
    if isinstance(losses, (ClassLoss, HostClassLoss)):
        return True
    # If sums on a device exist, their module has been imported already; importing it here would import torch.
    module = sys.modules.get("l2m_fast.losses.device")
    return module is not None and isinstance(losses, module.DeviceClassLoss)
