"""Loaders over so many rows that passes are computed in slices, and the ids of classes are packed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import _testing
from l2m_fast import Loader

NUM_ROWS = 2**26 + 7
BATCH_SIZE = 2**20


def loader(num_threads: int, *, shuffle: bool = True, classes: np.ndarray | None = None) -> Loader:
    """Return a loader of row ids, grouped by class."""
    data = np.broadcast_to(np.zeros(1, np.uint8), NUM_ROWS)  # takes no memory
    return Loader(
        data,
        batch_size=BATCH_SIZE,
        classes=classes,
        include=("rows",),
        shuffle=shuffle,
        order="grouped",
        seed=3,
        num_threads=num_threads,
        prefetch=1,
        format="numpy",
    )


@pytest.mark.parametrize("num_threads", [0, 2])
def test_slices_of_a_pass_are_its_parts(num_threads: int) -> None:
    """An epoch is the permutation of all rows, as computed without slices, also if it goes on from a state."""
    permutation = _testing.Pass(None, 1, NUM_ROWS)
    permutation.shuffle(3, 0, 2)
    expected = np.asarray(cast("Any", permutation))
    states = {}
    with loader(num_threads) as whole:
        for step, (_, rows) in enumerate(whole):
            np.testing.assert_array_equal(rows, expected[step * BATCH_SIZE :][: len(rows)])
            if step in (0, 31, 50):  # the two slices meet near the middle
                states[step] = whole.state_dict()
        assert step == NUM_ROWS // BATCH_SIZE
    for step in (50, 0, 31):
        with loader(num_threads) as resumed:
            resumed.load_state_dict(states[step])
            _, rows = next(iter(resumed))
            np.testing.assert_array_equal(rows, expected[(step + 1) * BATCH_SIZE :][:BATCH_SIZE])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_without_shuffling_rows_come_in_order(num_threads: int) -> None:
    with loader(num_threads, shuffle=False) as ascending:
        for step, (_, rows) in zip(range(3), ascending, strict=False):
            np.testing.assert_array_equal(rows, np.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE))


def some_classes() -> tuple[np.ndarray, np.ndarray]:
    """Return classes of about 4, 21 and 42 million rows and one of a thousand, and the sizes of all."""
    shares = np.array([0] + 5 * [1] + 10 * [2], np.int16)
    classes = shares[np.random.default_rng(0).integers(len(shares), size=NUM_ROWS, dtype=np.uint8)]
    classes[::65_537] = 3
    return classes, np.bincount(classes)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_classes_are_shuffled_as_without_slices(num_threads: int) -> None:
    """The rows of each class are its permutation, computed from plain ids and without slices, also on from a state."""
    classes, sizes = some_classes()
    permutation = _testing.Pass(classes, len(sizes), NUM_ROWS)
    permutation.shuffle(3, 0, 2)
    expected = np.split(np.asarray(cast("Any", permutation)), np.cumsum(sizes)[:-1])
    drawn = np.zeros_like(sizes)

    def check(rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        for k, of_class in enumerate(np.split(rows, np.cumsum(np.bincount(classes[rows], minlength=len(sizes)))[:-1])):
            np.testing.assert_array_equal(of_class, expected[k][drawn[k] :][: len(of_class)])
            drawn[k] += len(of_class)
        return drawn

    states = {}
    with loader(num_threads, classes=classes) as whole:
        for _, rows in whole:
            drawn = check(rows, drawn)
            if whole.step in (1, 32, 60):
                states[whole.step] = whole.state_dict(), drawn.copy()
        np.testing.assert_array_less(sizes - drawn, 20)
    for step in (60, 1, 32):
        state, drawn = states[step]
        with loader(num_threads, classes=classes) as resumed:
            resumed.load_state_dict(state)
            _, rows = next(iter(resumed))
            check(rows, drawn)
