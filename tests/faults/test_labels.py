"""Every label that `Loader(classes=...)` accepts keeps its class, and an error names any value that is not a label."""

from __future__ import annotations

import array
import enum
import re
import tracemalloc
from collections import UserList, deque
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_fast import Loader
from l2m_fast._checks import shortened

STRINGS = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else np.dtype(object)  # NumPy 2
NULLABLE = np.dtypes.StringDType(na_object=np.nan) if hasattr(np.dtypes, "StringDType") else np.dtype(object)


def load(classes: Any, num_rows: int) -> Loader:
    """Return a loader whose batch contains all rows."""
    return Loader(np.arange(num_rows), batch_size=num_rows, classes=classes, format="numpy", num_threads=0)


def ids_of_rows(loader: Loader) -> list[int]:
    """Return the class of each row, from the only batch of an epoch."""
    (rows,) = loader
    ids: list[int] = np.asarray(loader.batch_classes)[np.argsort(rows)].tolist()
    return ids


def objects(values: list[Any]) -> np.ndarray[Any, Any]:
    """Return an array of Python objects."""
    result = np.empty(len(values), object)
    result[:] = values
    return result


def name_of_case(value: object) -> str:
    """Return the repr of a parameter, short and the same in every run."""
    return re.sub(" at 0x[0-9a-f]+", "", shortened(value, 60))


# ---- strings


@settings(max_examples=100)
@given(
    labels=st.lists(
        st.sampled_from(["", "a", "a\0", "a\0b", "b", "é", "\uffff", "\U0001f600"]) | st.text(), min_size=1
    ),
    convert=st.sampled_from([list, tuple, objects, deque, pd.Index]),
)
def test_every_label_is_a_class_in_the_order_of_python_strings(labels: list[str], convert: Any) -> None:
    with load(convert(labels), len(labels)) as loader:
        assert loader.class_labels == sorted(set(labels))
        assert [loader.class_labels[k] for k in ids_of_rows(loader)] == labels


@pytest.mark.parametrize(
    "convert",
    [list, objects, pd.Series, lambda labels: np.array(labels, STRINGS), lambda labels: [x.encode() for x in labels]],
    ids=["list", "objects", "Series", "StringDType", "bytes"],
)
def test_labels_that_differ_by_a_trailing_null_are_two_classes(convert: Any) -> None:
    with load(convert(["a\0", "a", "a\0"]), 3) as loader:
        assert loader.class_labels == ["a", "a\0"]
        assert ids_of_rows(loader) == [1, 0, 1]


@pytest.mark.parametrize(
    "convert",
    [list, objects, lambda labels: np.array(labels, STRINGS), lambda labels: pd.Series(labels, dtype="category")],
    ids=["list", "objects", "StringDType", "category"],
)
def test_one_long_label_does_not_widen_the_others(convert: Any) -> None:
    labels = [f"{k % 1000:03}" for k in range(19_999)] + ["x" * 20_000]  # 1.6 GB if all had the same width
    classes = convert(labels)
    tracemalloc.start()
    try:
        with load(classes, len(labels)) as loader:
            peak = tracemalloc.get_traced_memory()[1]
            assert loader.num_classes == 1001
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_every_row_may_have_a_different_label() -> None:
    labels = [f"{k:x}" for k in range(1_000_000)]
    with load(labels, len(labels)) as loader:
        assert loader.num_classes == len(labels)
        assert loader.class_labels == sorted(labels)


class Animal(str, enum.Enum):
    """Enum of strings, whose hash is that of their names."""

    CAT = "cat"
    ANT = "ant"


@pytest.mark.parametrize("convert", [list, objects])
def test_labels_of_a_subclass_are_those_of_plain_strings(convert: Any) -> None:
    with load(convert([Animal.CAT, Animal.ANT, "ant", np.str_("cat")]), 4) as loader:
        assert loader.class_labels == ["ant", "cat"]
        assert [type(label) for label in loader.class_labels] == [str, str]
        assert ids_of_rows(loader) == [1, 0, 0, 1]


NAMES = ["cat", "ant", "dog", "ant"]


