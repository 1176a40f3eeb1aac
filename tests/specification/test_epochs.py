"""Epochs of the oracle."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from oracle import Learn2Mix, OracleLoader, Proportional, permutation
from specification.cases import epoch_of, long_tail, loss_of, rows_of


def test_without_classes_an_epoch_is_a_pass() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Proportional(), seed=2)
    for epoch in range(3):
        assert rows_of(loader) == permutation(2, 0, epoch, 10).tolist()
    assert epoch_of(OracleLoader(5, batch_size=3, mixing=Proportional(), shuffle=False)) == [
        ([0, 1, 2], [0, 0, 0]),
        ([3, 4], [0, 0]),
    ]


def test_a_dropped_tail_is_not_delivered_in_the_next_epoch() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Proportional(), drop_last=True)
    for epoch in range(2):
        assert rows_of(loader) == permutation(0, 0, epoch, 10)[:8].tolist()


def test_steps_per_epoch_lets_passes_continue() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Proportional(), steps_per_epoch=3)
    assert Counter(row for _ in range(5) for row in rows_of(loader)) == dict.fromkeys(range(10), 6)


@pytest.mark.parametrize(
    ("num_rows", "world_size", "options", "steps"),
    [
        (24, 2, {}, 3),
        (25, 2, {}, 3),  # one row for two ranks is dropped
        (26, 2, {}, 4),
        (26, 2, {"drop_last": True}, 3),
        (5, 1, {}, 2),
        (3, 1, {}, 1),
        (3, 1, {"steps_per_epoch": 5}, 5),
        (26, 2, {"classes": True}, 3),
        (3, 2, {"classes": True}, 1),
        (3, 1, {"classes": True, "drop_last": True}, 1),
    ],
)
def test_number_of_steps(num_rows: int, world_size: int, options: dict[str, Any], steps: int) -> None:
    if "classes" in options:
        options = {**options, "classes": np.arange(num_rows) % 3}
    for rank in range(world_size):
        loader = OracleLoader(
            num_rows, batch_size=4, mixing=Proportional(), rank=rank, world_size=world_size, **options
        )
        assert len(loader) == len(epoch_of(loader)) == steps


@pytest.mark.parametrize(
    ("num_rows", "options"),
    [
        (3, {"batch_size": 4, "drop_last": True}),
        (3, {"batch_size": 4, "world_size": 4}),
        (3, {"batch_size": 2**31}),
        (30, {"batch_size": 4, "world_size": 2, "mixing": Learn2Mix(0.3)}),
    ],
)
def test_options_without_any_batch_are_refused(num_rows: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"make no batch|at most|all_reduce"):
        OracleLoader(num_rows, **{"mixing": Proportional(), **options})


def test_an_unfinished_epoch_ends_where_it_was_consumed() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    first = iter(loader)
    rows, _ = next(first)
    loader.record(loss_of(rows))
    before = loader.state_dict()
    second = iter(loader)
    iter(loader)  # changes nothing, because it is never advanced
    assert (loader.epoch, loader.step, len(loader.history)) == (0, 1, 0)
    assert loader.state_dict() == before
    other = next(second)
    assert (loader.epoch, loader.step, len(loader.history)) == (1, 1, 1)
    with pytest.raises(RuntimeError, match="ended this iterator"):
        next(first)
    after = loader.state_dict()
    assert after["total_step"] == 2
    assert len(other[0]) == 6
    assert after["proportions"] == after["next_proportions"] != before["proportions"]
    assert len(list(second)) == len(loader) - 1
    assert (loader.epoch, loader.step) == (2, 0)


def test_set_epoch_to_the_next_epoch_changes_nothing() -> None:
    def run(set_epoch: bool) -> list[Any]:
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Proportional())
        seen: list[Any] = []
        for epoch in range(3):
            if set_epoch:
                loader.set_epoch(epoch)
            batches = iter(loader)
            seen.append(next(batches))
            if set_epoch:
                loader.set_epoch(epoch + 1)
            seen += batches
        return [rows.tolist() for rows, _ in seen]

    assert run(set_epoch=True) == run(set_epoch=False)


def test_set_epoch_starts_passes_that_depend_on_the_epoch() -> None:
    loader = OracleLoader(60, batch_size=7, classes=long_tail(), mixing=Proportional(), seed=3)
    epoch_of(loader)
    before = loader.state_dict()
    loader.set_epoch(9)
    changed = {"epoch": 9, "step": 0, "passes": [9] * 5, "positions": [0] * 5, "held": []}
    assert loader.state_dict() == {**before, **changed}
    rows, classes = next(iter(loader))
    largest = np.flatnonzero(long_tail() == 0)
    start = largest[permutation(3, 0, 9, len(largest))][: loader.quotas[0]]
    assert sorted(rows[classes == 0]) == sorted(start)


def test_set_epoch_waits_for_the_running_iterator() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Proportional())
    expected = epoch_of(OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Proportional()))
    batches = iter(loader)
    seen = [next(batches)]
    loader.set_epoch(4)
    seen += batches
    assert [(rows.tolist(), classes.tolist()) for rows, classes in seen] == expected
    assert (loader.epoch, loader.state_dict()["passes"]) == (4, [4] * 5)


def test_set_epoch_resumes_a_restored_epoch_or_leaves_it() -> None:
    def restored() -> OracleLoader:
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
        rows, _ = next(iter(loader))
        loader.record(loss_of(rows))
        state = loader.state_dict()
        loader.load_state_dict(state)
        return loader

    loader = restored()
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader) - 1
    loader = restored()
    loader.set_epoch(5)
    assert (loader.epoch, loader.step, len(loader.history)) == (5, 0, 1)
    assert len(list(loader)) == len(loader)
