"""Loops that record the losses of a batch some batches late."""

from __future__ import annotations

import copy
import json
from collections import deque
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, Window, class_loss
from l2m_fast import run as run_module
from loader.ranks import on_ranks
from loader.small import window_sums

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])  # class 2 has no rows
INCLUDE: Any = ("rows", "step")
TOTAL = 24  # batches of a run, more than four epochs


def make(data: Any = None, **options: Any) -> Loader:
    usual: dict[str, Any] = {
        "batch_size": 6,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "include": INCLUDE,
        "steps_per_epoch": 5,
        "seed": 0,
        "format": "numpy",
        "num_threads": 0,
    }
    return Loader(np.arange(N) if data is None else data, **usual | options)


def losses_of(rows: Any) -> Any:
    """Return whole numbers, whose sums are exact in any order."""
    rows = np.asarray(rows)
    return (rows % 7 + 1.0) * (CLASSES[rows] + 1)


class Run:
    """Training loop over TOTAL batches that records the losses of each batch after `late` more were taken.

    Attributes:
        seen: Step, rows and proportions of each batch.
        states: Default state after each batch and its losses, and after each epoch.
    """

    def __init__(self, loader: Loader, late: int, as_recorded: Any = None) -> None:
        self.loader, self._late, self._as_recorded = loader, late, as_recorded or (lambda losses: losses)
        self.seen: list[tuple[int, list[int], list[float]]] = []
        self.states: list[dict[str, Any]] = []
        self._taken: deque[tuple[Any, int]] = deque()
        while not self.seen or self.seen[-1][0] < TOTAL - 1:
            self._epoch()

    def _epoch(self) -> None:
        for _, rows, step in self.loader:
            self.seen.append((step, np.asarray(rows).tolist(), self.loader.proportions.tolist()))
            self._taken.append((rows, step))
            self._record(self._late)
            self.states.append(json.loads(json.dumps(self.loader.state_dict())))
            if step == TOTAL - 1:
                return
        self._record(0)
        self.states.append(json.loads(json.dumps(self.loader.state_dict())))

    def _record(self, leave: int) -> None:
        while len(self._taken) > leave:
            rows, step = self._taken.popleft()
            self.loader.record(self._as_recorded(losses_of(rows)), step=step)

    def history(self) -> list[tuple[list[float], list[float], list[int]]]:
        """Return the records of all updates as plain values."""
        return [
            (
                record["proportions"].tolist(),
                np.nan_to_num(record["class_losses"], nan=-1).tolist(),
                record["counts"].tolist(),
            )
            for record in self.loader.history
        ]


# ---- the loop


@pytest.mark.parametrize(("every", "late"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 4), (7, 3), (None, 1), (None, 4)])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_losses_recorded_late_give_the_same_batches_as_losses_recorded_at_once(
    every: int | None, late: int, num_threads: int
) -> None:
    at_once = Run(make(update_every=every), 0)
    delayed = Run(make(update_every=every, lookahead=late, num_threads=num_threads), late)
    assert [rows for _, rows, _ in delayed.seen] == [rows for _, rows, _ in at_once.seen]
    assert delayed.history() == at_once.history()[: len(delayed.history())]
    assert len({tuple(proportions) for proportions, _, _ in delayed.history()}) >= 2
    assert delayed.loader.total_step == TOTAL


def test_a_window_closes_when_the_batch_lookahead_after_its_end_is_requested() -> None:
    """Windows of 4 batches end at 4, 8 and 12, and close when batch 6, 10 or 14 (counted from 0) is requested."""
    loader = make(update_every=4, lookahead=2, steps_per_epoch=100)
    closed, proportions = [], []
    for _, rows, step in islice(loader, 16):
        closed.append(len(loader.history))
        proportions.append(loader.proportions.tolist())
        loader.record(losses_of(rows), step=step)
    assert closed == [0] * 6 + [1] * 4 + [2] * 4 + [3] * 2
    # proportions are those of the next batch: window 0 takes effect from batch 8 on, window 1 from batch 12
    assert [p != q for p, q in pairwise(proportions)] == [t in (6, 10, 14) for t in range(15)]
    assert proportions[7] == loader.history[0]["proportions"].tolist()
    assert proportions[11] == loader.history[1]["proportions"].tolist()