@pytest.mark.parametrize(
    "classes",
    [
        np.array(NAMES, STRINGS),
        np.array(NAMES, NULLABLE),
        np.array(NAMES, ">U3"),
        UserList(NAMES),
        [name.encode() for name in NAMES],
        objects([name.encode() for name in NAMES]),
        pd.Series(NAMES),
        pd.Series(NAMES, dtype=object),
        pd.Series(NAMES, dtype="string"),
        pd.Series(NAMES, index=[7, 7, 5, 5]).array,
        pd.Index(NAMES),
        pd.Series(NAMES, dtype="category"),
        pd.CategoricalIndex(NAMES, categories=["dog", "unused", "cat", "ant"], ordered=True),
        pd.Categorical(NAMES, categories=["dog", "unused", "cat", "ant"]),
    ],
    ids=name_of_case,
)
def test_strings_in_any_container_give_the_labels_of_a_list(classes: Any) -> None:
    with load(classes, 4) as loader:
        assert loader.class_labels == ["ant", "cat", "dog"]
        assert ids_of_rows(loader) == [1, 0, 2, 0]


def test_strings_of_pyarrow_give_the_labels_of_a_list() -> None:
    pa = pytest.importorskip("pyarrow")
    for classes in (pd.Series(NAMES, dtype="string[pyarrow]"), pd.Series(NAMES, dtype=pd.ArrowDtype(pa.string()))):
        with load(classes, 4) as loader:
            assert loader.class_labels == ["ant", "cat", "dog"]
    for classes in (pa.array(NAMES), pa.chunked_array([NAMES[:1], NAMES[1:]])):
        with load(classes, 4) as loader:
            assert ids_of_rows(loader) == [1, 0, 2, 0]
    with pytest.raises(ValueError, match=r"got 1 missing, the first at row 1\)"):
        load(pa.array(["a", None]), 2)


@pytest.mark.parametrize("convert", [list, np.array, objects])
def test_labels_of_bytes_are_utf8(convert: Any) -> None:
    names = ["é", "z", "日本", "z"]
    with load(convert([name.encode() for name in names]), 4) as loader:
        assert loader.class_labels == ["z", "é", "日本"]
        assert ids_of_rows(loader) == [1, 0, 2, 0]
    latin = r"classes of bytes must be UTF-8 \(got b'\\xe9' at row 2\): decode them first"
    with pytest.raises(ValueError, match=latin):
        load(convert([b"z", b"\xc3\xa9", b"\xe9", b"\xe9"]), 4)


# ---- integers


@pytest.mark.parametrize(
    "classes",
    [
        objects([2, 0, 1, 0]),
        objects([np.int8(2), np.uint64(0), 1, np.int64(0)]),
        [np.uint64(2), np.int64(0), 1, 0],
        [torch.tensor(2), np.array(0), 1, 0],
        deque([2, 0, 1, 0]),
        array.array("b", [2, 0, 1, 0]),
        memoryview(bytes([2, 0, 1, 0])),
        pd.Series([2, 0, 1, 0]),
        pd.Series([2, 0, 1, 0], dtype=object),
        pd.Series([2, 0, 1, 0], dtype="Int64"),
        pd.array([2, 0, 1, 0], dtype="UInt8"),
        pd.Series([2, 0, 1, 0], dtype="category"),
        pd.CategoricalIndex([2, 0, 1, 0], categories=[7, 2, 1, 0]),
    ],
    ids=name_of_case,
)
def test_integers_in_any_container_are_ids(classes: Any) -> None:
    with load(classes, 4) as loader:
        assert loader.class_labels is None
        assert ids_of_rows(loader) == [2, 0, 1, 0]


@pytest.mark.parametrize("convert", [list, objects, pd.Series, lambda flags: pd.array(flags, dtype="boolean")])
def test_bools_are_ids_in_any_container(convert: Any) -> None:
    with load(convert([True, False, np.True_, True]), 4) as loader:
        assert ids_of_rows(loader) == [1, 0, 1, 1]


# ---- errors


