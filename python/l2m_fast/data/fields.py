"""The data of a loader: a structure of arrays, seen by the core as fields and rebuilt around every batch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import cut, has_memory, not_plain, shortened
from l2m_fast.data.normalize import Normalized

Format = Literal["torch", "numpy"]
Build = Callable[[Iterator[Any]], Any]
BuildBatch = Callable[[list[Any]], Any]
Output = tuple[
    "np.dtype[Any] | None", int, int, list[int]
]  # of a batch: NumPy dtype, or None and DLPack type code and bits; shape of a row

# DLPack's type code and bits of each dtype of torch that batches may have.
_DLPACK = {
    **{f"int{bits}": (0, bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (1, bits) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": (2, bits) for bits in (16, 32, 64)},
    "bfloat16": (4, 16),
    **{f"complex{bits}": (5, bits) for bits in (32, 64, 128)},
    "bool": (6, 8),
}
_MAX_DEPTH = 100
_MAX_ROWS_IN_A_LIST = 64  # of one shape; longer lists are taken for rows that were not stacked


@dataclass(frozen=True)
class Field:
    """One array of the data, as the core sees it.

    Attributes:
        name: Where it is in the data, for messages.
        array: What the user passed.
        kept: What keeps its memory alive, also where `array` comes to refer to other memory.
        num_rows: N.
        address: Of row 0.
        stride: Bytes from a row to the next.
        row_bytes: Bytes of a row.
        row_shape: Shape of a row.
        numpy_dtype: Of the batches; None where batches are torch tensors.
        torch_dtype: Of the array; None where it is a numpy array and batches are too.
        normalized: How bytes become floats; None: the batches have the dtype of the array.
    """

    name: str
    array: Any
    kept: Any
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
        """True where the array is on a CUDA device."""
        return getattr(self.array, "is_cuda", False)

    @property
    def memory(self) -> tuple[int, int, int]:
        """Address, bytes from row to row, bytes of a row."""
        return self.address, self.stride, self.row_bytes

    def in_core(self) -> _core.Field:
        """Return what the core puts into a batch: the rows, or the floats that they become."""
        how = self.normalized
        if how is None:
            return _core.dense(*self.memory)
        return _core.normalize(*self.memory, how.mean, how.std, how.channel_size, how.dtype)

    @property
    def watched(self) -> tuple[str, Any, int]:
        """Name, what tells the present address, and the address, for the core to notice that memory has moved."""
        return self.name, getattr(self.array, "data_ptr", self.array), self.address

    def output(self, dtype: str | None = None) -> Output:
        """Return how a batch looks, of its own dtype or of the dtype that it becomes."""
        if self.numpy_dtype is not None:
            return self.numpy_dtype if dtype is None else np.dtype(dtype), 0, 0, list(self.row_shape)
        return None, *_DLPACK[dtype or _name_of(self.torch_dtype)], list(self.row_shape)

    @property
    def batch_dtype(self) -> str | None:
        """The dtype that rows become in a batch; None: their own."""
        return None if self.normalized is None else self.normalized.dtype

    def describe(self) -> list[Any]:
        """Return the fingerprint entry for saved states: dtype, row shape, and how bytes become floats."""
        dtype = self.numpy_dtype if self.torch_dtype is None else _name_of(self.torch_dtype)
        normalized = [] if self.normalized is None else self.normalized.describe()
        return [str(dtype), list(self.row_shape), *normalized]

    def check_shape(self) -> None:
        """Raise RuntimeError where the array no longer has the shape, the strides and the dtype that it had.

        Its address is compared by the core, at every batch.
        """
        layout, kept_layout = _layout(self.array), _layout(self.kept)
        if layout != kept_layout:
            msg = (
                f"{self.name} has changed since the loader was made, from {kept_layout} to {layout}: make a new Loader"
            )
            raise RuntimeError(msg)


def _layout(array: Any) -> str:
    strides = array.strides if isinstance(array, np.ndarray) else array.stride()
    return f"{array.dtype} of shape {tuple(array.shape)} and strides {tuple(strides)}"


def fields_of(data: object, batch_format: Format) -> tuple[list[Field], BuildBatch]:
    """The arrays of a structure, and what builds the same structure from one array for each.

    Raises:
        TypeError: Something in the structure is no array, or has a dtype that batches cannot have.
        ValueError: No arrays, no rows, lengths that differ, rows that are not contiguous, another device than the CPU or CUDA.
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
    """Return what builds batches from the arrays of the fields and of what is included besides.

    Raises:
        TypeError: The data are a namedtuple, which has no room for more.
        ValueError: A key of the data is the name of what is included.
    """
    if not include or build is tuple:  # of a plain tuple, all arrays follow each other
        return build
    if isinstance(data, Mapping):
        clash = sorted(set(include) & set(data))
        if clash:
            msg = f"include must not name keys of data (got {shortened(clash[0])}): rename that key"
            raise ValueError(msg)
        return lambda arrays: {**build(arrays[:num_fields]), **dict(zip(include, arrays[num_fields:], strict=True))}
    if hasattr(data, "_fields"):
        msg = f"include needs data in a tuple, list or dict (got the namedtuple {type(data).__name__})"
        raise TypeError(msg)
    if isinstance(data, list):
        return lambda arrays: [*build(arrays[:num_fields]), *arrays[num_fields:]]
    if isinstance(data, tuple):
        return lambda arrays: (*build(arrays[:num_fields]), *arrays[num_fields:])
    return tuple


