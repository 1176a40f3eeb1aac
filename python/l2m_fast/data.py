"""The data of a loader: a structure of arrays, seen by the core as fields and rebuilt around every batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from l2m_fast.normalized import Normalized

Format = Literal["torch", "numpy"]
Build = Callable[[Iterator[Any]], Any]

# DLPack's type codes. 4 is bfloat16, 6 is bool.
_DLPACK_CODE = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}


@dataclass(frozen=True)
class Field:
    """One array of the data, as the core sees it."""

    array: Any
    num_rows: int
    address: int
    stride: int
    row_bytes: int
    row_shape: tuple[int, ...]
    numpy_dtype: np.dtype[Any] | None  # of the batch; None where batches are torch tensors
    torch_dtype: Any
    normalized: Normalized | None = None  # what the bytes become

    @property
    def on_cuda(self) -> bool:
        """Whether it is on a CUDA device."""
        return getattr(self.array, "is_cuda", False)

    @property
    def memory(self) -> tuple[int, int, int]:
        """Address, bytes from row to row, bytes of a row."""
        return self.address, self.stride, self.row_bytes

    @property
    def output(self) -> tuple[np.dtype[Any] | None, int, int, list[int]]:
        """The numpy dtype of a batch, or None and DLPack's type code and bits; shape of a row."""
        if self.numpy_dtype is not None:
            return self.numpy_dtype, 0, 0, list(self.row_shape)
        kind = str(self.torch_dtype).removeprefix("torch.").rstrip("0123456789")
        return None, _DLPACK_CODE[kind], self.torch_dtype.itemsize * 8, list(self.row_shape)

    def describe(self) -> list[Any]:
        """Type and row shape, by which a saved state is recognised."""
        dtype = self.numpy_dtype if self.torch_dtype is None else str(self.torch_dtype).removeprefix("torch.")
        normalized = [] if self.normalized is None else self.normalized.describe()
        return [str(dtype), list(self.row_shape), *normalized]


def fields_of(data: object, batch_format: Format) -> tuple[list[Field], Callable[[list[Any]], Any]]:
    """The arrays of a structure, and what builds the same structure from one array for each.

    Raises:
        TypeError: Something in the structure is no array, or has a dtype that batches cannot have.
        ValueError: No arrays, no rows, lengths that differ, rows that are not contiguous, another device than the CPU or CUDA.
    """
    leaves: list[tuple[str, Any]] = []
    build = _walk("data", data, leaves)
    if not leaves:
        msg = f"data must have at least one array (got the empty {type(data).__name__} {data!r})"
        raise ValueError(msg)
    fields = [_field(name, leaf, batch_format) for name, leaf in leaves]
    lengths = {name: field.num_rows for (name, _), field in zip(leaves, fields, strict=True)}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        msg = f"all arrays of data must have the same number of rows (got {got})"
        raise ValueError(msg)
    if type(data) is tuple and len(data) == len(leaves):
        return fields, tuple
    return fields, lambda arrays: build(iter(arrays))