@pytest.mark.parametrize(
    ("classes", "where"),
    [
        (["a", "b", float("nan")], "1 missing, the first at row 2"),
        ([None, "a"], "1 missing, the first at row 0"),
        (["a", pd.NA, b"b", pd.NaT], "2 missing, the first at rows 1 and 3"),
        ([1, np.datetime64("NaT"), None, np.nan, np.float32("nan")], "4 missing, the first at rows 1, 2 and 3"),
        (objects(["a", None, None]), "2 missing, the first at rows 1 and 2"),
        (np.array([0.0, np.nan, 1.0, np.nan]), "2 missing, the first at rows 1 and 3"),
        ([0.0, np.nan, 1.0], "1 missing, the first at row 1"),
        (np.array(["a", np.nan], NULLABLE), "1 missing, the first at row 1"),
        (pd.Series(["a", None]), "1 missing, the first at row 1"),
        (pd.Series(["a", None], dtype="string"), "1 missing, the first at row 1"),
        (pd.Categorical(["a", None, "b"]), "1 missing, the first at row 1"),
        (pd.Series([3, None], dtype="category"), "1 missing, the first at row 1"),
        (pd.Series([1, None, 3], dtype="Int64"), "1 missing, the first at row 1"),
        (pd.Series([1, pd.NA, 3], dtype=object), "1 missing, the first at row 1"),
        (pd.Series([True, None], dtype="boolean"), "1 missing, the first at row 1"),
    ],
    ids=name_of_case,
)
def test_missing_labels_are_counted_and_located(classes: Any, where: str) -> None:
    with pytest.raises(ValueError, match=rf"^classes must have a label for every row \(got {where}\)$"):
        load(classes, len(classes))


@pytest.mark.parametrize(
    ("classes", "got"),
    [
        (["a", "b", 3], "str at row 0 and int at row 2"),
        (objects([3, 3, "a"]), "int at row 0 and str at row 2"),
        (["a", b"a"], "str at row 0 and bytes at row 1"),
        ([1, True], "int at row 0 and bool at row 1"),
        (objects([False, np.int8(1)]), "bool at row 0 and int8 at row 1"),
        ([1, 2, 2.0], "int at row 0 and float at row 2"),
        (["a", ["b"]], "str at row 0 and list at row 1"),
        (pd.Series(["a", 1]), "str at row 0 and int at row 1"),
    ],
    ids=name_of_case,
)
def test_labels_of_two_types_are_located(classes: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"^classes must be of one type, integers or strings \(got {got}\)$"):
        load(classes, len(classes))


WHOLE = r": use np\.asarray\(classes\)\.astype\(int\) if they are whole numbers"


@pytest.mark.parametrize(
    ("classes", "got"),
    [
        (np.array([0.0, 1.0]), rf"float64\){WHOLE}"),
        (np.array([0, 1], np.float16), rf"float16\){WHOLE}"),
        ([0.0, 1.0], rf"float at row 0\){WHOLE}"),
        (pd.Series([0.0, 1.0]), rf"float64\){WHOLE}"),
        (np.array([0, 1j]), r"complex128\)"),
        (np.array([0, 1], "M8[D]"), r"datetime64\[D\]\)"),
        (np.array([0, 1], "m8[D]"), r"timedelta64\[D\]\)"),
        ([np.timedelta64(1, "D")] * 2, r"timedelta64 at row 0\)"),
        (pd.DatetimeIndex(["2026-01-01", "2026-01-02"]), r"datetime64\[\w+\]\)"),
        (np.zeros(2, [("a", "i4"), ("b", "U9")]), r"a structured array\)"),
        ([Decimal(1), Decimal(2)], r"Decimal at row 0\)"),
        ([["a"], ["b"]], r"list at row 0\)"),
        ([(0, 1), (2,)], r"tuple at row 0\)"),
        (pd.MultiIndex.from_tuples([(0, 1), (0, 2)]), r"tuple at row 0\)"),
    ],
    ids=name_of_case,
)
def test_a_value_that_is_neither_an_integer_nor_a_string_is_named(classes: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"^classes must be integers or strings \(got {got}$"):
        load(classes, 2)


