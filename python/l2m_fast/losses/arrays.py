"""Conversion of losses and classes from the user to arrays for the core and the kernels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import has_memory, not_plain_message, shortened, truncated

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch
    from numpy.typing import NDArray

MAX_LOSSES_ON_DEVICE = 2**29  # per call, so that no digit of an exact sum overflows
_FLOATS = "float16, float32, float64 or torch.bfloat16"


def is_on_device(losses: object) -> TypeGuard[torch.Tensor]:
    """Return whether losses are a CUDA tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(losses, torch.Tensor) and losses.is_cuda


def loss_array(losses: Any) -> NDArray[Any]:
    """Return per-sample losses as an array for the core."""
    array = _host_array("losses", losses, _FLOATS)
    if (array.dtype.kind != "f" or array.itemsize > 8) and not _is_bfloat16(losses):
        msg = f"losses must be {_FLOATS} (got {truncated(str(array.dtype))})"
        raise TypeError(msg)
    return array


def class_array(classes: Any) -> NDArray[Any]:
    """Return class ids as an array for the core."""
    array = _host_array("classes", classes, "integers")
    if _is_bfloat16(classes):
        msg = "classes must be integers (got torch.bfloat16)"
        raise TypeError(msg)
    if array.size == 0 and isinstance(classes, (list, tuple)):
        array = array.astype(np.int64)  # the error should be about the length, not about the dtype
    if array.dtype == np.uint64:
        if array.size > 0 and array.max() > np.iinfo(np.int64).max:
            msg = f"classes must be below 2**63 (got {array.max()})"
            raise ValueError(msg)
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        hint = ": convert them if they are whole numbers" if array.dtype.kind == "f" else ""
        msg = f"classes must be integers (got {truncated(str(array.dtype))}){hint}"
        raise TypeError(msg)
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def device_classes(losses: torch.Tensor, classes: Any) -> torch.Tensor:
    """Return the classes of losses on a device as a tensor for the kernels. Check dtypes, shapes and devices."""
    import torch

    if losses.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not _is_plain(losses):
        raise TypeError(not_plain_message("losses", losses, _FLOATS))
    if not isinstance(classes, torch.Tensor) or classes.device.type == "cpu":
        writeable = np.require(class_array(classes), requirements="W")  # torch warns about read-only arrays
        classes = torch.from_numpy(writeable)
    if classes.is_floating_point() or classes.is_complex() or not _is_plain(classes):
        raise TypeError(not_plain_message("classes", classes, "integers"))
    if losses.ndim != 1 or classes.shape != losses.shape:
        got = f"shapes {shortened(tuple(losses.shape))} and {shortened(tuple(classes.shape))}"
        msg = f"losses and classes must have the same shape [n] (got {got})"
        raise ValueError(msg)
    if classes.device.type != "cpu" and classes.device != losses.device:
        msg = f"classes must be on the CPU or on {losses.device} like the losses (got {classes.device})"
        raise ValueError(msg)
    if losses.numel() >= MAX_LOSSES_ON_DEVICE:
        msg = f"losses on a device must be fewer than {MAX_LOSSES_ON_DEVICE} per call (got {losses.numel()})"
        raise ValueError(msg)
    # An id of 2^63 or above becomes negative, which is out of range too.
    kernel_dtypes = {torch.bool: torch.uint8, torch.uint64: torch.int64}
    ids: torch.Tensor = classes.view(kernel_dtypes.get(classes.dtype, classes.dtype))
    return ids


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized and has_memory(tensor)


def _host_array(name: str, values: Any, allowed: str) -> NDArray[Any]:
    """Return a one-dimensional, contiguous, aligned array. View bfloat16, which NumPy does not support, as int16."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        if not values.is_cpu:
            msg = f"{name} must be on the CPU, or both losses and classes on a CUDA device (got device {values.device})"
            raise ValueError(msg)
        try:
            bits = values.resolve_neg().view(torch.int16) if values.dtype == torch.bfloat16 else values
            array = bits.numpy(force=True)  # also detaches, and resolves lazy conjugation and negation
        except (TypeError, RuntimeError) as error:
            raise TypeError(not_plain_message(name, values, allowed)) from error
        # For a tensor without memory, as in torch.func.functionalize, NumPy allocates uninitialized memory.
        if array.flags.owndata and array.size > 0:
            raise TypeError(not_plain_message(name, values, allowed))
        values = array
    if isinstance(values, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors that require a gradient
        msg = f"{name} must be an array of shape [n] (got {truncated(f'{type(values).__name__}: {error}')})"
        raise (ValueError if isinstance(error, ValueError) else TypeError)(msg) from None
    if array.ndim != 1:
        msg = f"{name} must have shape [n] (got shape {shortened(array.shape)})"
        raise ValueError(msg)
    if array.flags.carray and array.dtype.isnative:  # the common case, faster than np.require
        return array
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])


def _is_bfloat16(values: object) -> bool:
    return str(getattr(values, "dtype", "")) == "torch.bfloat16"
