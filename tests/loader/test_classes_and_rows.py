"""Classes and rows that a loader accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import l2m_fast
from l2m_fast import Learn2Mix
from loader.plain import CLASSES, N, make


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
def test_rows_are_given_as_ids_in_any_order_or_as_a_mask(rows: Any, classes: Any) -> None:
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