def normalizing(fields: list[Field], build: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """What makes floats of the arrays that are to become floats, on the CPU, before `build` gets them."""
    changes: list[Callable[[Any], Any] | None] = []
    for field in fields:
        normalized = field.normalized
        if normalized is None or field.numpy_dtype is not None:
            changes.append(None if normalized is None else normalized.of_numpy)
        else:
            import torch

            mean, std = torch.from_numpy(normalized.mean), torch.from_numpy(normalized.std)
            changes.append(partial(normalized.of_torch, mean=mean, std=std))
    if not any(changes):
        return build
    return lambda arrays: build(
        [array if change is None else change(array) for array, change in zip(arrays, changes, strict=True)]
    )


def _walk(name: str, data: Any, leaves: list[tuple[str, Any]]) -> Build:
    """Collects the arrays below `data` in order; returns what rebuilds the structure from an iterator over arrays."""
    if isinstance(data, Mapping):
        entries = [(key, _walk(f"{name}[{key!r}]", value, leaves)) for key, value in data.items()]
        return lambda arrays: {key: build(arrays) for key, build in entries}
    if isinstance(data, (tuple, list)):
        items = [_walk(f"{name}[{i}]", value, leaves) for i, value in enumerate(data)]
        if hasattr(data, "_fields"):
            make = type(data)
            return lambda arrays: make(*(build(arrays) for build in items))
        kind = tuple if isinstance(data, tuple) else list
        return lambda arrays: kind(build(arrays) for build in items)
    leaves.append((name, data))
    return next


def _field(name: str, array: Any, batch_format: Format) -> Field:
    torch = sys.modules.get("torch")
    if isinstance(array, Normalized):
        if batch_format == "numpy" and array.dtype == "bfloat16":
            msg = f'{name} is to become bfloat16, which numpy lacks: use format="torch" or another dtype'
            raise TypeError(msg)
        return replace(_field(name, array.array, batch_format), normalized=array)
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    if not is_tensor and not isinstance(array, np.ndarray):
        msg = f"{name} must be a torch tensor or a numpy array, or a tuple, list or dict of them (got {type(array).__name__})"
        raise TypeError(msg)
    if array.ndim == 0 or array.shape[0] == 0:
        msg = f"{name} must have at least one row (got shape {tuple(array.shape)})"
        raise ValueError(msg)
    if 0 in array.shape:
        msg = f"the rows of {name} must have at least one element (got shape {tuple(array.shape)})"
        raise ValueError(msg)
    if is_tensor:
        return _tensor_field(name, array, batch_format)
    return _ndarray_field(name, array, batch_format)


def _tensor_field(name: str, tensor: Any, batch_format: Format) -> Field:
    import torch

    if tensor.device.type not in ("cpu", "cuda") or (tensor.is_cuda and batch_format == "numpy"):
        allowed = "the CPU" if batch_format == "numpy" else "the CPU or a CUDA device"
        msg = f"{name} must be on {allowed} (got device {tensor.device})"
        raise ValueError(msg)
    kind = str(tensor.dtype).removeprefix("torch.").rstrip("0123456789")
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg() or kind not in _DLPACK_CODE:
        msg = f"{name} must be a plain dense tensor of integers, floats, complex numbers or bool (got {tensor.dtype}, {tensor.layout})"
        raise TypeError(msg)
    if not tensor[0].is_contiguous():
        raise ValueError(_not_contiguous(name, tuple(tensor.shape), tensor.stride()))
    numpy_dtype = None
    if batch_format == "numpy":
        try:
            numpy_dtype = torch.empty(0, dtype=tensor.dtype, device="cpu").numpy().dtype
        except TypeError:
            msg = f'{name} is {tensor.dtype}, which numpy lacks: use format="torch" or another dtype'
            raise TypeError(msg) from None
    return Field(
        array=tensor,
        num_rows=tensor.shape[0],
        address=tensor.data_ptr(),
        stride=tensor.stride(0) * tensor.element_size(),
        row_bytes=tensor[0].numel() * tensor.element_size(),
        row_shape=tuple(tensor.shape[1:]),
        numpy_dtype=numpy_dtype,
        torch_dtype=tensor.dtype,
    )


def _ndarray_field(name: str, array: np.ndarray[Any, Any], batch_format: Format) -> Field:
    if array.dtype.hasobject:
        msg = f"{name} must not hold Python objects (got dtype {array.dtype}): convert it to numbers first"
        raise TypeError(msg)
    if isinstance(array, np.ma.MaskedArray):
        msg = f"{name} must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    if not array[0].flags.c_contiguous:
        raise ValueError(_not_contiguous(name, array.shape, array.strides))
    torch_dtype = None
    if batch_format == "torch":
        import torch

        try:
            torch_dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        except (TypeError, ValueError):
            msg = f'{name} has dtype {array.dtype}, which torch lacks: convert it, or use format="numpy"'
            raise TypeError(msg) from None
    return Field(
        array=array,
        num_rows=array.shape[0],
        address=array.__array_interface__["data"][0],
        stride=array.strides[0],
        row_bytes=array[:1].nbytes,  # a string taken out alone may have fewer
        row_shape=array.shape[1:],
        numpy_dtype=array.dtype if batch_format == "numpy" else None,
        torch_dtype=torch_dtype,
    )


def _not_contiguous(name: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> str:
    return f"each row of {name} must be contiguous (got shape {shape} with strides {strides}): pass a contiguous copy"
