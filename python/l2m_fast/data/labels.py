"""Conversion of a loader's `classes` to ids."""

from __future__ import annotations

import itertools
import operator
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened
from l2m_fast.losses.arrays import class_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# Larger ids are probably keys of another kind. K may be up to the larger of the first, and the second times the rows.
_MAX_CLASSES = 1 << 20
_MAX_CLASSES_PER_ROW = 8


def class_ids(classes: Any, num_rows: int) -> tuple[NDArray[Any] | None, int, list[str] | None]:
    """Return the class id of each row, the number of classes and the labels.

    Args:
        classes: Ids or labels as the user passed them; None: a single class.
        num_rows: Number of rows N.

    Returns:
        Integers of shape `[N]` (None: a single class), the number of classes, and the labels in the order of their ids
        (None: the classes were given as ids).
    """
    if classes is None:
        return None, 1, None
    torch = sys.modules.get("torch")
    labels = None
    if torch is not None and isinstance(classes, torch.Tensor):
        ids = class_array(classes.cpu() if classes.is_cuda else classes)
    else:
        values = _as_sequence(classes, num_rows)
        ids, labels = _from_array(values) if isinstance(values, np.ndarray) else _from_values(values)
    if len(ids) != num_rows:
        msg = f"classes must have one id for each of the {num_rows} rows (got {len(ids)})"
        raise ValueError(msg)
    min_id, max_id = int(ids.min()), int(ids.max())
    if min_id < 0:
        msg = f"classes must be >= 0 (got {min_id})"
        raise ValueError(msg)
    max_classes = max(_MAX_CLASSES, _MAX_CLASSES_PER_ROW * num_rows)
    if max_id >= max_classes:
        msg = (
            f"classes must be ids below {max_classes} (got {max_id}): number them by "
            "np.unique(classes, return_inverse=True)[1]"
        )
        raise ValueError(msg)
    return ids, max_id + 1, labels


def _as_sequence(classes: Any, num_rows: int) -> NDArray[Any] | Sequence[Any]:
    """Return the values as an array, list or tuple. Keep lists, because NumPy would pad all strings to one width."""
    if isinstance(classes, (np.ndarray, list, tuple)):
        return classes
    if not isinstance(classes, (str, bytes, np.generic, Mapping)):
        if hasattr(type(classes), "__array__"):  # pandas, pyarrow, polars, JAX, ...
            return np.asarray(classes)
        if isinstance(classes, Collection) and hasattr(type(classes), "__getitem__"):
            return list(classes)
    got = f"the {type(classes).__name__} {shortened(classes)}"
    msg = f"classes must be an array of {num_rows} ids or labels, one for each row (got {got}): pass the array itself"
    raise TypeError(msg)


def _from_array(array: NDArray[Any]) -> tuple[NDArray[Any], list[str] | None]:
    kind = array.dtype.kind
    if array.ndim != 1 or kind in "iub" or isinstance(array, np.ma.MaskedArray):
        return class_array(array), None
    if array.size == 0:
        return np.empty(0, np.int64), None  # the error should be about the length, not about the dtype
    if kind == "U":
        names, ids = np.unique(array, return_inverse=True)
        return ids, names.tolist()
    if kind in "OST":
        return _from_values(array.tolist())
    if kind == "f":
        _refuse_missing(np.flatnonzero(np.isnan(array)).tolist())
    raise _wrong_type("a structured array" if kind == "V" else array.dtype.name, is_float=kind == "f")


def _from_values(values: Sequence[Any]) -> tuple[NDArray[Any], list[str] | None]:
    kind_of = {value_type: _kind(value_type) for value_type in set(map(type, values))}
    kinds = set(kind_of.values())
    if None in kinds:
        _refuse_missing(_missing_rows(values))
    if len(kinds) > 1:
        row = next(row for row, value in enumerate(values) if kind_of[type(value)] != kind_of[type(values[0])])
        got = f"{type(values[0]).__name__} at row 0 and {type(values[row]).__name__} at row {row}"
        msg = f"classes must be of one type, integers or strings (got {got})"
        raise TypeError(msg)
    if None in kinds:
        got = f"{type(values[0]).__name__} at row 0"
        raise _wrong_type(got, is_float=isinstance(values[0], (float, np.floating)))
    if kinds == {bool}:
        return class_array(np.array(values, np.bool_)), None
    if kinds == {bytes}:
        return _from_bytes(values)
    if kinds == {str}:
        # A subclass may have an equality of its own, and labels are plain strings.
        return _numbered(values if kind_of.keys() == {str} else map(str.__str__, values), len(values))
    return _from_integers(values), None


def _kind(value_type: type) -> type | None:
    """Return which of str, bytes, bool and int the values of a type count as; None: none of them."""
    for kind, types in ((str, str), (bytes, bytes), (bool, (bool, np.bool_))):
        if issubclass(value_type, types):
            return kind
    return int if hasattr(value_type, "__index__") else None  # also NumPy integers, and tensors with one integer


def _from_bytes(values: Sequence[bytes]) -> tuple[NDArray[np.int64], list[str]]:
    rest = iter(values)
    try:
        return _numbered(map(bytes.decode, rest), len(values))
    except UnicodeDecodeError:
        row = len(values) - operator.length_hint(rest) - 1
        msg = f"classes of bytes must be UTF-8 (got {shortened(values[row])} at row {row}): decode them first"
        raise ValueError(msg) from None


def _from_integers(values: Sequence[Any]) -> NDArray[np.int64]:
    rest = iter(values)
    try:
        return np.fromiter(map(operator.index, rest), np.int64, len(values))
    except (OverflowError, TypeError) as error:
        row = len(values) - operator.length_hint(rest) - 1
        msg = f"classes must be integers in [0, 2**63) or strings (got {shortened(values[row])} at row {row})"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from None


def _numbered(labels: Iterable[str], num_rows: int) -> tuple[NDArray[np.int64], list[str]]:
    """Return the ids of labels in sorted order, and the sorted labels. Memory does not depend on their length."""
    first_seen: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids = np.fromiter(map(first_seen.__getitem__, labels), np.int64, num_rows)
    names = list(first_seen)
    order = sorted(range(len(names)), key=names.__getitem__)
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(len(names))
    return number[ids], [names[k] for k in order]


def _missing_rows(values: Sequence[Any]) -> list[int]:
    pandas = sys.modules.get("pandas")
    na, nat = getattr(pandas, "NA", None), getattr(pandas, "NaT", None)
    return [
        row
        for row, value in enumerate(values)
        if value is None
        or value is na
        or value is nat
        or (isinstance(value, (float, np.floating, np.datetime64)) and np.isnan(value))
    ]


def _refuse_missing(rows: list[int]) -> None:
    """Raise if there are rows without a label."""
    if not rows:
        return
    *others, last = map(str, rows[:3])
    where = f"rows {', '.join(others)} and {last}" if others else f"row {last}"
    msg = f"classes must have a label for every row (got {len(rows)} missing, the first at {where})"
    raise ValueError(msg)


def _wrong_type(got: str, is_float: bool) -> TypeError:
    hint = ": use np.asarray(classes).astype(int) if they are whole numbers" if is_float else ""
    return TypeError(f"classes must be integers or strings (got {got}){hint}")
