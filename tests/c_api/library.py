"""The C API, loaded by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).parents[2] / "build/testing/libl2m.so"
OK, END, INVALID, NO_MEMORY, BUSY, CLOSED, TOO_MANY, BAD_STATE, CALLBACK, FAILED = range(10)
LAST = -1
_CLASS_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
KINDS = ("fixed", "schedule", "follows losses")


class Error(Exception):
    """Error code of a call, with its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Field(Structure):
    _fields_ = [("data", c_void_p), ("row_bytes", c_int64), ("stride", c_int64)]


class _Parameter(Structure):
    _fields_ = [("name", c_char_p), ("value", c_double)]


class _Window(Structure):
    _fields_ = [
        ("num_classes", c_size_t),
        ("proportions", POINTER(c_double)),
        ("class_losses", POINTER(c_double)),
        ("class_sizes", POINTER(c_int64)),
        ("counts", POINTER(c_int64)),
        ("rows_drawn", POINTER(c_int64)),
        ("passes", POINTER(c_uint64)),
        ("step", c_uint64),
        ("total_steps", c_uint64),
    ]


_Initial = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t, POINTER(c_int64), POINTER(c_double))
_Update = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(_Window), POINTER(c_double), POINTER(c_double))
_AllReduce = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_double), c_size_t)
_Warn = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class _Policy(Structure):
    _fields_ = [
        ("description", c_char_p),
        ("kind", c_int),
        ("memory_rows", c_int64),
        ("user_data", c_void_p),
        ("initial", _Initial),
        ("update", _Update),
    ]


class _Options(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("version", c_uint32),
        ("num_rows", c_int64),
        ("fields", POINTER(_Field)),
        ("num_fields", c_size_t),
        ("classes", c_void_p),
        ("class_type", c_int),
        ("num_classes", c_int64),
        ("rows", c_void_p),
        ("num_selected", c_int64),
        ("batch_size", c_int64),
        ("steps_per_epoch", c_int64),
        ("shuffle", c_int),
        ("grouped", c_int),
        ("drop_last", c_int),
        ("max_batches", c_int64),
        ("mixing", c_char_p),
        ("parameters", POINTER(_Parameter)),
        ("num_parameters", c_size_t),
        ("proportions", c_void_p),
        ("policy", POINTER(_Policy)),
        ("update_every", c_int64),
        ("lookahead", c_int64),
        ("total_steps", c_uint64),
        ("rank", c_int64),
        ("world_size", c_int64),
        ("all_reduce", _AllReduce),
        ("num_threads", c_int),
        ("prefetch", c_int),
        ("warn", _Warn),
        ("user_data", c_void_p),
    ]


class _Batch(Structure):
    _fields_ = [
        ("num_rows", c_int64),
        ("fields", POINTER(c_void_p)),
        ("rows", POINTER(c_int64)),
        ("classes", POINTER(ctypes.c_int32)),
        ("proportions", POINTER(c_double)),
        ("epoch", c_uint64),
        ("step", c_uint64),
    ]


@dataclass
class Batch:
    """Copy of a batch."""

    fields: list[bytes]
    rows: list[int]
    classes: list[int]
    proportions: list[float]
    epoch: int
    step: int


def array_at(pointer: Any, size: int) -> NDArray[Any]:
    """Return the array at a pointer. No memory is copied."""
    return np.ctypeslib.as_array(pointer, (size,)) if size > 0 else np.empty(0)


