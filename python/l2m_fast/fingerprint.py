"""Fingerprints by value: what tells one object from another in a saved state, in every process."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

_MAX_NUMBERS = 16  # more of them are known by their digest
_MAX_DEPTH = 8


def by_value(value: Any, depth: int = 0) -> Any:
    """Return what identifies a value, made of str, int, float, bool, None, lists and dicts.

    Numbers are equal where their values are: `2`, `2.0` and `np.float32(2)`. Arrays and sequences of numbers are equal where
    their shapes and numbers are; many numbers become a digest. Functions and classes are known by their qualified names, other
    objects by their type and attributes.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, (list, tuple)) or _is_array(value):
        numbers = _numbers(value)
        if numbers is not None:
            return numbers
    if depth >= _MAX_DEPTH:
        return type(value).__qualname__
    if isinstance(value, (list, tuple)):
        return [by_value(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((by_value(item, depth + 1) for item in value), key=repr)}
    if isinstance(value, Mapping):
        return {str(key): by_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {"partial": by_value(parts, depth + 1)}
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    return {type(value).__qualname__: by_value(_attributes(value), depth + 1)}


def _is_array(value: object) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _numbers(value: Any) -> list[Any] | str | None:
    """Return what identifies an array, or a sequence of nothing but numbers; None: it is no such thing."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a ragged sequence
        return None
    if array.dtype.kind not in "biuf":
        return None
    if array.dtype.kind != "f" and array.size > 0 and max(abs(int(array.min())), abs(int(array.max()))) > 2**53:
        content, kind = np.ascontiguousarray(array), array.dtype.str
    else:
        content, kind = np.ascontiguousarray(array, "<f8"), "<f8"
    if content.size <= _MAX_NUMBERS:
        numbers: list[Any] = _listed(content.tolist())
        return numbers
    shape = "x".join(map(str, array.shape))
    return f"{shape} of {kind}, sha256 {hashlib.sha256(content.tobytes()).hexdigest()}"


def _listed(values: Any) -> Any:
    return [_listed(value) for value in values] if isinstance(values, list) else by_value(values)


def _attributes(value: object) -> dict[str, Any]:
    slots = (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()))
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name) and name != "__weakref__"}
    return {**attributes, **getattr(value, "__dict__", {})}
