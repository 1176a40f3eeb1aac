"""Endless iterators over epochs."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import Any

import numpy as np
import pytest

from l2m_fast import Learn2Mix, Loader, Proportional
from loader.small import CLASSES, STEPS, N, losses_of, make


def endless(loader: Loader, steps: int) -> list[Any]:
    """Return this number of batches of `forever()` with the position of the loader, and record losses of most."""
    seen = []
    for rows in islice(loader.forever(), steps):
        if loader.step % 3:
            loader.record(losses_of(rows))
        seen.append([rows.tolist(), loader.epoch, loader.step, loader.proportions.tolist(), loader.state_dict()])
    return seen


def by_epochs(loader: Loader, steps: int) -> list[Any]:
    """Return the same as `endless()`, with an iterator for each epoch."""
    seen: list[Any] = []
    while len(seen) < steps:
        for rows in islice(loader, steps - len(seen)):
            if loader.step % 3:
                loader.record(losses_of(rows))
            seen.append([rows.tolist(), loader.epoch, loader.step, loader.proportions.tolist(), loader.state_dict()])
    return seen


OPTIONS: dict[str, dict[str, Any]] = {
    "an update every epoch": {},
    "every 4 steps": {"update_every": 4},
    "every step": {"update_every": 1},
    "late": {"update_every": 4, "lookahead": 3},
    "epochs of one batch": {"steps_per_epoch": 1},
    "threads": {"update_every": 5, "num_threads": 2, "prefetch": 7},
    "without prefetch": {"num_threads": 0, "prefetch": 0},
    "without classes": {"classes": None, "mixing": None},
    "dataset order": {"classes": None, "mixing": None, "shuffle": False},
    "dropping the last": {"classes": None, "mixing": None, "drop_last": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_batches_states_and_proportions_equal_those_of_consecutive_epochs(options: str) -> None:
    loader, expected = make(**OPTIONS[options]), make(**OPTIONS[options])
    assert endless(loader, 3 * STEPS + 2) == by_epochs(expected, 3 * STEPS + 2)
    assert [str(record) for record in loader.history] == [str(record) for record in expected.history]
    assert loader.epoch >= 2


def test_at_the_end_of_an_epoch_it_continues_with_the_next() -> None:
    loader = make()
    batches = loader.forever()
    for step in range(STEPS):
        assert (loader.epoch, loader.step) == (0, step)
        loader.record(losses_of(next(batches)))
    assert (loader.epoch, loader.step, len(loader.history)) == (0, STEPS, 0)
    next(batches)
    assert (loader.epoch, loader.step, len(loader.history)) == (1, 1, 1)


def test_it_begins_at_its_first_batch_and_ends_an_unfinished_epoch() -> None:
    loader = make(mixing=Proportional())
    first = iter(loader)
    next(first)
    batches = loader.forever()
    next(first)
    assert (loader.epoch, loader.step) == (0, 2)
    next(batches)
    assert (loader.epoch, loader.step) == (1, 1)
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(first)
    assert iter(batches) is batches


def test_it_is_ended_by_a_newer_iterator_or_a_loaded_state() -> None:
    loader = make(mixing=Proportional())
    batches = loader.forever()
    list(islice(batches, STEPS + 1))
    next(loader.forever())
    assert (loader.epoch, loader.step) == (2, 1)
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(batches)
    batches = loader.forever()
    next(batches)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(batches)


def test_it_resumes_in_the_middle_of_a_restored_epoch() -> None:
    loader = make(update_every=4)
    whole = endless(loader, 2 * STEPS + 1)
    for consumed in (1, STEPS - 1, STEPS, STEPS + 1):
        resumed = make(update_every=4)
        resumed.load_state_dict(whole[consumed - 1][-1])
        assert endless(resumed, 2 * STEPS + 1 - consumed) == whole[consumed:]


@pytest.mark.parametrize("options", [{}, {"update_every": 4}])
@pytest.mark.parametrize("at", [1, STEPS - 1, STEPS, STEPS + 2])
def test_set_epoch_takes_effect_at_the_end_of_the_running_epoch(options: Any, at: int) -> None:
    loader, expected = (make(mixing=Proportional(), **options) for _ in range(2))
    batches, rows = loader.forever(), []
    for step in range(3 * STEPS):
        if step == at:
            loader.set_epoch(7)
        rows.append(next(batches).tolist())
    again: list[Any] = []
    while len(again) < 3 * STEPS:
        for batch in expected:
            again.append(batch.tolist())
            if len(again) == at:
                expected.set_epoch(7)
    assert rows == again
    assert loader.epoch == (9 if at <= STEPS else 8) - 1
    assert loader.epoch == expected.epoch - 1


def test_update_closes_a_window_between_two_batches() -> None:
    loader, expected = make(), make()
    batches, of_epoch = loader.forever(), iter(expected)
    for step in range(STEPS):
        rows = next(batches)
        assert rows.tolist() == next(of_epoch).tolist()
        for one in (loader, expected):
            one.record(losses_of(rows))
            if step == 2:
                one.update()
    assert next(of_epoch, None) is None
    assert next(batches).tolist() == next(iter(expected)).tolist()
    assert len(loader.history) == len(expected.history) == 1


def test_an_exhausted_iterator_stays_exhausted_while_a_newer_one_runs() -> None:
    loader = make(mixing=Proportional())
    done = iter(loader)
    assert len(list(done)) == STEPS
    batches = loader.forever()
    next(batches)
    assert [next(done, None) for _ in range(2)] == [None, None]
    assert (loader.epoch, loader.step) == (1, 1)
    loader.load_state_dict(loader.state_dict())
    assert next(done, None) is None
    loader.close()
    assert next(done, None) is None
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)


def test_an_iterator_that_is_never_advanced_changes_nothing() -> None:
    loader, expected = make(), make()
    before = loader.state_dict()
    for _ in range(3):
        loader.forever()
    assert loader.state_dict() == before
    assert [rows.tolist() for rows in loader] == [rows.tolist() for rows in expected]


def test_it_is_refused_if_losses_of_the_last_batches_could_not_be_recorded() -> None:
    with pytest.raises(ValueError, match=r"forever\(\) with lookahead=2 needs update_every \(got None\)"):
        make(lookahead=2).forever()
    assert len(list(islice(make(mixing=Proportional(), lookahead=2, update_every=2).forever(), 2 * STEPS))) == 2 * STEPS


def test_it_is_refused_on_a_rank_that_never_gets_rows() -> None:
    ranks = [
        Loader(np.arange(1), batch_size=1, shuffle=False, rank=rank, world_size=2, format="numpy") for rank in (0, 1)
    ]
    assert [rows.tolist() for rows in islice(ranks[0].forever(), 3)] == [[0]] * 3
    with pytest.raises(
        ValueError, match=r"forever\(\) needs a batch for this rank in each epoch \(got none for rank 1\)"
    ):
        ranks[1].forever()
    assert list(ranks[1]) == []


def test_ranks_without_rows_in_the_last_batch_stay_synchronized() -> None:
    first, second = (
        Loader(np.arange(9), batch_size=2, shuffle=False, rank=rank, world_size=2, format="numpy", seed=0)
        for rank in (0, 1)
    )
    assert (len(first), len(second)) == (3, 2)
    own = [rows.tolist() for rows in islice(first.forever(), 6)]
    other = [rows.tolist() for rows in islice(second.forever(), 4)]
    assert sorted(np.concatenate(own[:3] + other[:2])) == sorted(np.concatenate(own[3:] + other[2:])) == list(range(9))
    assert first.state_dict() == {**second.state_dict(), "rank": 0}


def test_a_closed_loader_has_no_batches() -> None:
    loader = make()
    batches = loader.forever()
    next(batches)
    loader.close()
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        loader.forever()


def test_missing_losses_warn_once() -> None:
    loader = Loader(np.arange(N), batch_size=6, classes=CLASSES, mixing=Learn2Mix(), seed=0, format="numpy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(islice(loader.forever(), 4 * STEPS))
    assert ["follows losses, and none was recorded" in str(warning.message) for warning in caught] == [True]
    quiet = make(mixing=Proportional())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(islice(quiet.forever(), 3 * STEPS))
