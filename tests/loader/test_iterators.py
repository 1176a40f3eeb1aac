"""Iterators of a loader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from l2m_fast import Learn2Mix, Loader
from loader.lifecycle import CLASSES, DATA, N, make, rows_of


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_newer_iterator_makes_the_first_one_raise(num_threads: int) -> None:
    loader = make(num_threads=num_threads)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(first)  # the second one has not begun
    assert (loader.epoch, loader.step) == (0, 2)
    batch = next(second)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="this iterator has ended: a newer one"):
            next(first)
    assert (loader.epoch, loader.step) == (1, 1)
    assert len([batch, *second]) == N // 20
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(first)


def test_an_iterator_that_is_never_advanced_changes_nothing() -> None:
    loader = make()
    for _ in range(3):
        iter(loader)
    batches = iter(loader)
    got = [next(batches)]
    state = loader.state_dict()
    iter(loader)
    assert loader.state_dict() == state
    got += batches
    iter(loader)
    assert rows_of(got) == rows_of(make())
    assert (loader.epoch, loader.step) == (1, 0)


def test_what_was_not_built_of_one_epoch_is_no_batch_of_the_next() -> None:
    class Pair(NamedTuple):
        first: Any

    class Failing(Pair):
        def __new__(cls, *arrays: Any) -> Failing:  # noqa: PYI034
            if fails:
                raise NotImplementedError
            return super().__new__(cls, *arrays)

    def make_of(data: Pair) -> Loader:
        return Loader(data, batch_size=20, classes=CLASSES, mixing=Learn2Mix(), format="numpy", seed=0)

    fails = False
    loader, untouched = make_of(Failing(DATA)), make_of(Pair(DATA))
    next(iter(untouched))
    with pytest.warns(RuntimeWarning, match="none was recorded"):
        expected = next(iter(untouched))  # ends the first epoch after one batch

    batches = iter(loader)
    next(batches)
    fails = True
    with pytest.raises(NotImplementedError):
        next(batches)
    fails = False
    batches = iter(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="none was recorded"):
            next(batches)
    assert (next(batches).first == expected.first).all()


def test_a_finished_iterator_stays_finished() -> None:
    loader = make()
    batches = iter(loader)
    assert len(list(batches)) == N // 20
    assert [next(batches, None) for _ in range(3)] == [None] * 3
    assert loader.epoch == 1
    assert iter(batches) is batches


def test_a_batch_too_large_for_memory_raises_where_it_is_due(tmp_path: Path) -> None:
    path = tmp_path / "row"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    row = np.memmap(path, np.uint8, "r", shape=(1, 1 << 30))
    for num_threads in (0, 2):
        loader = Loader(row, batch_size=1 << 20, steps_per_epoch=2, format="numpy", num_threads=num_threads, seed=0)
        batches = iter(loader)
        for _ in range(3):
            with pytest.raises(MemoryError):
                next(batches)
            assert loader.step == 0
        loader.close()
