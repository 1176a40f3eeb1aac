"""Conversion of the data of a loader, a structure of arrays, to fields for the core."""

from __future__ import annotations

import itertools
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import has_memory, not_plain_message, shortened, truncated
from l2m_fast.data.normalize import Normalized

Format = Literal["torch", "numpy"]
Build = Callable[[Iterator[Any]], Any]
BuildBatch = Callable[[list[Any]], Any]
# NumPy dtype of a batch, or None with DLPack's type code and number of bits; shape of a row.
Output = tuple["np.dtype[Any] | None", int, int, list[int]]

# DLPack type code and number of bits for each torch dtype that batches may have.
_DLPACK = {
    **{f"int{bits}": (0, bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (1, bits) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": (2, bits) for bits in (16, 32, 64)},
    "bfloat16": (4, 16),
    **{f"complex{bits}": (5, bits) for bits in (32, 64, 128)},
    "bool": (6, 8),
}
_MAX_DEPTH = 100
# Longer lists of arrays of one shape are assumed to be rows that were not stacked, also if there are more arrays than rows.
_MAX_FIELDS_OF_ONE_SHAPE = 64
_MAX_FIELDS_OF_SHORT_SHAPE = 8


@dataclass(frozen=True)
class Field:
    """Array of the data, with the layout that the core needs.

    Attributes:
        name: Path of the array in the data, for messages.
        array: Array as the user passed it.
        owner: Object that keeps the memory alive even if `array` later refers to other memory.
        num_rows: Number of rows N.
        address: Address of row 0.
        stride: Number of bytes from one row to the next.
        row_bytes: Number of bytes of a row.
        row_shape: Shape of a row.
        numpy_dtype: NumPy dtype of the batches; None if batches are torch tensors.
        torch_dtype: Torch dtype of the array; None if both the array and the batches are NumPy arrays.
        normalized: Conversion of bytes to floats; None: batches have the dtype of the array.
    """

    name: str
    array: Any
    owner: Any
    num_rows: int
    address: int
    stride: int
    row_bytes: int
    row_shape: tuple[int, ...]
    numpy_dtype: np.dtype[Any] | None
    torch_dtype: Any
    normalized: Normalized | None = None

    @property
    def on_cuda(self) -> bool:
        """True if the array is on a CUDA device."""
        return getattr(self.array, "is_cuda", False)

    @property
    def memory(self) -> tuple[int, int, int]:
        """Address, stride in bytes and bytes per row."""
        return self.address, self.stride, self.row_bytes

    def to_core(self) -> _core.Field:
        """Return the core's field, which copies rows or converts them to floats."""
        options = self.normalized
        if options is None:
            return _core.dense(*self.memory)
        return _core.normalize(*self.memory, options.mean, options.std, options.channel_size, options.dtype)

    @property
    def watched(self) -> tuple[str, Any, int]:
        """Name, source of the current address, and original address, by which the core detects moved memory."""
        return self.name, getattr(self.array, "data_ptr", self.array), self.address

    def output(self, dtype: str | None = None) -> Output:
        """Return the dtype and row shape of a batch.

        Args:
            dtype: Name of the dtype that rows are converted to; None: they are not converted.
        """
        if self.numpy_dtype is not None:
            return self.numpy_dtype if dtype is None else np.dtype(dtype), 0, 0, list(self.row_shape)
        return None, *_DLPACK[dtype or _dtype_name(self.torch_dtype)], list(self.row_shape)

    @property
    def batch_dtype(self) -> str | None:
        """Name of the dtype that rows are converted to; None: they are not converted."""
        return None if self.normalized is None else self.normalized.dtype

    def check_shape(self) -> None:
        """Raise RuntimeError if the shape, the strides or the dtype of the array have changed.

        The core checks its address at every batch.
        """
        layout, original_layout = _layout(self.array), _layout(self.owner)
        if layout != original_layout:
            msg = (
                f"{self.name} must not change after the loader is created (got {layout} instead of {original_layout}): "
                "create a new Loader"
            )
            raise RuntimeError(msg)


def _layout(array: Any) -> str:
    strides = array.strides if isinstance(array, np.ndarray) else array.stride()
    return f"{array.dtype} of shape {tuple(array.shape)} and strides {tuple(strides)}"


def fields_of(data: object, batch_format: Format) -> tuple[list[Field], BuildBatch]:
    """Return the fields of a structure of arrays, and a function that builds the same structure from other arrays.

    Raises:
        TypeError: An item of the structure is not an array, or has a dtype that batches cannot have.
        ValueError: There are no arrays or no rows, lengths differ, rows are not contiguous, or an array is neither on
            the CPU nor on a CUDA device.
    """
    leaves: list[tuple[str, Any]] = []
    build = _walk("data", data, leaves)
    if not leaves:
        msg = f"data must have at least one array (got the empty {type(data).__name__} {shortened(data)})"
        raise ValueError(msg)
    fields = [_field(name, leaf, batch_format) for name, leaf in leaves]
    lengths = {name: field.num_rows for (name, _), field in zip(leaves, fields, strict=True)}
    if len(set(lengths.values())) > 1:
        first: dict[int, str] = {}
        for name, length in lengths.items():
            first.setdefault(length, name)
        got = ", ".join(f"{name}: {length}" for length, name in itertools.islice(first.items(), 4))
        msg = f"all arrays of data must have the same number of rows (got {got})"
        raise ValueError(msg)
    if type(data) is tuple and len(data) == len(leaves):
        return fields, tuple
    return fields, lambda arrays: build(iter(arrays))


def with_included(data: object, build: BuildBatch, num_fields: int, include: tuple[str, ...]) -> BuildBatch:
    """Return a function that builds batches from the arrays of the fields, followed by the extra entries.

    Raises:
        TypeError: The data is a namedtuple, which cannot have extra entries.
        ValueError: The name of an extra entry is also a key of the data.
    """
    if not include or build is tuple:  # a plain tuple of all arrays is the batch already
        return build
    if isinstance(data, Mapping):
        clash = sorted(set(include) & set(data))
        if clash:
            msg = f"include must not contain keys of data (got {shortened(clash[0])}): rename that key"
            raise ValueError(msg)
        return lambda arrays: {**build(arrays[:num_fields]), **dict(zip(include, arrays[num_fields:], strict=True))}
    if hasattr(data, "_fields"):
        msg = (
            f"data must be an array, tuple, list or dict if include is given (got the namedtuple {type(data).__name__})"
        )
        raise TypeError(msg)
    if isinstance(data, list):
        return lambda arrays: [*build(arrays[:num_fields]), *arrays[num_fields:]]
    if isinstance(data, tuple):
        return lambda arrays: (*build(arrays[:num_fields]), *arrays[num_fields:])
    return tuple


def _walk(name: str, data: Any, leaves: list[tuple[str, Any]], depth: int = 0) -> Build:
    """Append the arrays inside `data` to `leaves`; return a function that rebuilds the structure from an iterator."""
    if depth > _MAX_DEPTH:
        msg = f"data must be nested at most {_MAX_DEPTH} levels deep (got more)"
        raise ValueError(msg)
    if isinstance(data, Mapping):
        entries = [(key, _walk(f"{name}[{shortened(key)}]", value, leaves, depth + 1)) for key, value in data.items()]
        return lambda arrays: {key: build(arrays) for key, build in entries}
    if isinstance(data, (tuple, list)):
        _refuse_unstacked(name, data)
        items = [_walk(f"{name}[{i}]", value, leaves, depth + 1) for i, value in enumerate(data)]
        if hasattr(data, "_fields"):
            make = type(data)
            return lambda arrays: make(*(build(arrays) for build in items))
        kind = tuple if isinstance(data, tuple) else list
        return lambda arrays: kind(build(arrays) for build in items)
    leaves.append((truncated(name), data))
    return next


def _refuse_unstacked(name: str, data: tuple[Any, ...] | list[Any]) -> None:
    """Raise if the items are rows that were not stacked, rather than fields."""
    if len(data) <= _MAX_FIELDS_OF_SHORT_SHAPE or not all(map(_has_rows, data)):
        return
    shapes = {tuple(item.shape) for item in data}
    num_rows = max((shape[0] for shape in shapes if shape), default=0)
    if len(shapes) == 1 and (len(data) > _MAX_FIELDS_OF_ONE_SHAPE or len(data) > num_rows):
        stack = "torch.stack" if hasattr(data[0], "data_ptr") else "np.stack"
        msg = (
            f"{name} must be arrays over all rows (got a {type(data).__name__} of {len(data)} arrays of shape "
            f"{shapes.pop()}): if each array is a row, use {stack}(...); if each is a field, pass a dict"
        )
        raise ValueError(msg)


def _has_rows(item: object) -> bool:
    """Return whether an item is an array or a plain tensor. Others are refused for what they are."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(item, torch.Tensor):
        return isinstance(item, np.ndarray)
    return not item.is_nested and has_memory(item)


def _field(name: str, array: Any, batch_format: Format) -> Field:
    torch = sys.modules.get("torch")
    if isinstance(array, Normalized):
        if batch_format == "numpy" and array.dtype == "bfloat16":
            msg = f'dtype of {name} must not be bfloat16 with format="numpy" (got "bfloat16"): use format="torch"'
            raise TypeError(msg)
        return replace(_field(name, array.array, batch_format), normalized=array.copy())
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    if not is_tensor and not isinstance(array, np.ndarray):
        msg = (
            f"{name} must be a torch tensor or a NumPy array, or a tuple, list or dict of them (got "
            f"{type(array).__name__}){_hint(array)}"
        )
        raise TypeError(msg)
    if is_tensor:
        _check_plain(name, array)
    if array.ndim == 0 or array.shape[0] == 0:
        stack = "" if array.ndim else ": stack the samples of a list, into one array for each field"
        msg = f"{name} must have at least one row (got shape {tuple(array.shape)}){stack}"
        raise ValueError(msg)
    if 0 in array.shape:
        msg = f"the rows of {name} must have at least one element (got shape {tuple(array.shape)})"
        raise ValueError(msg)
    if is_tensor:
        return _tensor_field(name, array, batch_format)
    return _ndarray_field(name, array, batch_format)


def _hint(data: Any) -> str:
    """Return a hint on what to pass instead of an object that contains arrays."""
    if hasattr(data, "tensors"):
        return ": pass its .tensors"
    if hasattr(data, "to_numpy"):
        return ": pass np.ascontiguousarray(x.to_numpy()), with text as numbers"
    if hasattr(data, "toarray"):
        return ": pass x.toarray()"
    if hasattr(data, "batch_sampler"):
        return ": pass the arrays of its dataset"
    if isinstance(data, (numbers.Number, np.generic)):
        return ": stack the samples of a list, into one array for each field"
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        return ": pass np.asarray(x)"
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, bytes)):
        return ": pass the arrays that it contains"
    return ""


def _check_plain(name: str, tensor: Any) -> None:
    """Raise TypeError unless a tensor has memory of its own that contains its values."""
    import torch

    for view in ("conj", "neg"):
        if getattr(tensor, f"is_{view}")():
            msg = f"{name} must have its values in memory (got a lazy view, is_{view}()): pass x.resolve_{view}()"
            raise TypeError(msg)
    plain = (
        not tensor.is_nested
        and tensor.layout == torch.strided
        and _dtype_name(tensor.dtype) in _DLPACK
        and (has_memory(tensor) or tensor.device.type not in ("cpu", "cuda"))
    )
    if not plain:
        raise TypeError(not_plain_message(name, tensor, "integers, floats, complex numbers or bools of whole bytes"))


def _tensor_field(name: str, tensor: Any, batch_format: Format) -> Field:
    import torch

    if tensor.device.type not in ("cpu", "cuda") or (tensor.is_cuda and batch_format == "numpy"):
        allowed = "the CPU" if batch_format == "numpy" else "the CPU or a CUDA device"
        msg = f"{name} must be on {allowed} (got device {tensor.device})"
        raise ValueError(msg)
    if not tensor[0].is_contiguous():
        raise ValueError(_not_contiguous(name, tuple(tensor.shape), tensor.stride(), "x.contiguous()"))
    numpy_dtype = None
    if batch_format == "numpy":
        try:
            numpy_dtype = torch.empty(0, dtype=tensor.dtype, device="cpu").numpy().dtype
        except TypeError:
            msg = f'dtype of {name} must be one of NumPy (got {tensor.dtype}): use format="torch" or another dtype'
            raise TypeError(msg) from None
    owner = tensor.detach()
    if tensor.device.type == "cpu":
        # torch never resizes a storage shared with NumPy, so that the memory stays valid whatever happens to the tensor.
        torch.empty(0, dtype=torch.uint8, device="cpu").set_(owner.untyped_storage()).numpy()
    return Field(
        name=name,
        array=tensor,
        owner=owner,
        num_rows=tensor.shape[0],
        address=tensor.data_ptr(),
        stride=tensor.stride(0) * tensor.element_size(),
        row_bytes=tensor[0].numel() * tensor.element_size(),
        row_shape=tuple(tensor.shape[1:]),
        numpy_dtype=numpy_dtype,
        torch_dtype=tensor.dtype,
    )


def _ndarray_field(name: str, array: np.ndarray[Any, Any], batch_format: Format) -> Field:
    if array.dtype.hasobject or array.dtype.kind == "T":
        msg = (
            f"{name} must not contain Python objects or variable-length strings (got dtype "
            f"{truncated(str(array.dtype))}): convert it to numbers first"
        )
        raise TypeError(msg)
    if array.dtype.itemsize == 0:
        msg = f"the rows of {name} must have at least one byte (got dtype {truncated(str(array.dtype))})"
        raise TypeError(msg)
    if isinstance(array, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    owner = array.view(np.ndarray)  # a subclass may override indexing
    if not owner[:1].flags.c_contiguous:
        raise ValueError(_not_contiguous(name, owner.shape, owner.strides, "np.ascontiguousarray(x)"))
    torch_dtype = None
    if batch_format == "torch":
        import torch

        try:
            torch_dtype = torch.from_numpy(np.empty(0, owner.dtype)).dtype
        except (TypeError, ValueError):
            msg = (
                f"dtype of {name} must be supported by torch.from_numpy (got {truncated(str(array.dtype))}): convert it, "
                'or use format="numpy"'
            )
            raise TypeError(msg) from None
    return Field(
        name=name,
        array=array,
        owner=owner,
        num_rows=owner.shape[0],
        address=owner.__array_interface__["data"][0],
        stride=owner.strides[0],
        row_bytes=owner[:1].nbytes,
        row_shape=owner.shape[1:],
        numpy_dtype=owner.dtype if batch_format == "numpy" else None,
        torch_dtype=torch_dtype,
    )


def _not_contiguous(name: str, shape: tuple[int, ...], strides: tuple[int, ...], copy: str) -> str:
    return f"each row of {name} must be contiguous (got shape {shape} with strides {strides}): pass a copy, {copy}"


def _dtype_name(torch_dtype: Any) -> str:
    return str(torch_dtype).removeprefix("torch.")


class DataView:
    """View with the length of the data, the value of `loader.dataset`."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def __len__(self) -> int:
        """Return the number of rows of the data, N."""
        return self._num_rows

    def __repr__(self) -> str:
        return f"<data of {self._num_rows} rows>"
