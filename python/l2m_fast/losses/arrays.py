"""Conversion of the losses and classes that users pass to what the core and the kernels take."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import cut, has_memory, not_plain, shortened

if TYPE_CHECKING:
    from typing import TypeGuard

    import torch
    from numpy.typing import NDArray

MOST_ON_DEVICE = 2**29  # losses, so that no digit of a sum overflows
_FLOATS = "float16, float32, float64 or torch.bfloat16"


def is_on_device(losses: object) -> TypeGuard[torch.Tensor]:
    """Return whether losses are a CUDA tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(losses, torch.Tensor) and losses.is_cuda


def loss_array(losses: Any) -> NDArray[Any]:
    """Return per-sample losses as the core takes them."""
    array = _host_array("losses", losses, _FLOATS)
    if (array.dtype.kind != "f" or array.itemsize > 8) and not _is_bfloat16(losses):
        msg = f"losses must be {_FLOATS} (got {cut(str(array.dtype))})"
        raise TypeError(msg)
    return array


def class_array(classes: Any) -> NDArray[Any]:
    """Return class ids as the core takes them."""
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


def device_classes(losses: torch.Tensor, classes: Any) -> torch.Tensor:
    """Return the classes of losses on a device as the kernels take them. Raise unless they fit; values there are not read."""
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


def _host_array(name: str, values: Any, allowed: str) -> NDArray[Any]:
    """Return an array of one dimension, contiguous and aligned; of bfloat16, which NumPy lacks, the int16 of its bits."""
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
