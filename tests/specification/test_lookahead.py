"""Windows, states and iterators of the oracle, if losses may be recorded some batches late."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracle import Floats, GroupDRO, Ints, Learn2Mix, OracleLoader, Proportional, Window
from oracle.losses import LARGEST_LOSS

BATCH = 128  # the quota of class 0 is 64 + the number of updates that have taken effect
CLASSES = np.arange(2 * BATCH) % 2


@dataclass
class Counting:
    """Policy that keeps its windows; the quota of class 0 in a batch of 128 grows by one with every update."""

    schedule: bool = False
    windows: list[Window] = field(default_factory=list)

    def initial(self, _class_sizes: Ints, /) -> list[float]:
        return [0.5, 0.5]

    def update(self, window: Window, /) -> Floats:
        self.windows.append(window)
        first, second = window.proportions
        return np.array([first + 2.0**-7, second - 2.0**-7])

    @property
    def class_losses(self) -> list[float]:
        """Losses of class 0."""
        return [float(window.class_losses[0]) for window in self.windows]


@dataclass
class Remembering:
    """Policy that sums losses in its memory, with proportions that depend on them and on the step."""

    schedule: bool = False
    memory_rows: int = 2

    def initial(self, class_sizes: Ints, /) -> Floats:
        return np.asarray(class_sizes / class_sizes.sum())

    def update(self, window: Window, /) -> tuple[Floats, Floats]:
        memory = window.memory + np.array([window.class_losses, window.counts + window.step])
        proportions = memory[0] + 0.1 * memory[1] + 1
        return proportions / proportions.sum(), memory


def make(mixing: Any, **options: Any) -> OracleLoader:
    return OracleLoader(2 * BATCH, batch_size=BATCH, classes=CLASSES, mixing=mixing, **options)


def advance(batches: Iterator[Any], count: int = 1) -> None:
    for _ in range(count):
        next(batches)


# ---- When windows close


@pytest.mark.parametrize(
    ("every", "lookahead", "closing"),  # batches below 10 whose request closes a window
    [
        (1, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (1, 1, [2, 3, 4, 5, 6, 7, 8, 9]),
        (2, 1, [3, 5, 7, 9]),
        (3, 0, [3, 6, 9]),
        (3, 1, [4, 7]),
        (3, 2, [5, 8]),
        (3, 3, [6, 9]),
        (4, 4, [8]),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [10, 4, 1])
def test_a_window_closes_lookahead_batches_after_its_end_and_takes_effect_from_the_window_after_the_next(
    every: int, lookahead: int, closing: list[int], steps_per_epoch: int
) -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, update_every=every, lookahead=lookahead, steps_per_epoch=steps_per_epoch)
    batches = loader.forever()
    for t in range(10):
        next(batches)
        assert len(mixing.windows) == loader.state_dict()["windows"] == sum(batch <= t for batch in closing)
        assert loader.quotas[0] == 64 + max(t // every - 1, 0)
    assert [window.step for window in mixing.windows] == [batch - lookahead for batch in closing]


def test_proportions_change_between_batches_unless_the_window_closes_as_late_as_possible() -> None:
    for lookahead, in_force in ((0, 1), (1, 1), (2, 0)):
        loader = make(Counting(schedule=True), update_every=2, lookahead=lookahead, steps_per_epoch=9)
        batches = iter(loader)
        advance(batches, 4)
        assert loader.proportions[0] == 0.5 + in_force / 128
        next(batches)
        assert loader.proportions[0] == 0.5 + 1 / 128


@pytest.mark.parametrize(
    ("lookahead", "at_the_end", "at_the_next_batch"),  # windows closed at StopIteration and when the next epoch begins
    [(0, 1, 1), (1, 0, 1), (7, 0, 1)],
)
def test_an_epochs_window_closes_at_its_end_or_with_lookahead_when_the_next_begins(
    lookahead: int, at_the_end: int, at_the_next_batch: int
) -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=lookahead, steps_per_epoch=3)
    assert len(list(loader)) == 3
    assert (len(mixing.windows), loader.epoch, loader.step) == (at_the_end, 1, 0)
    iter(loader)
    assert len(mixing.windows) == at_the_end
    next(iter(loader))
    assert (len(mixing.windows), loader.epoch, loader.step) == (at_the_next_batch, 1, 1)
    assert loader.quotas[0] == 65
    assert mixing.windows[0].step == 3


def test_the_first_epoch_closes_no_window_before_itself() -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=1, steps_per_epoch=3)
    loader.set_epoch(5)
    loader.record([1.0], [0])
    next(iter(loader))
    assert mixing.windows == []


@pytest.mark.parametrize(("every", "lookahead"), [(3, 4), (1, 2), (None, -1), (2, -1)])
def test_a_lookahead_beyond_a_window_is_refused(every: int | None, lookahead: int) -> None:
    with pytest.raises(ValueError, match="lookahead must be"):
        make(Counting(), update_every=every, lookahead=lookahead)


# ---- Which losses count


def test_losses_count_for_the_window_of_their_batch_until_it_closes() -> None:
    mixing = Counting()
    loader = make(mixing, update_every=2, lookahead=2, steps_per_epoch=20)
    batches = iter(loader)
    advance(batches, 3)
    loader.record([1.0], [0], step=0)
    next(batches)
    loader.record([4.0], [0], step=2)
    loader.record([2.0], [0], step=1)
    assert loader.class_losses == [None, None]
    next(batches)  # batch 4
    assert mixing.class_losses == [1.5]
    with pytest.raises(RuntimeError, match=r"step must be one of \[2, 3, 4\].*\(got 1\)"):
        loader.record([9.0], [0], step=1)
    loader.record([6.0], [0], step=3)
    advance(batches, 2)
    assert mixing.class_losses == [1.5, 5.0]


@pytest.mark.parametrize("step", [-1, 0, 4, 5])
def test_only_the_last_batches_accept_losses(step: int) -> None:
    loader = make(Counting(), update_every=3, lookahead=2, steps_per_epoch=20)
    list(islice(loader, 4))
    with pytest.raises(RuntimeError, match=r"step must be one of \[1, 2, 3\]"):
        loader.record([1.0], [0], step=step)
    for allowed in (1, 2, 3):
        loader.record([1.0], [0], step=allowed)


def test_losses_of_an_epoch_are_refused_once_the_next_has_begun() -> None:
    loader = make(Counting(), lookahead=3, steps_per_epoch=3)
    list(loader)
    loader.record([1.0], [0], step=1)
    next(iter(loader))
    with pytest.raises(RuntimeError, match=r"step must be one of \[3\]"):
        loader.record([1.0], [0], step=2)
    loader.record([5.0], [0], step=3)
    assert loader.class_losses == [1.0, None]


def test_without_lookahead_the_last_batch_may_be_named_while_its_window_is_open() -> None:
    loader = make(Counting(), steps_per_epoch=2)
    for step, _ in enumerate(loader):
        loader.record([1.0], [0], step=step)
    with pytest.raises(RuntimeError, match=r"step must be one of \[\]"):
        loader.record([1.0], [0], step=1)


def test_losses_without_classes_are_of_the_rows_of_their_batch() -> None:
    loader = OracleLoader(4, batch_size=1, classes=np.arange(4), mixing=Learn2Mix(), lookahead=2)
    with pytest.raises(RuntimeError, match="needs a batch"):
        loader.record([1.0])
    batches = iter(loader)
    classes = [int(next(batches)[1][0]) for _ in range(3)]
    for step in (1, 0, 2):
        loader.record([10.0 + step], step=step)
    sums = loader.state_dict()["window_sums"][0]
    assert [sums[k] for k in classes] == [[10.0], [11.0], [12.0]]
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="needs a batch"):
        loader.record([1.0])


def test_losses_recorded_before_any_batch_or_after_loading_belong_to_the_batch_before() -> None:
    loader = make(Counting(), update_every=2, lookahead=2, steps_per_epoch=20)
    loader.record([1.0], [0])
    assert loader.state_dict()["window_sums"] == [[[1.0], []]]
    list(islice(loader, 3))
    loader.load_state_dict(loader.state_dict(step=1))
    loader.record([2.0], [0])
    assert loader.state_dict()["window_sums"] == [[[3.0], []]]
    advance(iter(loader), 2)
    assert loader.state_dict(step=2)["window_sums"] == [[[3.0], []], [[], []]]


def test_sums_do_not_depend_on_when_the_losses_of_a_batch_come() -> None:
    losses = [[0.1, 0.2], [0.3, 1e20], [0.5, 0.6], [0.7, -1e20]]

    def summed(lookahead: int, recorded_after: dict[int, list[int]]) -> float:
        loader = make(Counting(), update_every=4, lookahead=lookahead, steps_per_epoch=20)
        for t, _ in enumerate(islice(loader, 4)):
            for step in recorded_after.get(t, ()):
                loader.record(losses[step], [0, 0], step=step)
        return math.fsum(loader.state_dict(step=3)["window_sums"][0][0])

    exact = math.fsum([0.1, 0.2, 0.3, 0.5, 0.6, 0.7])
    assert summed(0, {t: [t] for t in range(4)}) == exact
    assert summed(3, {t: [t] for t in range(4)}) == exact
    assert summed(3, {3: [2, 0, 3, 1]}) == exact
    assert summed(3, {1: [1, 0], 3: [3, 2]}) == exact


def test_losses_beyond_the_largest_float32_are_skipped() -> None:
    loader = make(Counting(), update_every=4, lookahead=2, steps_per_epoch=20)
    next(iter(loader))
    loader.record([LARGEST_LOSS, -LARGEST_LOSS, 1.001 * LARGEST_LOSS, -1e39], [0, 0, 1, 1])
    assert loader.state_dict()["window_sums"] == [[[], []]]
    assert loader.state_dict()["window_counts"] == [[2, 0]]


# ---- update()


@pytest.mark.parametrize("lookahead", [0, 2])
def test_an_epoch_whose_window_update_closed_is_not_closed_again(lookahead: int) -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=lookahead, steps_per_epoch=4)
    batches = iter(loader)
    advance(batches, 2)
    assert loader.state_dict(step=1)["updated"] is False
    loader.update()
    assert [window.step for window in mixing.windows] == [2]
    assert loader.state_dict()["updated"] is True
    advance(batches, 2)
    assert loader.quotas[0] == 64
    assert next(batches, None) is None
    assert loader.state_dict()["updated"] is (lookahead > 0)
    next(iter(loader))
    assert [window.step for window in mixing.windows] == [2]
    assert loader.quotas[0] == 65
    assert loader.state_dict()["updated"] is False
    list(loader)
    next(iter(loader))
    assert [window.step for window in mixing.windows] == [2, 5, 9], "the unfinished epoch, and a whole one"


@pytest.mark.parametrize("lookahead", [0, 2])
def test_losses_recorded_after_update_belong_to_the_next_window(lookahead: int) -> None:
    mixing = Counting()
    loader = make(mixing, lookahead=lookahead, steps_per_epoch=2)
    batches = iter(loader)
    next(batches)
    loader.record([1.0], [0])
    loader.update()
    loader.record([3.0], [0], step=0)
    next(batches)
    loader.record([3.0], [0])
    assert next(batches, None) is None
    assert len(list(loader)) == 2
    loader.record([6.0], [0])
    next(iter(loader))
    assert mixing.class_losses == ([1.0, 3.0] if lookahead == 0 else [1.0, 4.0])


def test_update_after_an_epoch_closes_its_open_window_or_else_a_new_one() -> None:
    for lookahead, steps, flag in ((0, [3, 3, 6], False), (1, [3, 6], True)):
        mixing = Counting(schedule=True)
        loader = make(mixing, lookahead=lookahead, steps_per_epoch=3)
        list(loader)
        loader.update()
        assert loader.state_dict()["updated"] is flag
        assert len(list(loader)) == 3
        assert loader.quotas[0] == (66 if lookahead == 0 else 65)
        next(iter(loader))
        assert [window.step for window in mixing.windows] == steps


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_restored_run_knows_that_update_closed_the_window(lookahead: int) -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=lookahead, steps_per_epoch=3)
    next(iter(loader))
    loader.update()
    loader.load_state_dict(loader.state_dict())
    assert len(list(loader)) == 2
    next(iter(loader))
    assert len(mixing.windows) == 1


# ---- Policies


def test_a_schedule_is_updated_at_the_end_of_every_window_and_reduces_nothing() -> None:
    def all_reduce(_: Floats) -> None:
        raise AssertionError

    for world_size in (1, 2):
        mixing = Counting(schedule=True)
        loader = OracleLoader(
            3 * world_size, batch_size=1, classes=np.arange(3 * world_size) % 2, mixing=mixing, world_size=world_size,
            all_reduce=all_reduce, total_steps=9,
        )  # fmt: skip
        for epoch in range(3):
            for rows, _ in loader:
                if epoch > 0:
                    loader.record([float(epoch)], [1 - int(rows[0]) % 2])
        assert [(window.step, window.total_steps) for window in mixing.windows] == [(3, 9), (6, 9), (9, 9)]
        assert mixing.windows[0].class_losses.tolist() == [0.0, 0.0]
        assert mixing.windows[0].counts.tolist() == [0, 0]
        # Nothing is reduced: on several ranks it sees no losses, or each would see others.
        assert mixing.windows[2].counts.sum() == (3 if world_size == 1 else 0)
        assert mixing.windows[2].class_losses.tolist() == ([2.0, 2.0] if world_size == 1 else [0.0, 0.0])


def test_a_policy_sees_the_run_as_of_the_request_that_closes_the_window() -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, update_every=2, lookahead=2, steps_per_epoch=3)
    drawn = np.zeros(2, np.int64)
    as_of: list[tuple[list[int], list[int]]] = []
    for _ in range(2):
        for _ in loader:
            drawn += loader.quotas
            as_of.append((drawn.tolist(), loader.state_dict(step=len(as_of))["passes"]))
        loader.set_epoch(7)
    next(iter(loader))
    seen = [(window.rows_drawn.tolist(), window.passes.tolist()) for window in mixing.windows]
    assert [rows for rows, _ in seen] == [as_of[3][0], as_of[5][0]]
    assert [passes for _, passes in seen] == [as_of[3][1], [7, 7]]


def test_a_policy_sees_passes_restarted_before_the_window_closes() -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, update_every=2, steps_per_epoch=2)
    list(loader)
    loader.set_epoch(7)
    assert loader.state_dict()["passes"] == [7, 7]
    next(iter(loader))
    assert mixing.windows[0].passes.tolist() == [7, 7]


def test_counts_are_of_the_losses_in_the_window_over_all_ranks() -> None:
    mixing = Counting()
    loader = make(mixing, update_every=2, steps_per_epoch=9, world_size=2, all_reduce=lambda sums: sums * 2)
    batches = iter(loader)
    for count in (3, 1):
        next(batches)
        loader.record([1.0] * count + [np.nan], [1] * count + [0])
    next(batches)
    assert mixing.windows[0].counts.tolist() == [0, 8]
    assert mixing.windows[0].class_losses.tolist() == [1.0, 1.0]


def test_a_fixed_policy_closes_windows_too() -> None:
    loader = make(Proportional(), update_every=2, lookahead=1, steps_per_epoch=9)
    for t, _ in enumerate(islice(loader, 4)):
        loader.record([float(t)], [0])
    assert loader.class_losses == [0.5, None]
    assert loader.history == []


def test_memory_is_what_the_last_update_returned_and_in_the_state() -> None:
    loader = make(Remembering(), update_every=1, steps_per_epoch=9)
    assert loader.state_dict()["memory"] == [0.0, 0.0, 0.0, 0.0]
    for _ in islice(loader, 3):
        loader.record([1.0, 3.0, 3.0], [0, 1, 1])
    assert loader.state_dict()["memory"] == [2.0, 6.0, 1.0 + 1 + 1 + 2, 2.0 + 1 + 2 + 2]
    restored = make(Remembering(), update_every=1, steps_per_epoch=9)
    restored.load_state_dict(loader.state_dict())
    assert restored.state_dict() == loader.state_dict()


@pytest.mark.parametrize("memory", [[[1.0, 2.0]], [1.0, 2.0], [[np.nan, 0.0], [0.0, 0.0]]])
def test_memory_of_another_shape_or_not_finite_is_refused(memory: list[Any]) -> None:
    class Wrong(Remembering):
        def update(self, window: Window, /) -> tuple[Floats, Any]:
            return window.proportions, memory

    loader = make(Wrong(schedule=True))
    with pytest.raises(ValueError, match=r"memory must be finite and of shape \(2, 2\)"):
        loader.update()


# ---- States


def allowed(loader: OracleLoader) -> list[int]:
    """Return the numbers of batches after which `state_dict()` describes the run."""
    numbers = []
    for number in range(-2, 40):
        try:
            numbers.append(int(loader.state_dict(step=number - 1)["total_step"]))
        except ValueError:
            continue
        assert numbers[-1] == number
    return numbers


def test_a_state_describes_the_run_after_one_of_the_last_batches() -> None:
    loader = make(Counting(), update_every=3, lookahead=2, steps_per_epoch=20)
    assert allowed(loader) == [0]
    batches = iter(loader)
    for expected in ([0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]):
        next(batches)
        assert allowed(loader) == expected
    loader.load_state_dict(loader.state_dict(step=2))
    assert allowed(loader) == [3]
    with pytest.raises(ValueError, match=r"step must be in \[2, 2\] \(got 1\)"):
        loader.state_dict(step=1)


def test_without_lookahead_a_state_describes_the_run_now() -> None:
    loader = make(Counting(), update_every=3, steps_per_epoch=20)
    list(islice(loader, 4))
    assert allowed(loader) == [4]


def test_a_state_does_not_go_back_before_restarted_passes() -> None:
    loader = make(Counting(), update_every=5, lookahead=5, steps_per_epoch=3)
    list(loader)
    assert allowed(loader) == [0, 1, 2, 3]
    loader.set_epoch(1)
    assert allowed(loader) == [0, 1, 2, 3]
    loader.set_epoch(4)
    assert allowed(loader) == [3]
    next(iter(loader))
    assert allowed(loader) == [3, 4]


def test_a_state_does_not_go_back_before_the_closed_window_of_an_epoch() -> None:
    loader = make(Counting(), lookahead=5, steps_per_epoch=2)
    batches = iter(loader)
    next(batches)
    list(batches)
    assert allowed(loader) == [0, 1, 2]
    next(iter(loader))
    assert allowed(loader) == [2, 3]
    loader.update()
    assert allowed(loader) == [3]
    list(loader)
    assert allowed(loader) == [3, 4, 5]


def test_by_default_a_state_is_just_after_the_last_batch_with_losses() -> None:
    loader = make(Counting(), update_every=4, lookahead=3, steps_per_epoch=20)
    batches = iter(loader)
    assert loader.state_dict()["total_step"] == 0
    for recorded, expected in [(None, 0), (None, 0), (1, 2), (0, 2), (None, 2), (None, 3), (6, 7), (4, 7)]:
        next(batches)
        if recorded is not None:
            loader.record([1.0], [0], step=recorded)
        assert loader.state_dict()["total_step"] == expected
    loader.load_state_dict(loader.state_dict())
    advance(iter(loader), 2)
    assert loader.state_dict()["total_step"] == 7


def test_a_state_holds_the_losses_of_its_batches_in_one_or_two_windows() -> None:
    loader = make(Counting(), update_every=2, lookahead=2, steps_per_epoch=20)
    batches = iter(loader)

    def sums(step: int) -> tuple[int, list[list[float]], list[list[int]]]:
        state = loader.state_dict(step=step)
        sums = [[math.fsum(terms) for terms in window] for window in state["window_sums"]]
        return state["windows"], sums, state["window_counts"]

    for t in range(4):
        next(batches)
        loader.record([2.0**t, 0.5], [0, 1])
    assert sums(1) == (0, [[3.0, 1.0]], [[2, 2]])
    assert sums(2) == (0, [[3.0, 1.0], [4.0, 0.5]], [[2, 2], [1, 1]])
    assert sums(3) == (0, [[3.0, 1.0], [12.0, 1.0]], [[2, 2], [2, 2]])
    next(batches)
    assert sums(2) == (1, [[4.0, 0.5]], [[1, 1]])
    assert sums(3) == (1, [[12.0, 1.0]], [[2, 2]])
    assert sums(4) == (1, [[12.0, 1.0], [0.0, 0.0]], [[2, 2], [0, 0]])


def test_a_state_contains_the_epoch_and_step_of_its_next_batch() -> None:
    loader = make(Counting(), update_every=9, lookahead=5, steps_per_epoch=2)

    def places() -> list[tuple[int, int, int | None]]:
        states = [loader.state_dict(step=number - 1) for number in allowed(loader)]
        return [(state["epoch"], state["step"], state["next_epoch"]) for state in states]

    batches = iter(loader)
    advance(batches, 2)
    assert places() == [(0, 0, None), (0, 1, None), (0, 2, None)]
    assert next(batches, None) is None
    assert places() == [(0, 0, None), (0, 1, None), (1, 0, None)]
    next(iter(loader))
    assert places() == [(0, 0, None), (0, 1, None), (1, 0, None), (1, 1, None)]
    loader.set_epoch(7)
    assert places() == [(0, 0, None), (0, 1, None), (1, 0, 7), (1, 1, 7)]
    next(iter(loader))
    assert places() == [(7, 0, None), (7, 1, None)]


def test_in_a_state_an_epoch_with_an_open_window_has_not_ended() -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=1, steps_per_epoch=2)
    batches = iter(loader)
    advance(batches, 2)
    before = loader.state_dict(step=1)
    assert next(batches, None) is None
    state = loader.state_dict(step=1)
    assert state == before
    assert (state["epoch"], state["step"], loader.epoch, loader.step) == (0, 2, 1, 0)
    loader.load_state_dict(state)
    assert (loader.epoch, loader.step) == (1, 0)
    next(iter(loader))
    assert len(mixing.windows) == 1
    begun = loader.state_dict(step=1)
    assert (begun["epoch"], begun["step"], begun["total_step"]) == (1, 0, 2)
    loader.load_state_dict(begun)
    next(iter(loader))
    assert len(mixing.windows) == 1
    assert loader.quotas[0] == 65


@pytest.mark.parametrize("set_before_the_end", [True, False])
def test_set_epoch_leaves_the_window_of_an_epoch_that_ended_open(set_before_the_end: bool) -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=1, steps_per_epoch=2)
    batches = iter(loader)
    advance(batches, 2)
    if set_before_the_end:
        loader.set_epoch(7)
    assert next(batches, None) is None
    if not set_before_the_end:
        loader.set_epoch(7)
    assert (mixing.windows, loader.epoch, loader.step) == ([], 7, 0)
    state = loader.state_dict(step=1)
    assert (state["epoch"], state["step"], state["next_epoch"]) == (0, 2, 7)
    loader.load_state_dict(state)
    next(iter(loader))
    assert (len(mixing.windows), loader.epoch, loader.step) == (1, 7, 1)
    assert mixing.windows[0].passes.tolist() == [0, 0]
    assert loader.state_dict(step=1)["passes"] == loader.state_dict(step=2)["passes"] == [7, 7]


def test_set_epoch_leaves_a_restored_epoch_and_its_window_open() -> None:
    mixing = Counting(schedule=True)
    loader = make(mixing, lookahead=1, steps_per_epoch=3)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict(step=0))
    loader.set_epoch(7)
    assert (mixing.windows, loader.epoch, loader.step) == ([], 7, 0)
    assert len(list(loader)) == 3
    assert [window.step for window in mixing.windows] == [1]


# ---- Iterators


def test_an_exhausted_iterator_stays_exhausted() -> None:
    loader = make(Counting(), steps_per_epoch=2)
    first = iter(loader)
    assert len(list(first)) == 2
    next(iter(loader))
    assert next(first, None) is None


def test_forever_runs_through_epochs() -> None:
    options: dict[str, Any] = {"batch_size": 7, "classes": np.arange(30) % 3, "mixing": Learn2Mix(0.5)}
    by_epochs, endless = OracleLoader(30, **options), OracleLoader(30, **options)
    batches = endless.forever()
    for _ in range(3):
        for rows, _ in by_epochs:
            same, _ = next(batches)
            assert rows.tolist() == same.tolist()
            assert endless.state_dict() == by_epochs.state_dict()
            for loader in (by_epochs, endless):
                loader.record(rows / 7.0)
    assert len(by_epochs.history) == 3
    assert len(endless.history) == 2


def test_forever_resumes_a_restored_epoch_and_ends_for_a_newer_iterator() -> None:
    loader = make(Counting(), steps_per_epoch=3)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    batches, newer = loader.forever(), iter(loader)
    advance(batches, 2)
    assert (loader.epoch, loader.step) == (0, 3)
    next(batches)
    assert (loader.epoch, loader.step) == (1, 1)
    next(newer)
    assert (loader.epoch, loader.step) == (2, 1)
    with pytest.raises(RuntimeError, match="ended this iterator"):
        next(batches)


def test_forever_with_lookahead_needs_update_every() -> None:
    with pytest.raises(ValueError, match="needs update_every"):
        make(Counting(), lookahead=1).forever()
    next(make(Counting(), update_every=1, lookahead=1).forever())


def test_forever_refuses_to_search_for_a_batch_without_end() -> None:
    with pytest.raises(ValueError, match="needs rows for each of 2 ranks"):
        OracleLoader(1, batch_size=1, mixing=Proportional(), shuffle=False, rank=1, world_size=2).forever()


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_in_dataset_order_ranks_without_rows_in_the_last_batch_count_it_at_once(lookahead: int) -> None:
    options: dict[str, Any] = {"batch_size": 2, "mixing": Proportional(), "shuffle": False, "world_size": 2}
    first, second = (OracleLoader(9, rank=rank, lookahead=lookahead, **options) for rank in (0, 1))
    for own, other in ((iter(first), iter(second)), (iter(first), iter(second))):
        assert [len(next(own)[0]) for _ in range(3)] == [2, 2, 1]
        assert [len(next(other)[0]) for _ in range(2)] == [2, 2]
        assert second.state_dict(step=first.state_dict()["total_step"] - 1) == {**first.state_dict(), "rank": 1}
        second.record([1.0, 1.0])
        first.record([1.0])
    assert second.step == second.state_dict()["step"] == 3
    assert allowed(second) == allowed(first)


def test_a_state_before_a_batch_without_rows_for_this_rank_resumes_with_the_next_epoch() -> None:
    loader = OracleLoader(
        9, batch_size=2, mixing=Proportional(), shuffle=False, world_size=2, rank=1, update_every=2, lookahead=2
    )
    list(islice(loader, 2))
    state = loader.state_dict(step=1)
    assert (state["epoch"], state["step"]) == (0, 2)
    loader.load_state_dict(state)
    assert list(loader) == []
    assert (loader.epoch, loader.step, allowed(loader)) == (1, 0, [2, 3])


# ---- Restoring at every allowed step
LONG_TAIL = np.random.default_rng(0).choice(3, 23, p=[0.6, 0.3, 0.1])
TOTAL = 12  # batches of a run


@dataclass(frozen=True)
class Late:
    """Losses of a batch that are recorded `delay` batches later."""

    batch: int
    delay: int
    seed: int

    @property
    def consumed(self) -> int:
        """Batches consumed when they are recorded."""
        return self.batch + self.delay + 1


@dataclass
class Script:
    """Schedule of calls in a run, by the number of batches consumed, just after the batch or between two epochs."""

    options: dict[str, Any]
    losses: list[Late]
    after_batch: dict[int, str | int]
    between_epochs: dict[int, str | int]

    def make(self, **options: Any) -> OracleLoader:
        options = {**self.options, **options}
        mixing, world_size = options.pop("mixing"), options["world_size"]
        return OracleLoader(
            23, classes=LONG_TAIL, mixing=mixing(), all_reduce=lambda sums: sums * world_size, **options
        )


@dataclass
class Point:
    """Point of a run after a batch, or between two epochs."""

    consumed: int
    between_epochs: bool
    batch: list[Any]
    refused: list[Late]
    class_losses: list[float | None]
    history: list[Any]
    states: dict[int, Any]


def run(loader: OracleLoader, script: Script) -> list[Point]:
    """Iterate until TOTAL batches are consumed; losses of batches before the first one here are in the state."""
    first = consumed = loader.state_dict()["total_step"]
    points: list[Point] = []
    batches: Iterator[Any] | None = None
    while consumed < TOTAL:
        batches = iter(loader) if batches is None else batches
        drawn = next(batches, None)
        batch: list[Any] = []
        refused: list[Late] = []
        if drawn is not None:
            consumed += 1
            batch += [rows.tolist() for rows in (*drawn, loader.quotas)]
            for late in script.losses:
                if late.batch >= first and late.consumed == consumed:
                    values = np.random.default_rng((late.batch, late.seed)).normal(1, 2, 5)
                    try:
                        loader.record(values, [0, 1, 2, 1, 0], step=late.batch)
                    except RuntimeError:  # its epoch has ended
                        refused.append(late)
        action = (script.between_epochs if drawn is None else script.after_batch).get(consumed)
        if action == "update":
            loader.update()
        elif isinstance(action, int):
            loader.set_epoch(action)
        if drawn is None or action == "leave":
            batches = None
        states = {number: json.loads(json.dumps(loader.state_dict(step=number - 1))) for number in allowed(loader)}
        class_losses, history = list(loader.class_losses), list(loader.history)
        points.append(Point(consumed, drawn is None, batch, refused, class_losses, history, states))
    return points


def may_restore(script: Script, point: Point, number: int, steps: int) -> bool:
    """Return whether a run restored after `number` batches from a state of `point` must equal the uninterrupted run.

    It need not if losses of earlier batches are recorded later, or if calls before the next batch belong to the
    iterator: leaving an epoch early, and calls between epochs.
    """
    if any(late.batch < number and point.consumed < late.consumed <= TOTAL for late in script.losses):
        return False
    if number < point.consumed or point.between_epochs:
        return True
    ended = point.states[number]["step"] == steps
    return script.after_batch.get(number) != "leave" and not (ended and number in script.between_epochs)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    every = draw(st.sampled_from([None, 1, 2, 3, 4, 5]))
    lookahead = draw(st.integers(0, 4 if every is None else min(4, every)))
    world_size = draw(st.integers(1, 3))
    actions: st.SearchStrategy[str | int] = st.integers(0, 9)
    if every is None:
        actions |= st.just("update")
    numbers = st.integers(1, TOTAL)
    return Script(
        options={
            "batch_size": draw(st.integers(1, 4)),
            "mixing": draw(
                st.sampled_from(
                    [
                        lambda: Learn2Mix(0.3, min_share=0.05),
                        lambda: GroupDRO(0.2),
                        Remembering,
                        lambda: Remembering(schedule=True),
                        Proportional,
                    ]
                )
            ),
            "steps_per_epoch": draw(st.integers(1, 6)),
            "total_steps": draw(st.none() | st.just(TOTAL)),
            "update_every": every,
            "lookahead": lookahead,
            "world_size": world_size,
            "rank": draw(st.integers(0, world_size - 1)),
        },
        losses=draw(
            st.lists(
                st.builds(Late, st.integers(0, TOTAL - 1), st.integers(0, lookahead), st.integers(0, 3)), max_size=14
            )
        ),
        after_batch=draw(st.dictionaries(numbers, actions | st.just("leave"), max_size=3)),
        between_epochs=draw(st.dictionaries(numbers, actions, max_size=3)),
    )


@settings(
    max_examples=int(os.environ.get("L2M_EXAMPLES", "150")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(scripts(), st.integers(0, 2 * TOTAL))
def test_a_run_restored_at_any_allowed_step_repeats_the_uninterrupted_one(script: Script, saved_at: int) -> None:
    points = run(script.make(), script)
    saved = min(saved_at, len(points) - 1)
    point = points[saved]
    for number, state in point.states.items():
        if not may_restore(script, point, number, script.options["steps_per_epoch"]):
            continue
        restored = script.make(seed=99)
        restored.load_state_dict(state)
        assert restored.state_dict() == state
        follow = [i for i, expected in enumerate(points) if expected.consumed > number]
        again = run(restored, script)
        assert len(again) == len(follow)
        for i, got in zip(follow, again, strict=True):
            expected = points[i]
            assert (got.consumed, got.between_epochs) == (expected.consumed, expected.between_epochs)
            assert got.batch == expected.batch
            assert got.refused == [late for late in expected.refused if late.batch >= number]
            if i >= saved:
                assert got.class_losses == expected.class_losses
                assert got.history == expected.history[len(point.history) :]
                assert got.states == {s: state for s, state in expected.states.items() if s >= number}
