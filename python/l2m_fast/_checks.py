"""Checks that several modules share, and how their messages show a value."""

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


class _Repr(reprlib.Repr):
    """Represent the first items of a list, and other large containers and arrays by their size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxlong = self.maxother = most

    repr_bytes = reprlib.Repr.repr_str  # it cuts before it represents

    def repr1(self, x: object, level: int) -> str:
        """Return the repr of a value or of an item of it."""
        name = type(x).__name__
        with suppress(Exception):  # of a __repr__, __len__ or shape
            if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic):
                return f"<{name} of shape {tuple(x.shape)} and {x.dtype}>"
            if isinstance(x, Sized) and not isinstance(x, (str, bytes, list, tuple)) and len(x) > 100:
                return f"<{name} of {len(x)} items>"
            return super().repr1(x, level)
        return f"<{name} without a repr>"


def shortened(value: object, most: int = 200) -> str:
    """Return the repr of a value, or a summary of it, for an error message.

    The cost does not grow with the number of items.

    Args:
        value: Any object, also one whose `__repr__` raises.
        most: Maximum length of the result; a longer one is cut and ends in "...".
    """
    return cut(_Repr(most).repr(value), most)


def cut(text: str, most: int = 200) -> str:
    """Return a text of at most so many characters; a longer one ends in "..."."""
    return text if len(text) <= most else text[: most - 3] + "..."


def warn(message: str) -> None:
    """Issue a RuntimeWarning that points at the first frame outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("l2m_fast"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an integer in [least, most]. Bools, floats, arrays and tensors are refused."""
    allowed = f"an int >= {least}" if most is None else f"an int in [{least}, {most}]"
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer and (not hasattr(value, "__index__") or hasattr(value, "shape") or isinstance(value, bool)):
        msg = f"{name} must be {allowed} (got {shortened(value)})"
        raise TypeError(msg)
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        msg = f"{name} must be {allowed} (got {shortened(number)})"
        raise ValueError(msg)
    return number


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        msg = f"{name} must be {' or '.join(repr(word) for word in allowed)} (got {shortened(value)})"
        raise ValueError(msg)


def flag(name: str, value: object) -> bool:
    """Return True or False; whatever else counts as such is refused."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False (got {shortened(value)})"
        raise TypeError(msg)
    return bool(value)


def not_plain(name: str, tensor: torch.Tensor, allowed: str) -> str:
    """Return the message on a tensor that is not dense, has no memory of its own, or another dtype than allowed."""
    import torch

    kind = "nested " if tensor.is_nested else "quantized " if tensor.is_quantized else ""
    layout = "" if tensor.layout == torch.strided else f"{tensor.layout} ".removeprefix("torch.")
    where = "" if kind or layout or has_memory(tensor) else " without memory"
    if torch._C._are_functorch_transforms_active():
        where = " inside a transform of torch.func"
    got = f"a {kind}{layout}{type(tensor).__name__} of {tensor.dtype} on {tensor.device}{where}"
    return f"{name} must be a plain dense tensor of {allowed} (got {cut(got)})"


def has_memory(tensor: torch.Tensor) -> bool:
    """Return whether the values of a tensor are in memory: a FakeTensor, a DTensor or a tensor of torch.vmap has none."""
    import torch

    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return False
    try:
        return tensor.data_ptr() != 0 or tensor.numel() == 0
    except RuntimeError:
        return False
