"""Fingerprints by value, which identify an object in saved states and are the same in every process."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

_MAX_NUMBERS = 16  # longer arrays are represented by their digest
_MAX_DEPTH = 16


def description(value: Any) -> str:
    """Return the fingerprint of a value as a text, equal for equal fingerprints."""
    return json.dumps(by_value(value), sort_keys=True)


def by_value(value: Any, parents: tuple[int, ...] = ()) -> Any:
    """Return the fingerprint of a value, made of str, int, float, bool, None, lists and dicts.

    Numbers are compared by value: `2`, `2.0` and `np.float32(2)` have the same fingerprint. Arrays and sequences of
    numbers have the same fingerprint if their shapes and numbers are equal; long ones, and all other bytes, are
    represented by a digest. Functions and classes are represented by their qualified names, and other objects by their
    type and the arguments that pickle would use to recreate them.

    Args:
        value: Any object.
        parents: Ids of the objects that contain it.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return str(float(value))  # NaN differs from itself, and strict JSON has neither
        return int(value) if float(value).is_integer() else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"bytes, {_digest(bytes(value))}"
    if isinstance(value, (list, tuple)) or _is_array(value):
        numbers = _numbers(value)
        if numbers is not None:
            return numbers
    if isinstance(value, np.ndarray):
        if not value.dtype.hasobject:
            return f"{_describe_array(value)}, {_digest(value.tobytes())}"
        value = {_describe_array(value): value.ravel().tolist()}
    if len(parents) >= _MAX_DEPTH or id(value) in parents:  # too deep, or a reference cycle
        return type(value).__qualname__
    parents = (*parents, id(value))
    if isinstance(value, (list, tuple)):
        return [by_value(item, parents) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((by_value(item, parents) for item in value), key=repr)}
    if isinstance(value, Mapping):
        return {str(key): by_value(item, parents) for key, item in value.items()}
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {"partial": by_value(parts, parents)}
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    return {type(value).__qualname__: by_value(_content(value), parents)}


def _is_array(value: object) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _numbers(value: Any) -> list[Any] | str | None:
    """Return the fingerprint of an array or sequence that contains only numbers; None: it does not."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a ragged sequence
        return None
    if array.dtype.kind not in "biuf":
        return None
    if array.dtype.kind != "f" and array.size > 0 and max(abs(int(array.min())), abs(int(array.max()))) > 2**53:
        content = np.ascontiguousarray(array)
    else:
        content = np.ascontiguousarray(array, "<f8")
    if content.size <= _MAX_NUMBERS:
        numbers: list[Any] = _listed(content.tolist())
        return numbers
    return f"{_describe_array(content)}, {_digest(content.tobytes())}"


def _describe_array(array: np.ndarray[Any, Any]) -> str:
    return f"{'x'.join(map(str, array.shape))} of {array.dtype.descr if array.dtype.names else array.dtype.str}"


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()}"


def _listed(values: Any) -> Any:
    return [_listed(value) for value in values] if isinstance(values, list) else by_value(values)


def _content(value: object) -> Any:
    """Return the arguments that pickle uses to recreate an object, or just its attributes and slots if they suffice."""
    try:
        reduced: Any = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001  # an object that cannot be pickled, such as a lock or a generator
        return vars(value) if hasattr(value, "__dict__") else None
    if isinstance(reduced, str):  # the name of a global object
        return reduced
    function, arguments, state, *items = (*reduced, None, None, None)[:5]
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = {**(state[0] or {}), **state[1]}
    rest = [list(iterator) for iterator in items if iterator is not None]
    if function is copyreg.__newobj__ and tuple(arguments) == (type(value),) and not rest:  # type: ignore[attr-defined]
        return {} if state is None else state
    return [function, arguments, state, *rest]