class CLoader:
    """Loader of the C API.

    Args:
        data: Fields.
        classes: Class of each row, integers; None: a single class.
        mixing: Name of a built-in policy, and its parameters or, for "Static", its proportions.
        policy: Policy written in Python, with its description; None: `mixing`.
        all_reduce: Function that sums an array over all ranks in place.
        seed: Seed.
        **options: Other options, as in l2m.h.
    """

    def __init__(
        self,
        data: Sequence[NDArray[Any]],
        *,
        classes: NDArray[Any] | None = None,
        rows: NDArray[np.int64] | None = None,
        mixing: tuple[str, dict[str, float] | NDArray[np.float64]] | None = None,
        policy: tuple[Any, str] | None = None,
        all_reduce: Callable[[NDArray[np.float64]], None] | None = None,
        seed: int,
        **options: int,
    ) -> None:
        self._handle, self._library = c_void_p(), ctypes.CDLL(str(LIBRARY))
        self._library.l2m_errmsg.restype = c_char_p
        self._data, self._row_bytes = list(data), [array[:1].nbytes for array in data]
        o = _Options()
        assert self._library.l2m_options_init(byref(o), c_size_t(ctypes.sizeof(o))) == OK
        o.num_rows, o.num_fields = len(data[0]), len(data)
        o.fields = (_Field * len(data))(
            *(_Field(a.ctypes.data, size, a.strides[0]) for a, size in zip(data, self._row_bytes, strict=True))
        )
        if classes is not None:
            o.classes, o.class_type = classes.ctypes.data, 1 + _CLASS_TYPES.index(classes.dtype.name)
        if rows is not None:
            o.rows, o.num_selected = rows.ctypes.data, len(rows)
        if mixing is not None:
            name, parameters = mixing
            o.mixing = name.encode()
            if isinstance(parameters, dict):
                o.num_parameters = len(parameters)
                o.parameters = (_Parameter * len(parameters))(
                    *(_Parameter(k.encode(), v) for k, v in parameters.items())
                )
            else:
                o.proportions = parameters.ctypes.data
        self._policy = None if policy is None else _policy(*policy)
        if self._policy is not None:
            o.policy = ctypes.pointer(self._policy)
        self._all_reduce = _AllReduce(lambda _, values, size: all_reduce(array_at(values, size)) or 0)  # type: ignore[misc]
        if all_reduce is not None:
            o.all_reduce = self._all_reduce
        for option, value in options.items():
            assert hasattr(o, option)
            setattr(o, option, value)
        error = ctypes.create_string_buffer(600)
        code = self._library.l2m_create(byref(o), c_uint64(seed), byref(self._handle), error, c_size_t(600))
        if code != OK:
            raise Error(code, error.value.decode())

    def __del__(self) -> None:
        if self._handle:
            self._call("free")

    def _call(self, function: str, *arguments: Any) -> int:
        code: int = self._library[f"l2m_{function}"](self._handle, *arguments)
        if code not in (OK, END):
            raise Error(code, self._library.l2m_errmsg(self._handle).decode())
        return code

    def next(self) -> Batch | None:
        """Return a copy of the next batch; None: the epoch has ended."""
        pointer = POINTER(_Batch)()
        if self._call("next", byref(pointer)) == END:
            return None
        batch = pointer.contents
        n = batch.num_rows
        copied = Batch(
            [ctypes.string_at(batch.fields[f], n * size) for f, size in enumerate(self._row_bytes)],
            array_at(batch.rows, n).tolist(),
            array_at(batch.classes, n).tolist(),
            array_at(batch.proportions, len(self.proportions)).tolist(),
            batch.epoch,
            batch.step,
        )
        self._call("release", pointer)
        return copied

    def record(self, losses: NDArray[Any], classes: NDArray[np.int32] | None = None, step: int | None = None) -> None:
        """Record losses, float32 or float64."""
        function = "record" if losses.dtype == np.float32 else "record_double"
        given = None if classes is None else c_void_p(classes.ctypes.data)
        self._call(
            function, c_void_p(losses.ctypes.data), c_int64(len(losses)), given, c_int64(LAST if step is None else step)
        )

    def update(self) -> None:
        """Close the window."""
        self._call("update")

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch."""
        self._call("set_epoch", c_uint64(epoch))

    def save(self, step: int | None = None) -> bytes:
        """Return the bytes of the state."""
        size, at = c_size_t(), c_int64(LAST if step is None else step)
        self._call("state_size", at, byref(size))
        state = ctypes.create_string_buffer(size.value)
        self._call("state_save", at, state, size, None)
        return state.raw

    def load(self, state: bytes) -> None:
        """Resume from the bytes of a state."""
        self._call("state_load", state, c_size_t(len(state)))

    def __len__(self) -> int:
        size = c_int64()
        self._call("epoch_size", byref(size))
        return size.value

    @property
    def progress(self) -> tuple[int, int, int]:
        """Epoch, step and total step."""
        epoch, step, total_step = c_uint64(), c_int64(), c_uint64()
        self._call("progress", byref(epoch), byref(step), byref(total_step))
        return epoch.value, step.value, total_step.value

    @property
    def proportions(self) -> NDArray[np.float64]:
        """Proportions of the next batch."""
        return self._of_classes("proportions", np.float64)

    @property
    def class_losses(self) -> NDArray[np.float64]:
        """Mean losses of the classes."""
        return self._of_classes("class_losses", np.float64)

    def _of_classes(self, function: str, dtype: Any) -> NDArray[Any]:
        size = c_size_t()
        self._call("num_classes", byref(size))
        values = np.empty(size.value, dtype)
        self._call(function, c_void_p(values.ctypes.data), size)
        return values


def _policy(policy: Any, description: str) -> _Policy:
    """Return a policy whose functions call one written in Python."""
    from l2m_fast import Window
    from l2m_fast.mixing import kind_of

    memory_rows = getattr(policy, "memory_rows", 0)

    def initial(_: Any, num_classes: int, class_sizes: Any, proportions: Any) -> int:
        array_at(proportions, num_classes)[:] = policy.initial(array_at(class_sizes, num_classes))
        return 0

    def update(_: Any, pointer: Any, proportions: Any, memory: Any) -> int:
        given = pointer.contents
        k = given.num_classes
        memories = array_at(memory, memory_rows * k).reshape(memory_rows, k)
        names = ("proportions", "class_losses", "class_sizes", "counts", "rows_drawn")
        arrays: dict[str, Any] = {name: array_at(getattr(given, name), k).copy() for name in names}
        arrays |= {"passes": array_at(given.passes, k).astype(np.int64), "memory": memories.copy()}
        result = policy.update(Window(step=given.step, total_steps=given.total_steps or None, **arrays))
        if isinstance(result, tuple):
            result, memories[:] = result
        array_at(proportions, k)[:] = result
        return 0

    kind = KINDS.index(kind_of(policy))
    return _Policy(description.encode(), kind, memory_rows, None, _Initial(initial), _Update(update))
