"""Checks and a conversion shared by several modules, and helpers for their messages."""

from __future__ import annotations

import operator
import reprlib
import sys
import warnings
from collections.abc import Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class _Repr(reprlib.Repr):
    """Repr of limited cost: the first items of a list, and the size of other large containers and arrays."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxlong = self.maxother = max_length

    repr_bytes = reprlib.Repr.repr_str  # it truncates before it calls repr()

    def repr1(self, x: object, level: int) -> str:
        """Return the repr of a value or of one of its items."""
        name = type(x).__name__
        with suppress(Exception):  # raised by a user's __repr__, __len__ or shape
            if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic):
                return f"<{name} of shape {tuple(x.shape)} and {x.dtype}>"
            if isinstance(x, Sized) and not isinstance(x, (str, bytes, list, tuple)) and len(x) > 100:
                return f"<{name} of {len(x)} items>"
            return super().repr1(x, level)
        return f"<{name} without a repr>"


def shortened(value: object, max_length: int = 200) -> str:
    """Return the repr of a value, or a summary of it, for an error message.

    The cost does not depend on the number of items.

    Args:
        value: Any object, including objects whose `__repr__` raises.
        max_length: Maximum length of the result. A longer one is truncated and ends in "...".
    """
    return truncated(_Repr(max_length).repr(value), max_length)


def truncated(text: str, max_length: int = 200) -> str:
    """Return the first `max_length` characters of a text, ending in "..." if it is longer."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def warn(message: str) -> None:
    """Issue a RuntimeWarning that points to the first frame outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("l2m_fast"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def import_torch(user: str, alternative: str = "") -> Any:
    """Return torch. Raise ImportError, which names what needs it, if it is not installed."""
    try:
        import torch
    except ImportError:
        msg = f'{user} needs torch: pip install "l2m-fast[torch]"{alternative}'
        raise ImportError(msg) from None
    return torch


def checked_int(name: str, value: Any, min_value: int, max_value: int | None = None) -> int:
    """Return `value` as an int. Raise unless it is an integer in [min_value, max_value]; bools and floats are not."""
    allowed = f"an int >= {min_value}" if max_value is None else f"an int in [{min_value}, {max_value}]"
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer and (not hasattr(value, "__index__") or hasattr(value, "shape") or isinstance(value, bool)):
        msg = f"{name} must be {allowed} (got {shortened(value)})"
        raise TypeError(msg)
    number = operator.index(value)
    if number < min_value or (max_value is not None and number > max_value):
        msg = f"{name} must be {allowed} (got {shortened(number)})"
        raise ValueError(msg)
    return number


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        msg = f"{name} must be {' or '.join(repr(word) for word in allowed)} (got {shortened(value)})"
        raise ValueError(msg)


def checked_bool(name: str, value: object) -> bool:
    """Return `value` as a bool. Raise unless it is True or False; other truthy values are not accepted."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False (got {shortened(value)})"
        raise TypeError(msg)
    return bool(value)


def not_plain_message(name: str, tensor: torch.Tensor, allowed: str) -> str:
    """Return the error message for a tensor that is not dense, has no memory of its own, or has a wrong dtype."""
    import torch

    kind = "nested " if tensor.is_nested else "quantized " if tensor.is_quantized else ""
    layout = "" if tensor.layout == torch.strided else f"{tensor.layout} ".removeprefix("torch.")
    where = "" if kind or layout or has_memory(tensor) else " without memory"
    if torch._C._are_functorch_transforms_active():
        where = " inside a transform of torch.func"
    got = f"a {kind}{layout}{type(tensor).__name__} of {tensor.dtype} on {tensor.device}{where}"
    return f"{name} must be a plain dense tensor of {allowed} (got {truncated(got)})"


def to_array(values: Any) -> NDArray[Any]:
    """Return `np.asarray(values)`, also of a tensor that has a gradient or is on a device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def has_memory(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has values in memory, unlike a FakeTensor, a DTensor or a tensor inside torch.vmap."""
    import torch

    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return False
    try:
        return tensor.data_ptr() != 0 or tensor.numel() == 0
    except RuntimeError:
        return False