@pytest.mark.parametrize(
    ("classes", "got"),
    [
        ("y", "the str 'y'"),
        (b"y", "the bytes b'y'"),
        (1, "the int 1"),
        (np.str_("y"), r"the str_ np\.str_\('y'\)|the str_ 'y'"),
        ({"a": 0, "b": 1}, "the dict {'a': 0, 'b': 1}"),
        ({"a"}, "the set {'a'}"),
        ((k for k in (0, 1)), "the generator <generator object .*>"),
        ({"a": 0, "b": 1}.values(), r"the dict_values dict_values\(\[0, 1\]\)"),
        (list, "the type <class 'list'>"),
    ],
    ids=name_of_case,
)
def test_a_value_that_is_not_an_array_is_named(classes: Any, got: str) -> None:
    expected = (
        rf"^classes must be an array of 2 ids or labels, one for each row \(got ({got})\): pass the array itself$"
    )
    with pytest.raises(TypeError, match=expected):
        load(classes, 2)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([0, 2**63], ValueError, r"in \[0, 2\*\*63\) or strings \(got 9223372036854775808 at row 1\)"),
        ([2**63, -1], ValueError, r"\(got 9223372036854775808 at row 0\)"),
        (objects([0, -(2**70)]), ValueError, r"\(got -1180591620717411303424 at row 1\)"),
        ((0, 10**5000), ValueError, r"at row 1\)"),
        ([0, torch.tensor(1.5)], TypeError, r"\(got <Tensor of shape \(\) and torch.float32> at row 1\)"),
        ([0, np.array([1, 2])], TypeError, r"\(got <ndarray of shape \(2,\) and int64> at row 1\)"),
        ([0, -1], ValueError, r"classes must be >= 0 \(got -1\)"),
        (objects(["a"]), ValueError, r"one id for each of the 2 rows \(got 1\)"),
        (np.array([], "U1"), ValueError, r"one id for each of the 2 rows \(got 0\)"),
        (pd.Series([], dtype=float), ValueError, r"one id for each of the 2 rows \(got 0\)"),
        (np.array(["a", "b"])[:, None], ValueError, r"must have shape \[n\] \(got shape \(2, 1\)\)"),
        (pd.DataFrame({"a": ["b", "c"]}), ValueError, r"must have shape \[n\] \(got shape \(2, 1\)\)"),
        (np.array("a"), ValueError, r"must have shape \[n\] \(got shape \(\)\)"),
        (np.ma.masked_array(["a", "b"], [False, True]), TypeError, r"masked array\): fill it first"),
    ],
    ids=name_of_case,
)
def test_a_value_that_is_not_an_id_is_named(classes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(classes, 2)


class Silent:
    """Object whose `__repr__` raises."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "classes",
    [
        "y" * 10**6,
        b"y" * 10**6,
        [b"\xff" * 10**6],
        [10**4000],
        dict.fromkeys(range(10**6)),
        set(range(10**6)),
        dict.fromkeys(range(10**6)).values(),
        {"a": np.zeros(10**6)},
        [None] * 10**6,
        np.zeros(2, [("a" * 1000, "i4")]),
        Silent(),
        {"a": Silent()},
    ],
    ids=name_of_case,
)
def test_messages_do_not_grow_with_the_classes(classes: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        load(classes, 2)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("y", "'y'"),
        (np.int64(3), repr(np.int64(3))),
        ([1, "a", None], "[1, 'a', None]"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, ...]"),
        (tuple(range(10**6)), "(0, 1, 2, 3, 4, 5, ...)"),
        (range(10**6), "<range of 1000000 items>"),
        (np.zeros((3, 4)), "<ndarray of shape (3, 4) and float64>"),
        (torch.zeros(3), "<Tensor of shape (3,) and torch.float32>"),
        ([Silent(), 2], "2]"),
        (10**5000, "<int without a repr>"),
    ],
    ids=name_of_case,
)
def test_values_are_shortened_in_messages(value: object, expected: str) -> None:
    assert expected in shortened(value)


def test_shortened_values_end_in_an_ellipsis() -> None:
    assert shortened(["y" * 100] * 4) == ("[" + ", ".join([repr("y" * 100)] * 4))[:197] + "..."
    assert len(shortened("y" * 1000)) == 200
    assert len(shortened({"y" * 100: "z" * 1000}, 50)) == 50
