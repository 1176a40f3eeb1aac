"""Arrays of any dtype and strides are delivered unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Loader
from loader.plain import CLASSES, N, make


def assert_delivers(loader: Loader, expected: Any) -> None:
    """Check that every batch of an epoch contains the rows of `expected` given by `batch_rows`."""
    for batch in loader:
        rows = np.asarray(loader.batch_rows)
        np.testing.assert_array_equal(np.asarray(batch), np.asarray(expected)[rows])


SHARED_DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
NUMPY_DTYPES = ["U3", "S4", "M8[s]", "m8[ns]", "V5", "longdouble", [("x", "f4"), ("y", "i2", (2,))], ">f4", "<U7"]
TORCH_DTYPES = [torch.bfloat16, torch.float16, torch.complex32, torch.bool, torch.uint16]


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", SHARED_DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_every_dtype_of_both_libraries_is_delivered(shape: Any, dtype: str, batch_format: Any) -> None:
    data = np.arange(N * int(np.prod(shape))).reshape(N, *shape).astype(dtype)
    loader = make(data, format=batch_format)
    batch = next(iter(loader))
    assert str(batch.dtype).removeprefix("torch.") == dtype
    assert tuple(batch.shape) == (6, *shape)
    assert_delivers(loader, data)
    assert_delivers(make(torch.from_numpy(data), format=batch_format), data)


@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
def test_numpy_batches_have_any_dtype_without_objects(dtype: Any) -> None:
    data: Any = np.arange(N * np.dtype(dtype).itemsize, dtype="u1").view(dtype)
    if np.dtype(dtype).kind == "U":  # not every four bytes are a valid character
        data = np.arange(N).astype(dtype)
    loader = make(data)
    for batch in loader:
        assert batch.dtype == np.dtype(dtype)
        assert batch.tobytes() == data[np.asarray(loader.batch_rows)].tobytes()


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_torch_batches_may_have_dtypes_unknown_to_numpy(dtype: torch.dtype) -> None:
    data = torch.arange(N * 2).reshape(N, 2).to(dtype)
    loader = make(data, format="torch")
    for batch in loader:
        assert batch.dtype == dtype
        assert torch.equal(batch.view(torch.uint8), data[loader.batch_rows].view(torch.uint8))


def _strided() -> dict[str, Any]:
    wide = np.arange(4 * N * 5, dtype=np.int32).reshape(4 * N, 5)
    locked = np.arange(N)
    locked.setflags(write=False)
    return {
        "every other row": wide[: 2 * N : 2],
        "rows backwards": wide[N - 1 :: -1],
        "every third row backwards": wide[3 * N - 1 :: -3],
        "some columns": wide[:N, 1:4],
        "one column": wide[:N, 2],
        "one number backwards": np.arange(N)[::-1],
        "repeated row": np.broadcast_to(np.arange(7), (N, 7)),
        "repeated number": np.broadcast_to(np.int64(3), (N,)),
        "read-only": locked,
        "unaligned": np.frombuffer(b"x" + np.arange(N, dtype=np.float64).tobytes(), "u1")[1:].view(np.float64),
        "one-element axes of any stride": wide[:N, :1, None].transpose(0, 2, 1),
    }


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("name", _strided())
def test_an_array_with_contiguous_rows_may_have_any_strides(name: str, batch_format: Any) -> None:
    data = _strided()[name]
    assert len(data) == N
    assert_delivers(make(data, classes=CLASSES, format=batch_format), data)


@pytest.mark.parametrize("data", [torch.arange(4 * N).reshape(N, 4)[:, 1:3], torch.arange(2 * N)[::2]])
def test_a_tensor_with_contiguous_rows_may_have_any_strides(data: torch.Tensor) -> None:
    assert_delivers(make(data, format="torch"), data)


def test_a_memory_map_is_delivered(tmp_path: Path) -> None:
    data = np.memmap(tmp_path / "data.bin", np.float32, "w+", shape=(N, 9))
    data[:] = np.arange(N * 9).reshape(N, 9)
    data.flush()
    loader = make(np.memmap(tmp_path / "data.bin", np.float32, "r", shape=(N, 9)), format="torch")
    assert_delivers(loader, np.array(data))


def test_a_tensor_that_requires_grad_is_delivered_detached() -> None:
    data = torch.ones(N, 2, requires_grad=True)
    for batch in make(data, format="torch"):
        assert not batch.requires_grad


def test_the_data_is_kept_alive_and_not_copied() -> None:
    data = np.zeros((N, 3))
    loader = make(data, prefetch=0, num_threads=0, shuffle=False)
    data += 7
    del data
    assert all((batch == 7).all() for batch in loader)