def _walk(name: str, data: Any, leaves: list[tuple[str, Any]], depth: int = 0) -> Build:
    """Collect the arrays below `data` in order; return what rebuilds the structure from an iterator over arrays."""
    if depth > _MAX_DEPTH:
        msg = f"data must be nested at most {_MAX_DEPTH} levels deep"
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
    leaves.append((cut(name), data))
    return next


def _refuse_unstacked(name: str, data: tuple[Any, ...] | list[Any]) -> None:
    """Raise where the items are rows that were not stacked, rather than fields."""
    if len(data) <= _MAX_ROWS_IN_A_LIST or not all(hasattr(item, "shape") for item in data):
        return
    shapes = {tuple(item.shape) for item in data}
    if len(shapes) == 1:
        stack = "torch.stack" if hasattr(data[0], "data_ptr") else "np.stack"
        msg = (
            f"{name} must be fields of all rows (got a {type(data).__name__} of {len(data)} arrays of shape "
            f"{shapes.pop()}): if they are rows, stack them: {stack}(...)"
        )
        raise ValueError(msg)


def _field(name: str, array: Any, batch_format: Format) -> Field:
    torch = sys.modules.get("torch")
    if isinstance(array, Normalized):
        if batch_format == "numpy" and array.dtype == "bfloat16":
            msg = f'{name} is to become bfloat16, which numpy lacks: use format="torch" or another dtype'
            raise TypeError(msg)
        return replace(_field(name, array.array, batch_format), normalized=array.copy())
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    if not is_tensor and not isinstance(array, np.ndarray):
        msg = (
            f"{name} must be a torch tensor or a numpy array, or a tuple, list or dict of them (got "
            f"{type(array).__name__}){_way_out(array)}"
        )
        raise TypeError(msg)
    if is_tensor:
        _check_plain(name, array)
    if array.ndim == 0 or array.shape[0] == 0:
        msg = f"{name} must have at least one row (got shape {tuple(array.shape)})"
        raise ValueError(msg)
    if 0 in array.shape:
        msg = f"the rows of {name} must have at least one element (got shape {tuple(array.shape)})"
        raise ValueError(msg)
    if is_tensor:
        return _tensor_field(name, array, batch_format)
    return _ndarray_field(name, array, batch_format)


def _way_out(data: Any) -> str:
    """Return what to pass instead of an object that holds arrays."""
    if hasattr(data, "tensors"):
        return ": pass its .tensors"
    if hasattr(data, "to_numpy"):
        return ": pass np.ascontiguousarray(x.to_numpy())"
    if hasattr(data, "batch_sampler"):
        return ": pass the arrays that its dataset holds"
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, bytes)):
        return ": pass the arrays that it holds"
    return ""


def _check_plain(name: str, tensor: Any) -> None:
    """Raise TypeError unless a tensor has memory of its own, in which it lies as it looks."""
    import torch

    plain = (
        not tensor.is_nested
        and tensor.layout == torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and _name_of(tensor.dtype) in _DLPACK
        and (has_memory(tensor) or tensor.device.type not in ("cpu", "cuda"))
    )
    if not plain:
        raise TypeError(not_plain(name, tensor, "integers, floats, complex numbers or bool of whole bytes"))


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
            msg = f'{name} is {tensor.dtype}, which numpy lacks: use format="torch" or another dtype'
            raise TypeError(msg) from None
    kept = tensor.detach()
    if tensor.device.type == "cpu":
        # torch does not resize what numpy sees: so the memory stays, whatever becomes of the tensor.
        torch.empty(0, dtype=torch.uint8, device="cpu").set_(kept.untyped_storage()).numpy()
    return Field(
        name=name,
        array=tensor,
        kept=kept,
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
        msg = f"{name} must not hold Python objects or strings of any length (got dtype {cut(str(array.dtype))}): convert it to numbers first"
        raise TypeError(msg)
    if array.dtype.itemsize == 0:
        msg = f"the rows of {name} must have at least one byte (got dtype {cut(str(array.dtype))})"
        raise TypeError(msg)
    if isinstance(array, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    kept = array.view(np.ndarray)  # a subclass may index in its own way
    if not kept[:1].flags.c_contiguous:
        raise ValueError(_not_contiguous(name, kept.shape, kept.strides, "np.ascontiguousarray(x)"))
    torch_dtype = None
    if batch_format == "torch":
        import torch

        try:
            torch_dtype = torch.from_numpy(np.empty(0, kept.dtype)).dtype
        except (TypeError, ValueError):
            msg = f'{name} has dtype {cut(str(array.dtype))}, of which torch.from_numpy makes no tensor: convert it, or use format="numpy"'
            raise TypeError(msg) from None
    return Field(
        name=name,
        array=array,
        kept=kept,
        num_rows=kept.shape[0],
        address=kept.__array_interface__["data"][0],
        stride=kept.strides[0],
        row_bytes=kept[:1].nbytes,
        row_shape=kept.shape[1:],
        numpy_dtype=kept.dtype if batch_format == "numpy" else None,
        torch_dtype=torch_dtype,
    )


def _not_contiguous(name: str, shape: tuple[int, ...], strides: tuple[int, ...], copy: str) -> str:
    return f"each row of {name} must be contiguous (got shape {shape} with strides {strides}): pass a contiguous copy, {copy}"


def _name_of(torch_dtype: Any) -> str:
    return str(torch_dtype).removeprefix("torch.")


class DataView:
    """What `loader.dataset` gives: something with the length of the data."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def __len__(self) -> int:
        """Rows of the data, N."""
        return self._num_rows

    def __repr__(self) -> str:
        return f"<data of {self._num_rows} rows>"