def test_class_losses_of_a_late_window_are_means_over_exactly_its_batches() -> None:
    loader = make(update_every=2, lookahead=2, steps_per_epoch=100)
    batches = iter(loader)
    for value in (1.0, 3.0, 50.0, 70.0):
        _, rows, step = next(batches)
        loader.record(np.full(len(rows), value), step=step)
    assert loader.history == []
    next(batches)
    (record,) = loader.history
    assert record["counts"].sum() == 12
    total = (record["class_losses"] * record["counts"])[[0, 1, 3]].sum()
    assert total == 6 * 1.0 + 6 * 3.0
    assert record["total_step"] == 4


def test_a_policy_sees_the_rows_drawn_until_its_window_is_closed() -> None:
    class Noting(Learn2Mix):
        def update(self, window: Window) -> Any:
            windows.append(window)
            return super().update(window)

    windows: list[Window] = []
    loader = make(mixing=Noting(0.5), update_every=3, lookahead=2, steps_per_epoch=100)
    for _, rows, step in islice(loader, 9):
        loader.record(losses_of(rows), step=step)
    assert [window.step for window in windows] == [3, 6]
    assert [window.counts.sum() for window in windows] == [18, 18]
    assert [window.rows_drawn.sum() for window in windows] == [5 * 6, 8 * 6]


def test_losses_of_an_epoch_are_accepted_until_the_next_epoch_begins() -> None:
    loader = make(lookahead=3)
    assert len(list(loader)) == 5
    assert loader.history == []
    for step in (4, 2, 3):
        loader.record([7.0], [0], step=step)
    batches = iter(loader)
    assert loader.history == []
    next(batches)
    assert [record["counts"].tolist() for record in loader.history] == [[3, 0, 0, 0]]
    assert loader.class_losses[0] == 7
    with pytest.raises(RuntimeError, match="the window of step 4 is closed"):
        loader.record([1.0], [0], step=4)


# ---- record(step=)


def test_losses_without_classes_take_the_classes_of_their_batch() -> None:
    loader = make(update_every=4, lookahead=3)
    rows_of = [rows for _, rows, _ in islice(loader, 4)]
    for step in (2, 0, 3, 1):
        before = np.array(loader.state_dict(step=3)["window_counts"][0])
        loader.record(losses_of(rows_of[step]), step=step)
        added = np.array(loader.state_dict(step=3)["window_counts"][0]) - before
        assert added.tolist() == np.bincount(CLASSES[rows_of[step]], minlength=4).tolist()
    with pytest.raises(ValueError, match=r"each of the 6 rows of the batch \(got 5\)"):
        loader.record(np.ones(5), step=1)


def test_by_default_losses_belong_to_the_last_batch() -> None:
    by_default, named = (make(update_every=2, lookahead=2) for _ in range(2))
    for (_, rows, step), _ in zip(islice(by_default, 4), named, strict=False):
        by_default.record(losses_of(rows))
        named.record(losses_of(rows), step=step)
        assert by_default.state_dict() == named.state_dict()


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (4, RuntimeError, r"one of the last 3 batches yielded .* \(got 4, and 8 were yielded in all\)"),
        (0, RuntimeError, "one of the last 3 batches"),
        (8, RuntimeError, "one of the last 3 batches"),
        (2**53, RuntimeError, "one of the last 3 batches"),
        (-1, ValueError, r"step must be an int in \[0, 9007199254740992\] \(got -1\)"),
        (2**64, ValueError, "step must be an int"),
        (True, TypeError, r"step must be an int .* \(got True\)"),
        (7.0, TypeError, r"step must be an int .* \(got 7.0\)"),
        (np.float64(7), TypeError, "step must be an int"),
        ("7", TypeError, "step must be an int"),
        (np.array(7), TypeError, "step must be an int"),
        ([7], TypeError, "step must be an int"),
    ],
)
@pytest.mark.parametrize("kind", ["losses", "losses of classes", "ClassLoss"])
def test_a_step_that_accepts_no_losses_is_refused_and_nothing_is_added(
    step: Any, error: type[Exception], message: str, kind: str
) -> None:
    loader = make(update_every=2, lookahead=2, steps_per_epoch=100)
    for _ in islice(loader, 8):
        loader.record([1.0], [0])
    before = loader.state_dict(step=7)
    losses: Any = class_loss(np.ones(2), [0, 1], 4) if kind == "ClassLoss" else np.ones(6)
    classes = np.zeros(6, np.int64) if kind == "losses of classes" else None
    with pytest.raises(error, match=message) as raised:
        loader.record(losses, classes, step=step)
    assert raised.type is error
    assert loader.state_dict(step=7) == before
    loader.record(losses, classes, step=6)
    assert loader.state_dict(step=7) != before


