"""Loaders over so many rows that passes are computed in slices."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import _testing
from l2m_fast import Loader

NUM_ROWS = 2**26 + 7
BATCH_SIZE = 2**20


def loader(num_threads: int, *, shuffle: bool = True) -> Loader:
    """Return a loader of row ids."""
    data = np.broadcast_to(np.zeros(1, np.uint8), NUM_ROWS)  # takes no memory
    return Loader(
        data,
        batch_size=BATCH_SIZE,
        include=("rows",),
        shuffle=shuffle,
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
