"""What a loader takes, and what bad input gets: an error that names what was wrong, what was given, what is allowed."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import l2m_fast
from l2m_fast import ClassLoss, Learn2Mix, Loader

N = 24
CLASSES = np.arange(N) % 3


def make(data: Any = None, **options: Any) -> Loader:
    """A small loader of plain numpy batches, on one thread, with `options` over its own."""
    data = np.arange(N) if data is None else data
    return Loader(data, **{"batch_size": 6, "format": "numpy", "num_threads": 1, "seed": 0, **options})


def assert_delivers(loader: Loader, expected: Any) -> None:
    """Every batch of an epoch is `expected` at the rows that it says it has."""
    for batch in loader:
        rows = np.asarray(loader.batch_rows)
        np.testing.assert_array_equal(np.asarray(batch), np.asarray(expected)[rows])


# ---- structures


class Pair(NamedTuple):
    image: Any
    label: Any


STRUCTURES: dict[str, Any] = {
    "array": lambda x, y: x,  # noqa: ARG005
    "tuple": lambda x, y: (x, y),
    "tuple of one": lambda x, y: (x,),  # noqa: ARG005
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"image": x, "label": y},
    "ordered dict": lambda x, y: OrderedDict(image=x, label=y),
    "namedtuple": Pair,
    "nested": lambda x, y: {"a": (x, [y, {"again": x}]), 2: Pair(y, (x,))},
    "the same array twice": lambda x, y: (x, x, y),
}


def mapped(function: Any, data: Any) -> Any:
    """`data` with `function` called on each array, the structure as a loader gives it back."""
    if isinstance(data, dict):
        return {key: mapped(function, value) for key, value in data.items()}
    if isinstance(data, Pair):
        return Pair(*(mapped(function, value) for value in data))
    if isinstance(data, (tuple, list)):
        return type(data)(mapped(function, value) for value in data)
    return function(data)


def values_of(array: Any, rows: Any = slice(None)) -> Any:
    return np.asarray(array)[rows].tolist()


def leaves_of(data: Any) -> list[Any]:
    leaves: list[Any] = []
    mapped(leaves.append, data)
    return leaves


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("leaf", [np.asarray, torch.as_tensor], ids=["numpy leaves", "torch leaves"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_a_batch_has_the_structure_of_the_data(structure: Any, leaf: Any, batch_format: Any) -> None:
    images = np.arange(N * 6, dtype=np.float32).reshape(N, 2, 3)
    data = structure(leaf(images), leaf(np.arange(N) * 10))
    loader = make(data, classes=CLASSES, format=batch_format)
    kind = torch.Tensor if batch_format == "torch" else np.ndarray
    for batch in loader:
        rows = np.asarray(loader.batch_rows).tolist()
        expected = mapped(partial(values_of, rows=rows), data)
        assert repr(mapped(values_of, batch)) == repr(expected)
        assert all(type(array) is kind for array in leaves_of(batch))


def test_numpy_and_torch_arrays_may_be_mixed() -> None:
    for tensors, arrays in make((torch.arange(N), np.arange(N)), format="torch"):
        assert isinstance(arrays, torch.Tensor)
        assert torch.equal(tensors, arrays)


# ---- arrays

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
    if np.dtype(dtype).kind == "U":  # not every four bytes are a character
        data = np.arange(N).astype(dtype)
    loader = make(data)
    for batch in loader:
        assert batch.dtype == np.dtype(dtype)
        assert batch.tobytes() == data[np.asarray(loader.batch_rows)].tobytes()


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_torch_batches_have_dtypes_that_numpy_lacks(dtype: torch.dtype) -> None:
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
def test_an_array_is_taken_with_its_strides_where_its_rows_are_contiguous(name: str, batch_format: Any) -> None:
    data = _strided()[name]
    assert len(data) == N
    assert_delivers(make(data, classes=CLASSES, format=batch_format), data)


@pytest.mark.parametrize("data", [torch.arange(4 * N).reshape(N, 4)[:, 1:3], torch.arange(2 * N)[::2]])
def test_a_tensor_is_taken_with_its_strides_where_its_rows_are_contiguous(data: torch.Tensor) -> None:
    assert_delivers(make(data, format="torch"), data)


def test_a_memory_map_is_delivered(tmp_path: Path) -> None:
    data = np.memmap(tmp_path / "data.bin", np.float32, "w+", shape=(N, 9))
    data[:] = np.arange(N * 9).reshape(N, 9)
    data.flush()
    loader = make(np.memmap(tmp_path / "data.bin", np.float32, "r", shape=(N, 9)), format="torch")
    assert_delivers(loader, np.array(data))


def test_a_tensor_that_requires_grad_is_delivered_without_its_history() -> None:
    data = torch.ones(N, 2, requires_grad=True)
    for batch in make(data, format="torch"):
        assert not batch.requires_grad


def test_the_data_is_kept_alive_and_not_copied() -> None:
    data = np.zeros((N, 3))
    loader = make(data, prefetch=0, num_threads=0, shuffle=False)
    data += 7
    del data
    assert all((batch == 7).all() for batch in loader)


# ---- classes and rows


@pytest.mark.parametrize(
    "convert",
    [
        *(np.dtype(name).type for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        torch.as_tensor,
        lambda classes: torch.as_tensor(classes).to(torch.uint8),
        lambda classes: torch.as_tensor(np.repeat(classes, 2))[::2],
        list,
        lambda classes: tuple(classes.tolist()),
        lambda classes: classes[::-1].copy()[::-1],
        lambda classes: classes.astype(">i4"),
    ],
)
def test_classes_of_any_integer_kind_give_the_same_batches(convert: Any) -> None:
    expected = make(classes=CLASSES)
    loader = make(classes=convert(CLASSES))
    assert loader.num_classes == 3
    assert loader.class_labels is None
    for batch, same in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(batch, same)
        np.testing.assert_array_equal(loader.batch_classes, CLASSES[batch])


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, list])
def test_bools_are_two_classes(convert: Any) -> None:
    loader = make(classes=convert(np.arange(N) % 4 == 0))
    assert loader.class_sizes.tolist() == [18, 6]


@pytest.mark.parametrize(
    "convert", [list, np.array, lambda names: np.array(names, object), lambda names: np.array(names).astype("S")]
)
def test_strings_are_sorted_and_numbered(convert: Any) -> None:
    names = ["cat", "ant", "dog", "ant"] * (N // 4)
    loader = make(classes=convert(names))
    assert loader.class_labels == ["ant", "cat", "dog"]
    assert loader.class_sizes.tolist() == [12, 6, 6]
    for batch in loader:
        assert [loader.class_labels[k] for k in loader.batch_classes] == [names[row] for row in batch]


def test_classes_without_rows_get_no_share() -> None:
    classes = np.where(CLASSES == 0, 1, 5)
    for mixing in (None, l2m_fast.Balanced(), Learn2Mix(0.5, min_share=0.1), l2m_fast.GroupDRO(0.1)):
        loader = make(classes=classes, mixing=mixing)
        assert loader.num_classes == 6
        assert loader.class_sizes.tolist() == [0, 8, 0, 0, 0, 16]
        for _ in range(2):
            for _batch in loader:
                loader.record(np.ones(6))
        assert loader.proportions[[0, 2, 3, 4]].tolist() == [0, 0, 0, 0]


def test_a_class_smaller_than_its_quota_repeats_rows() -> None:
    classes = np.zeros(N, np.int64)
    classes[5] = 1
    loader = make(classes=classes, mixing=l2m_fast.Balanced())
    for batch in loader:
        assert np.count_nonzero(batch == 5) == 3
        assert len(set(batch.tolist())) == 4


@pytest.mark.parametrize(
    "rows",
    [
        [3, 20, 7, 11, 0, 23, 16],
        np.array([23, 20, 16, 11, 7, 3, 0], np.uint8),
        torch.tensor([3, 20, 7, 11, 0, 23, 16], dtype=torch.int32),
        np.isin(np.arange(N), [3, 20, 7, 11, 0, 23, 16]),
        torch.from_numpy(np.isin(np.arange(N), [3, 20, 7, 11, 0, 23, 16])),
    ],
    ids=["list", "uint8", "tensor", "mask", "mask tensor"],
)
@pytest.mark.parametrize("classes", [None, CLASSES], ids=["classless", "classes"])
def test_rows_come_as_ids_in_any_order_or_as_a_mask(rows: Any, classes: Any) -> None:
    loader = make(rows=rows, classes=classes, batch_size=7)
    for batch in loader:
        assert sorted(batch.tolist()) == [0, 3, 7, 11, 16, 20, 23]
    assert loader.class_sizes.sum() == 7


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    batch_size=st.integers(1, 20),
    num_rows=st.integers(1, 40),
    torch_batches=st.booleans(),
)
def test_rows_of_any_number_of_bytes_arrive_whole(
    sizes: list[int], batch_size: int, num_rows: int, torch_batches: bool
) -> None:
    generator = np.random.default_rng(0)
    data = [generator.integers(0, 256, (num_rows, size), np.uint8) for size in sizes]
    with make(data, batch_size=batch_size, format="torch" if torch_batches else "numpy") as loader:
        for batch in loader:
            rows = np.asarray(loader.batch_rows)
            for got, array in zip(batch, data, strict=True):
                np.testing.assert_array_equal(np.asarray(got), array[rows])


# ---- bad input to the constructor


class Loud:
    """A policy with a part missing."""

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes


def _bad() -> dict[str, tuple[type[Exception], str, dict[str, Any]]]:
    x = np.arange(N)
    wide = np.zeros((N, 4, 6))
    nan = float("nan")
    ragged: Any = [[0, 1], [2]]
    return {
        # data
        "lengths differ": (ValueError, r"same number of rows \(got data\[0\]: 24, data\[1\]: 5", {"data": (x, x[:5])}),
        "lengths differ deep down": (ValueError, r"data\['a'\]\[1\]: 23", {"data": {"a": [x, x[1:]], "b": x}}),
        "no rows": (ValueError, r"at least one row \(got shape \(0, 3\)\)", {"data": np.zeros((0, 3))}),
        "no rows, tensor": (ValueError, r"at least one row \(got shape \(0,\)\)", {"data": torch.zeros(0)}),
        "no elements": (ValueError, r"at least one element \(got shape \(24, 0\)\)", {"data": np.zeros((N, 0))}),
        "a scalar": (ValueError, r"at least one row \(got shape \(\)\)", {"data": np.array(3)}),
        "empty tuple": (ValueError, r"at least one array \(got the empty tuple", {"data": ()}),
        "empty list": (ValueError, r"at least one array \(got the empty list", {"data": []}),
        "empty dict": (ValueError, r"at least one array \(got the empty dict", {"data": {}}),
        "nothing but empty": (ValueError, r"at least one array", {"data": ([], {})}),
        "a string": (TypeError, r"data must be a torch tensor or a numpy array.*\(got str\)", {"data": "rows"}),
        "bytes": (TypeError, r"\(got bytes\)", {"data": b"rows"}),
        "a number": (TypeError, r"\(got int\)", {"data": 7}),
        "None in a tuple": (TypeError, r"data\[1\] must be .*\(got NoneType\)", {"data": (x, None)}),
        "a set": (TypeError, r"\(got set\)", {"data": {1, 2}}),
        "a list of numbers": (TypeError, r"data\[0\] must be .*\(got int\)", {"data": [1, 2, 3]}),
        "objects": (TypeError, r"must not hold Python objects.*\(got dtype object\)", {"data": x.astype(object)}),
        "objects in a record": (TypeError, r"Python objects", {"data": np.zeros(N, [("a", "O"), ("b", "i4")])}),
        "masked": (TypeError, r"masked array", {"data": np.ma.masked_array(x, x > 3)}),
        "rows apart": (ValueError, r"contiguous \(got shape \(24, 6, 4\) with strides", {"data": wide.swapaxes(1, 2)}),
        "columns apart": (ValueError, r"each row of data\[1\] must be contiguous", {"data": (x, wide[:, :, ::2])}),
        "columns backwards": (ValueError, r"contiguous", {"data": wide[:, ::-1]}),
        "tensor rows apart": (ValueError, r"contiguous", {"data": torch.zeros(N, 4, 6).transpose(1, 2)}),
        "sparse": (TypeError, r"dense tensor", {"data": torch.eye(N).to_sparse()}),
        "quantised": (
            TypeError,
            r"whole bytes \(got a Tensor of torch.float8_e4m3fn on cpu\)",
            {"data": torch.zeros(N, dtype=torch.float8_e4m3fn), "format": "torch"},
        ),
        "on a device": (
            ValueError,
            r"on the CPU.*got device meta",
            {"data": torch.zeros(N, device="meta")},
        ),
        "strings for torch": (
            TypeError,
            r'of which torch.from_numpy makes no tensor.*format="numpy"',
            {"data": x.astype(str), "format": "torch"},
        ),
        "big endian for torch": (TypeError, r"makes no tensor", {"data": x.astype(">i8"), "format": "torch"}),
        "bfloat16 for numpy": (TypeError, r"numpy lacks", {"data": torch.zeros(N, dtype=torch.bfloat16)}),
        # classes
        "classes too short": (ValueError, r"one id for each of the 24 rows \(got 23\)", {"classes": CLASSES[1:]}),
        "classes too long": (ValueError, r"24 rows \(got 48\)", {"classes": np.tile(CLASSES, 2)}),
        "float classes": (TypeError, r"integers or strings \(got float64\)", {"classes": CLASSES * 1.0}),
        "NaN classes": (ValueError, r"a label for every row \(got 24 missing", {"classes": np.full(N, nan)}),
        "float tensor classes": (TypeError, r"integers \(got float32\)", {"classes": torch.zeros(N)}),
        "complex classes": (TypeError, r"integers", {"classes": CLASSES * 1j}),
        "None in classes": (ValueError, r"a label for every row \(got 1 missing", {"classes": [None, *CLASSES[1:]]}),
        "dates as classes": (TypeError, r"integers", {"classes": CLASSES.astype("M8[s]")}),
        "negative classes": (ValueError, r"classes must be >= 0 \(got -1\)", {"classes": CLASSES - 1}),
        "two-dimensional classes": (ValueError, r"one dimension.*\(24, 1\)", {"classes": CLASSES[:, None]}),
        "ragged classes": (TypeError, r"integers or strings \(got list at row 0\)", {"classes": ragged}),
        "one class for all": (TypeError, r"an array of 24 ids or labels.*\(got the int 0\)", {"classes": 0}),
        "keys as classes": (ValueError, r"np\.unique", {"classes": CLASSES + 10**9}),
        "huge keys as classes": (ValueError, r"2\*\*63|np\.unique", {"classes": np.full(N, 2**64 - 1, np.uint64)}),
        # rows
        "no rows chosen": (ValueError, r"rows must name at least one of the 24 rows", {"rows": []}),
        "empty mask": (ValueError, r"mask without True", {"rows": np.zeros(N, bool)}),
        "short mask": (ValueError, r"one bool for each of the 24 rows \(got 5\)", {"rows": np.ones(5, bool)}),
        "row twice": (ValueError, r"3", {"rows": [1, 3, 5, 3]}),
        "row beyond": (IndexError, r"rows must be (ids )?in \[0, 24\) \(got 24\)", {"rows": [0, 24]}),
        "row negative": (IndexError, r"rows must be (ids )?in \[0, 24\) \(got -1\)", {"rows": [0, -1]}),
        "row far beyond": (IndexError, r"rows must be", {"rows": np.array([2**64 - 1], np.uint64)}),
        "float rows": (TypeError, r"row ids or a mask", {"rows": [0.0, 1.0]}),
        "rows in two dimensions": (ValueError, r"one dimension", {"rows": [[0, 1]]}),
        "string rows": (TypeError, r"row ids or a mask", {"rows": ["a"]}),
        # numbers
        "batch_size 0": (ValueError, r"batch_size must be an int >= 1 \(got 0\)", {"batch_size": 0}),
        "batch_size negative": (ValueError, r"batch_size must be an int >= 1 \(got -4\)", {"batch_size": -4}),
        "batch_size float": (TypeError, r"batch_size must be an int >= 1 \(got 4\.0\)", {"batch_size": 4.0}),
        "batch_size True": (TypeError, r"batch_size must be an int >= 1 \(got True\)", {"batch_size": True}),
        "batch_size numpy True": (TypeError, r"batch_size must be an int", {"batch_size": np.True_}),
        "batch_size string": (TypeError, r"batch_size must be an int >= 1 \(got '4'\)", {"batch_size": "4"}),
        "batch_size None": (TypeError, r"batch_size must be an int >= 1 \(got None\)", {"batch_size": None}),
        "batch_size huge": (ValueError, r"batch_size \* world_size must be", {"batch_size": 2**31}),
        "batch_size huger": (ValueError, r"batch_size", {"batch_size": 2**70}),
        "global batch huge": (
            ValueError,
            r"batch_size \* world_size must be an int in \[1, 2147483647\]",
            {"batch_size": 2**20, "world_size": 2**20, "rank": 0},
        ),
        "drop_last of all": (ValueError, r"at most the number of rows, 24", {"batch_size": 25, "drop_last": True}),
        "more ranks than rows": (ValueError, r"world_size must be at most .* 24", {"rank": 0, "world_size": 25}),
        "no rank": (TypeError, r"rank must be an int in \[0, 1\] .*\(got None\)", {"world_size": 2}),
        "masked rows": (TypeError, r"rows .* masked array", {"rows": np.ma.masked_array([1, 2], [True, False])}),
        "no classes": (ValueError, r"one id for each of the 24 rows \(got 0\)", {"classes": []}),
        "a word as Static": (
            TypeError,
            r"proportions must be numbers \(got <ndarray of shape \(\) and <U3>",
            {"mixing": l2m_fast.Static(cast("Any", "abc"))},
        ),
        "steps_per_epoch 0": (ValueError, r"steps_per_epoch must be .* \(got 0\)", {"steps_per_epoch": 0}),
        "steps_per_epoch True": (TypeError, r"steps_per_epoch", {"steps_per_epoch": True}),
        "update_every 0": (ValueError, r"update_every must be .* \(got 0\)", {"update_every": 0}),
        "update_every float": (TypeError, r"update_every", {"update_every": 1.5}),
        "seed negative": (ValueError, r"seed must be .* \(got -1\)", {"seed": -1}),
        "seed huge": (ValueError, r"seed must be an int in \[0, 18446744073709551615\]", {"seed": 2**64}),
        "seed None on two ranks": (
            ValueError,
            r"seed must be an int in \[0, 2\*\*64\), the same on all 2 ranks \(got None\)",
            {"seed": None, "rank": 0, "world_size": 2},
        ),
        "num_threads negative": (ValueError, r"num_threads must be .* \(got -1\)", {"num_threads": -1}),
        "num_threads huge": (ValueError, r"num_threads must be", {"num_threads": 10**6}),
        "num_threads True": (TypeError, r"num_threads", {"num_threads": True}),
        "prefetch negative": (ValueError, r"prefetch must be .* \(got -1\)", {"prefetch": -1}),
        "prefetch float": (TypeError, r"prefetch", {"prefetch": 2.0}),
        "world_size 0": (ValueError, r"world_size must be an int >= 1 \(got 0\)", {"world_size": 0}),
        "rank negative": (ValueError, r"rank must be an int in \[0, 1\] \(got -1\)", {"rank": -1, "world_size": 2}),
        "rank beyond": (ValueError, r"rank must be an int in \[0, 1\] \(got 2\)", {"rank": 2, "world_size": 2}),
        "rank without world_size": (ValueError, r"rank must be an int in \[0, 0\] \(got 1\)", {"rank": 1}),
        "rank float": (TypeError, r"rank must be", {"rank": 0.0}),
        # words and flags
        "order": (ValueError, r"order must be 'shuffled' or 'grouped' \(got 'sorted'\)", {"order": "sorted"}),
        "order None": (ValueError, r"order must be", {"order": None}),
        "format": (ValueError, r"format must be 'torch' or 'numpy' \(got 'jax'\)", {"format": "jax"}),
        "shuffle": (TypeError, r"shuffle must be True or False \(got 1\)", {"shuffle": 1}),
        "drop_last": (TypeError, r"drop_last must be True or False \(got None\)", {"drop_last": None}),
        "unknown": (TypeError, r"weights", {"weights": [1, 2]}),
        # mixing
        "mixing a string": (TypeError, r"mixing must be a policy .* \(got 'balanced'\)", {"mixing": "balanced"}),
        "mixing a class": (TypeError, r"mixing must be a policy", {"mixing": Learn2Mix}),
        "mixing an array": (TypeError, r"mixing must be a policy", {"mixing": [0.5, 0.5]}),
        "mixing half a policy": (TypeError, r"mixing must be a policy", {"mixing": Loud()}),
        "all_reduce": (TypeError, r"all_reduce must be a callable .* \(got 'sum'\)", {"all_reduce": "sum"}),
        "losses without classes": (
            ValueError,
            r"Learn2Mix.* needs classes=, the class of each row",
            {"mixing": Learn2Mix()},
        ),
        "losses on two ranks": (
            ValueError,
            r"Learn2Mix.* on 2 ranks needs all_reduce",
            {"mixing": Learn2Mix(), "classes": CLASSES, "world_size": 2, "rank": 0},
        ),
    }


@pytest.mark.parametrize("name", _bad())
def test_the_constructor_refuses(name: str) -> None:
    error, message, options = _bad()[name]
    with pytest.raises(error, match=message) as raised:
        make(**options)
    assert raised.type is error
    assert "session" not in str(raised.value)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.6, -0.1], r">= 0|negative"),
        ([0.5, float("nan"), 0.5], r"finite"),
        ([0.5, float("inf"), 0.5], r"finite"),
        ([0.2, 0.2, 0.2], r"sum to 1"),
        ([0.4, 0.3, 0.300002], r"sum to 1"),
        ([0.5, 0.5], r"3"),
        ([0.25] * 4, r"3"),
        ([], r"3"),
        ([[0.5, 0.25, 0.25]], r"shape \(3,\)"),
        (1.0, r"3"),
        ([0, 0, 0], r"sum to 1"),
    ],
)
def test_wrong_proportions_are_refused(p: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make(classes=CLASSES, mixing=l2m_fast.Static(p))
    assert re.search("proportions", str(raised.value))


def test_proportions_of_an_empty_class_are_refused() -> None:
    with pytest.raises(ValueError, match="proportion"):
        make(classes=CLASSES * 2, mixing=l2m_fast.Static([0.5, 0.1, 0.2, 0.0, 0.2]))


def test_proportions_nearly_summing_to_one_are_made_to() -> None:
    loader = make(classes=CLASSES, mixing=l2m_fast.Static([0.5, 0.25, 0.25 + 9e-7]))
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)


# ---- bad input to a loader at work


def _bad_records() -> dict[str, tuple[type[Exception], str, tuple[Any, ...]]]:
    zeros = np.zeros(6)
    return {
        "too few": (ValueError, r"one value for each of the 6 rows of the last batch \(got 5\)", (np.zeros(5),)),
        "too many": (ValueError, r"6 rows of the last batch \(got 7\)", (np.zeros(7),)),
        "two dimensions": (ValueError, r"one dimension, \[n\] \(got shape \(6, 1\)\)", (np.zeros((6, 1)),)),
        "the mean": (ValueError, r"one dimension, \[n\] \(got shape \(\)\)", (torch.tensor(0.5),)),
        "integers": (TypeError, r"losses must be float16, .*\(got int64\)", (np.zeros(6, np.int64),)),
        "bools": (TypeError, r"losses must be float16, .*\(got bool\)", (np.zeros(6, bool),)),
        "complex": (TypeError, r"\(got complex128\)", (zeros * 1j,)),
        "strings": (TypeError, r"losses must be float16", (["a"] * 6,)),
        "None": (ValueError, r"one dimension", (None,)),
        "on a device": (ValueError, r"losses must be on the CPU.*meta", (torch.zeros(6, device="meta"),)),
        "classes too short": (ValueError, r"5", (zeros, np.zeros(5, np.int64))),
        "classes out of range": (
            ValueError,
            r"\[0, 3\) \(got 3 at position 3\)",
            (zeros, np.array([0, 1, 2, 3, 0, 0])),
        ),
        "classes negative": (ValueError, r"\[0, 3\) \(got -1 at position 3\)", (zeros, np.array([0, 1, 2, -1, 0, 0]))),
        "classes float": (TypeError, r"classes must be integers \(got float64\)", (zeros, zeros)),
        "classes twice": (
            ValueError,
            r"classes must be None",
            (ClassLoss(np.zeros(3), np.zeros(3, np.int64)), np.zeros(6, np.int64)),
        ),
        "sums of another K": (
            ValueError,
            r"shape \(3,\) \(got \(2,\)",
            (ClassLoss(np.zeros(2), np.zeros(2, np.int64)),),
        ),
        "counts negative": (ValueError, r"counts", (ClassLoss(np.zeros(3), np.array([1, -1, 1])),)),
        "counts absurd": (ValueError, r"counts", (ClassLoss(np.zeros(3), np.array([1, 2**60, 1])),)),
        "counts float": (TypeError, r"count of integers", (ClassLoss(np.zeros(3), np.zeros(3)),)),  # type: ignore[arg-type]
        "sums of nothing": (ValueError, r"sum 0", (ClassLoss(np.ones(3), np.array([1, 0, 1])),)),
    }


@pytest.mark.parametrize("name", _bad_records())
def test_record_refuses_and_adds_nothing(name: str) -> None:
    error, message, arguments = _bad_records()[name]
    loader = make(classes=CLASSES, mixing=Learn2Mix(0.5))
    batches = iter(loader)
    next(batches)
    loader.record(np.ones(6))
    before = loader.state_dict()
    with pytest.raises(error, match=message) as raised:
        loader.record(*arguments)
    assert raised.type is error
    assert loader.state_dict() == before
    assert len(list(batches)) == 3


def test_there_is_nothing_to_record_before_any_batch() -> None:
    loader = make(classes=CLASSES)
    for call in (lambda: loader.record(np.zeros(6)), lambda: loader.batch_rows, lambda: loader.batch_classes):
        with pytest.raises(RuntimeError, match="no batch has been yielded"):
            call()
    iter(loader)
    with pytest.raises(RuntimeError, match="no batch has been yielded"):
        loader.record(np.zeros(6))
    assert len(list(loader)) == 4


def test_record_with_classes_works_before_any_batch() -> None:
    loader = make(classes=CLASSES)
    loader.record(np.ones(3), classes=[0, 1, 2])
    loader.update()
    assert loader.class_losses.tolist() == [1, 1, 1]


def test_update_is_refused_where_the_loader_updates_by_itself() -> None:
    loader = make(classes=CLASSES, update_every=2)
    with pytest.raises(RuntimeError, match=r"update_every=None: this loader updates every 2 steps"):
        loader.update()
    assert len(list(loader)) == 4


@pytest.mark.parametrize(
    ("epoch", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), (2**70, ValueError)]
)
def test_set_epoch_refuses(epoch: Any, error: type[Exception]) -> None:
    loader = make()
    with pytest.raises(error, match=r"epoch must be an int in \[0, "):
        loader.set_epoch(epoch)
    assert loader.epoch == 0
    assert len(list(loader)) == 4


def test_an_initialised_process_group_without_a_rank_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("l2m_fast.distributed._warned_of_ranks", False)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        make()  # one process is no reason to warn
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        make(rank=0, world_size=1)
        with pytest.warns(RuntimeWarning, match="this loader was not told its rank") as caught:
            make()
        assert len(caught) == 1
        make()
    finally:
        torch.distributed.destroy_process_group()