def test_losses_are_too_late_for_a_window_that_closed_before_a_batch_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    from_numpy, fails = torch.from_numpy, [False]

    def failing(array: Any) -> Any:
        if fails[0]:
            raise MemoryError
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", failing)
    loader = make(data=torch.arange(N), update_every=2, lookahead=1, format="torch")
    batches = iter(loader)
    for _ in range(3):
        next(batches)
        loader.record([2.0], [0])
    fails[0] = True
    with pytest.raises(MemoryError):
        next(batches)
    with pytest.raises(RuntimeError, match="the window of step 1 is closed: its losses come too late"):
        loader.record([1.0], [0], step=1)
    loader.record([4.0], [0], step=2)
    assert window_sums(loader.state_dict()) == [[6, 0, 0, 0]]


@pytest.mark.parametrize("convert", [int, np.int64, np.uint8, np.int32])
def test_a_step_may_be_a_numpy_integer(convert: Any) -> None:
    loader = make(lookahead=2)
    next(iter(loader))
    loader.record([2.0], [0], step=convert(0))
    assert window_sums(loader.state_dict(step=convert(0))) == [[2, 0, 0, 0]]


def test_steps_of_a_loaded_state_accept_no_losses_before_a_batch_is_yielded() -> None:
    loader = make(update_every=3, lookahead=3)
    list(islice(loader, 3))
    resumed = make(update_every=3, lookahead=3)
    resumed.load_state_dict(loader.state_dict(step=1))
    for step in (0, 1, 2):
        with pytest.raises(RuntimeError, match="one of the last 4 batches yielded"):
            resumed.record([1.0], [0], step=step)
    next(iter(resumed))
    resumed.record([1.0], [0], step=2)


# ---- state_dict(step=)


def test_a_state_is_available_for_the_last_lookahead_batches() -> None:
    loader = make(update_every=4, lookahead=2)
    list(islice(loader, 4))
    for step in (1, 2, 3):
        assert loader.state_dict(step=step)["total_step"] == step + 1
    for step in (0, 4, 2**53):
        with pytest.raises(ValueError, match=rf"step must be in \[1, 3\].*\(got {step}\)"):
            loader.state_dict(step=step)
    wrong: list[tuple[Any, type[Exception]]] = [
        (-1, ValueError),
        (2**64, ValueError),
        (True, TypeError),
        (3.0, TypeError),
        ("3", TypeError),
    ]
    for step, error in wrong:
        with pytest.raises(error, match="step must be"):
            loader.state_dict(step=step)


def test_without_lookahead_only_the_state_after_the_last_batch_is_available() -> None:
    loader = make()
    list(islice(loader, 3))
    assert loader.state_dict(step=2) == loader.state_dict()
    for step in (1, 3):
        with pytest.raises(ValueError, match=rf"step must be in \[2, 2\].*\(got {step}\)"):
            loader.state_dict(step=step)


@pytest.mark.parametrize(("every", "late"), [(1, 1), (2, 2), (3, 1), (4, 4), (7, 3), (None, 1), (None, 3)])
def test_the_default_state_of_a_late_loop_repeats_the_rest(every: int | None, late: int) -> None:
    whole = Run(make(update_every=every, lookahead=late), late)
    assert len(whole.states) >= TOTAL
    for state in whole.states:
        start = state["total_step"]
        if start == TOTAL:
            continue
        resumed = make(update_every=every, lookahead=late, seed=99)
        resumed.load_state_dict(state)
        rest = Run(resumed, late)
        assert [batch[:2] for batch in rest.seen] == [batch[:2] for batch in whole.seen[start:]]
        assert rest.history() == whole.history()[len(whole.history()) - len(rest.history()) :]
        assert resumed.proportions.tolist() == whole.loader.proportions.tolist()


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(("every", "late"), [(3, 2), (None, 2)])
def test_the_states_of_several_ranks_in_a_late_loop_resume_on_other_ranks(
    every: int | None, late: int, after: int
) -> None:
    options: dict[str, Any] = {"update_every": every, "lookahead": late}

    def ranks_of(world_size: int, states: Any = None) -> list[Run]:
        def work(rank: int, all_reduce: Any) -> Run:
            loader = make(
                batch_size=6 // world_size, rank=rank, world_size=world_size, all_reduce=all_reduce, **options
            )
            if states is not None:
                loader.load_state_dict(states)
            return Run(loader, late)

        return on_ranks(world_size, work)

    before = ranks_of(2)
    whole = Run(make(**options), late)
    assert before[0].history() == before[1].history() == whole.history()
    for index in range(0, len(before[0].states), 2):
        states = [run.states[index] for run in before]
        start = states[0]["total_step"]
        if start == TOTAL:
            continue
        parts = [run.seen for run in ranks_of(after, states)]
        for expected, *of_ranks in zip(whole.seen[start:], *parts, strict=True):
            assert [step for step, _, _ in of_ranks] == [expected[0]] * after
            assert sorted(chain.from_iterable(rows for _, rows, _ in of_ranks)) == sorted(expected[1])


def test_a_deep_copy_continues_after_the_last_batch_taken() -> None:
    loader = make(update_every=4, lookahead=3)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    loader.record([1.0], [0], step=1)
    copied = copy.deepcopy(loader)
    assert (copied.total_step, copied.step, loader.state_dict()["total_step"]) == (4, 4, 2)
    assert copied.state_dict() == loader.state_dict(step=3)
    assert [rows.tolist() for rows, _, _ in copied] == [rows.tolist() for rows, _, _ in batches]


# ---- arguments, and losses that are elsewhere


@pytest.mark.parametrize(
    ("every", "lookahead", "error"),
    [(2, 3, ValueError), (1, 2, ValueError), (None, -1, ValueError), (3, -1, ValueError), (None, 2**17, ValueError)]
    + [(3, value, TypeError) for value in (True, 1.0, "1", None)],
)
def test_a_lookahead_out_of_range_is_refused(every: int | None, lookahead: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="lookahead must be an int in"):
        make(update_every=every, lookahead=lookahead)


def test_a_state_of_another_lookahead_is_refused() -> None:
    with pytest.raises(ValueError, match="lookahead"):
        make(update_every=3, lookahead=1).load_state_dict(make(update_every=3, lookahead=2).state_dict())


@pytest.mark.parametrize(("every", "late"), [(2, 1), (3, 3), (7, 2), (None, 2)])
def test_losses_on_a_device_may_be_recorded_late(monkeypatch: pytest.MonkeyPatch, every: int | None, late: int) -> None:
    expected = Run(make(update_every=every, lookahead=late), late)
    monkeypatch.setattr(run_module, "is_on_device", lambda losses: isinstance(losses, torch.Tensor))
    on_device = Run(make(update_every=every, lookahead=late), late, torch.from_numpy)
    assert on_device.seen == expected.seen
    assert on_device.states == expected.states
    assert on_device.history() == expected.history()
