"""Policies written in Python: their windows, their results, and when they are called."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest

from l2m_fast import GroupDRO, Learn2Mix, Loader, Proportional, Window
from loader.ranks import on_ranks

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])  # class 2 has no rows
START = [0.5, 0.3, 0.0, 0.2]


class Policy:
    """Policy that keeps its windows, and returns `answer(window)`, by default the same proportions."""

    def __init__(self, answer: Callable[[Any], Any] | None = None, **attributes: Any) -> None:
        self.windows: list[Window] = []
        self.answer = answer or (lambda window: window.proportions)
        self.__dict__.update(attributes)

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Window) -> Any:
        self.windows.append(window)
        return self.answer(window)

    def __repr__(self) -> str:
        return "Policy()"


def make(mixing: Any, **options: Any) -> Loader:
    usual: dict[str, Any] = {"batch_size": 6, "classes": CLASSES, "seed": 0, "format": "numpy", "num_threads": 0}
    return Loader(np.arange(N), **usual | {"steps_per_epoch": 5} | options, mixing=mixing)


def drive(loader: Loader, steps: int, first: int = 0) -> list[list[int]]:
    """Return the rows of this number of batches, and record a loss of step + 1 for each row."""
    seen = []
    for step, rows in enumerate(islice(loader.forever(), steps), first):
        seen.append(rows.tolist())
        loader.record(np.full(len(rows), step + 1.0))
    return seen


# ---- the window


@pytest.mark.parametrize("every", [None, 3])
def test_a_policy_sees_the_window_and_the_run_up_to_its_end(every: int | None) -> None:
    """Each window of 3 or 5 batches is closed by the request for the batch after it."""
    length = every or 5
    policy = Policy()
    loader = make(policy, update_every=every, total_steps=1000)
    rows = drive(loader, 2 * length + 1)
    assert len(policy.windows) == 2
    for number, window in enumerate(policy.windows):
        end = (number + 1) * length
        in_window = CLASSES[np.array(rows[end - length : end])]
        counts = np.bincount(in_window.ravel(), minlength=4)
        losses = np.broadcast_to(np.arange(end - length, end)[:, None] + 1.0, in_window.shape)
        for k in (0, 1, 3):
            assert window.class_losses[k] == pytest.approx(losses[in_window == k].mean(), rel=1e-14)
        drawn = np.bincount(CLASSES[np.array(rows[:end])].ravel(), minlength=4)
        assert window.proportions.tolist() == START
        assert window.class_losses[2] == 0
        assert window.class_sizes.tolist() == [20, 12, 0, 8]
        assert window.counts.tolist() == counts.tolist()
        assert window.rows_drawn.tolist() == drawn.tolist()
        assert (window.step, window.total_steps) == (end, 1000)
        assert window.memory.shape == (0, 4)
    drawn = policy.windows[1].rows_drawn
    expected = [(n - 1) // size if size > 0 else 0 for n, size in zip(drawn, [20, 12, 0, 8], strict=True)]
    assert policy.windows[1].passes.tolist() == expected


def test_its_arrays_are_float64_and_int64_and_its_numbers_are_ints() -> None:
    policy = Policy(memory_rows=2)
    drive(make(policy, update_every=1), 2)
    (window,) = policy.windows
    assert isinstance(window, Window)
    for name in ("proportions", "class_losses", "class_sizes", "counts", "rows_drawn", "passes", "memory"):
        array = getattr(window, name)
        assert array.dtype == (np.float64 if name in ("proportions", "class_losses", "memory") else np.int64)
        assert array.shape == ((2, 4) if name == "memory" else (4,))
    assert type(window.step) is int
    assert window.total_steps is None


def test_its_arrays_are_copies_that_never_change() -> None:
    def spoil(window: Window) -> Any:
        answer = window.proportions.copy(), window.memory + 1
        for name in ("proportions", "class_losses", "class_sizes", "counts", "rows_drawn", "passes", "memory"):
            getattr(window, name)[:] = 77
        return answer

    policy, twin = (
        Policy(spoil, memory_rows=1),
        Policy(lambda window: (window.proportions, window.memory + 1), memory_rows=1),
    )
    loader, expected = make(policy, update_every=2), make(twin, update_every=2)
    assert drive(loader, 12) == drive(expected, 12)
    assert loader.state_dict()["memory"] == expected.state_dict()["memory"] == [5] * 4
    assert loader.class_sizes.tolist() == [20, 12, 0, 8]
    assert all((window.rows_drawn == 77).all() for window in policy.windows)
    assert [window.rows_drawn.sum() for window in twin.windows] == [12, 24, 36, 48, 60]


def test_counts_are_those_of_the_window_and_class_losses_the_last_known() -> None:
    policy = Policy()
    loader = make(policy, update_every=1)
    batches = iter(loader)
    for losses, classes in (([4.0], [0]), ([1.0, 3.0], [1, 1]), ([math.nan], [3])):
        next(batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            loader.record(losses, classes)
    next(batches)
    loader.record([9.0], [3])
    next(batches)
    assert [window.counts.tolist() for window in policy.windows] == [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]
    assert [window.class_losses.tolist() for window in policy.windows] == [[4, 4, 0, 4], [4, 2, 0, 3], [4, 2, 0, 9]]
    assert [window.step for window in policy.windows] == [1, 2, 4]


def test_ranks_see_the_rows_and_counts_of_all_of_them() -> None:
    def work(rank: int, all_reduce: Any) -> list[Window]:
        policy = Policy()
        drive(make(policy, batch_size=3, rank=rank, world_size=2, all_reduce=all_reduce, update_every=2), 5)
        return policy.windows

    whole = Policy()
    drive(make(whole, update_every=2), 5)
    for windows in on_ranks(2, work):
        for window, expected in zip(windows, whole.windows, strict=True):
            for name in ("counts", "rows_drawn", "passes", "class_losses", "proportions"):
                assert getattr(window, name).tolist() == getattr(expected, name).tolist()


# ---- memory


def counting(window: Window) -> Any:
    """Count windows in memory, and move as much share to class 0."""
    memory = window.memory + np.array([[1.0], [window.step]])
    proportions = window.proportions + np.array([0.01, -0.01, 0, 0]) * memory[0, 0]
    return proportions, memory


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("schedule", [False, True])
def test_memory_is_zeros_at_first_and_then_what_was_returned_also_in_a_restored_run(
    every: int | None, schedule: bool
) -> None:
    attributes: dict[str, Any] = {"memory_rows": 2, "schedule": schedule}
    policy = Policy(counting, **attributes)
    loader = make(policy, update_every=every)
    rows = drive(loader, 11)
    assert [window.memory[0].tolist() for window in policy.windows] == [[i] * 4 for i in range(len(policy.windows))]
    last = policy.windows[-1]
    assert loader.state_dict()["memory"] == [len(policy.windows)] * 4 + (last.memory[1] + last.step).tolist()
    before = make(Policy(counting, **attributes), update_every=every)
    assert drive(before, 6) == rows[:6]
    resumed = make(Policy(counting, **attributes), update_every=every)
    resumed.load_state_dict(before.state_dict())
    assert drive(resumed, 5, first=6) == rows[6:]
    assert resumed.state_dict() == loader.state_dict()


def test_memory_is_kept_if_only_proportions_are_returned() -> None:
    def answer(window: Window) -> Any:
        return (window.proportions, window.memory + 5) if window.step == 1 else window.proportions.tolist()

    policy = Policy(answer, memory_rows=1)
    loader = make(policy, update_every=1)
    drive(loader, 4)
    assert [window.memory.tolist() for window in policy.windows] == [[[0] * 4], [[5] * 4], [[5] * 4]]
    assert loader.state_dict()["memory"] == [5] * 4


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda w: (w.proportions, w.memory[:1]), ValueError, r"memory must have shape \(2, 4\) \(got \(1, 4\) from update\(\) of Policy\(\)\)"),
        (lambda w: (w.proportions, w.memory.ravel()), ValueError, r"memory must have shape \(2, 4\) \(got \(8,\)"),
        (lambda w: (w.proportions, 0.0), ValueError, r"memory must have shape \(2, 4\) \(got \(\)"),
        (lambda w: (w.proportions, None), TypeError, r"memory must be numbers \(got None"),
        (lambda w: (w.proportions, w.memory + 1j), TypeError, "memory must be numbers"),
        (lambda w: (w.proportions, w.memory + math.nan), ValueError, "memory of a policy must be finite"),
        (lambda w: (w.proportions, w.memory - math.inf), ValueError, "memory of a policy must be finite"),
        (lambda w: (w.proportions * 2, w.memory), ValueError, "sum to 1"),
        (lambda w: (w.proportions,), ValueError, r"proportions, or proportions and memory \(got 1 values from update\(\) of Policy"),
        (lambda w: (w.proportions, w.memory, 1), ValueError, r"\(got 3 values"),
        (lambda _: (), ValueError, r"\(got 0 values"),
        (lambda _: {}, TypeError, r"proportions must be numbers \(got \{\}"),
        (lambda _: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("every", [None, 2])
def test_a_wrong_result_raises_and_neither_losses_nor_memory_are_lost(
    answer: Any, error: type[Exception], message: str, every: int | None
) -> None:
    policy = Policy(answer, memory_rows=2)
    loader, twin = make(policy, update_every=every), make(Policy(counting, memory_rows=2), update_every=every)
    steps = every or 5
    batches, expected = loader.forever(), drive(twin, steps + 3)
    for step in range(steps):
        assert next(batches).tolist() == expected[step]
        loader.record(np.full(6, step + 1.0))
    before = loader.state_dict()
    with pytest.raises(error, match=message) as raised:
        next(batches)
    assert raised.type is error
    assert loader.state_dict() == before
    policy.answer = counting
    assert [next(batches).tolist() for _ in range(3)] == expected[steps:]
    assert loader.state_dict()["memory"][:4] == [1] * 4


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (-1, ValueError),
        (2**16 + 1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_memory_rows_out_of_range_are_refused(rows: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"memory_rows of the mixing policy must be an int in \[0, 65536\]"):
        make(Policy(memory_rows=rows))


@pytest.mark.parametrize(
    "memory", [[], [[0.0] * 4], [[0.0] * 4] * 3, [[0.0] * 3] * 2, [[0.0] * 4, [0.0] * 3 + [math.nan]], None, "memory", [[None] * 4] * 2]
)  # fmt: skip
def test_a_state_with_other_memory_is_refused(memory: Any) -> None:
    loader = make(Policy(counting, memory_rows=2))
    before = loader.state_dict()
    with pytest.raises((ValueError, TypeError), match="memory"):
        loader.load_state_dict({**before, "memory": memory})
    assert loader.state_dict() == before


# ---- kinds


def test_a_schedule_is_updated_after_every_window_without_losses_classes_or_all_reduce() -> None:
    def warm(window: Window) -> Any:
        moved = 0.2 * window.step / (window.total_steps or 0)
        return window.proportions + np.array([-moved, 0, 0, moved])

    def work(rank: int, _: Any) -> list[Window]:
        policy = Policy(warm, schedule=True)
        loader = make(policy, update_every=2, total_steps=10, batch_size=3, rank=rank, world_size=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(islice(loader.forever(), 7))
        assert [record["total_step"] for record in loader.history] == [2, 4, 6]
        return policy.windows

    for windows in on_ranks(2, work):
        assert [(window.step, window.total_steps) for window in windows] == [(2, 10), (4, 10), (6, 10)]
        assert [window.counts.tolist() for window in windows] == [[0] * 4] * 3
        assert [window.class_losses.tolist() for window in windows] == [[0] * 4] * 3
        assert [window.rows_drawn.sum() for window in windows] == [12, 24, 36]

    policy = Policy(schedule=True)
    drive(make(policy, update_every=2), 3)
    assert policy.windows[0].counts.sum() == 12
    alone = Policy(schedule=True)
    assert len(list(make(alone, classes=None, steps_per_epoch=None))) == 7
    assert [(window.step, window.class_sizes.tolist()) for window in alone.windows] == [(7, [40])]


def test_a_fixed_policy_is_never_updated_even_if_it_is_also_a_schedule() -> None:
    policy = Policy(fixed=True, schedule=True)
    loader = make(policy, update_every=2)
    drive(loader, 9)
    assert policy.windows == []
    assert loader.history == []
    assert loader.class_losses[0] > 0


@pytest.mark.parametrize("every", [None, 2])
def test_a_policy_that_follows_losses_is_not_updated_by_windows_without_losses(every: int | None) -> None:
    policy = Policy()
    loader = make(policy, update_every=every)
    with pytest.warns(RuntimeWarning, match="follows losses, and none was recorded"):
        list(islice(loader.forever(), 11))
    assert policy.windows == []


@dataclass(frozen=True)
class Bolder(Learn2Mix):
    """Learn2Mix with two steps per update."""

    def update(self, window: Window) -> Any:
        first = super().update(window)
        return super().update(Window.of(first, window.class_losses, window.class_sizes))


@dataclass(frozen=True)
class Warm(Proportional):
    fixed: bool = False
    schedule = True

    def update(self, _: Window) -> Any:
        return [1 / 3, 1 / 3, 0, 1 / 3]


def test_a_subclass_of_a_built_in_policy_may_override_its_update() -> None:
    plain, bolder = make(Learn2Mix(0.5), update_every=2), make(Bolder(0.5), update_every=2)
    for loader in (plain, bolder):
        drive(loader, 3)
    first, last = plain.history[0], bolder.history[0]
    expected = Learn2Mix(0.5).update(Window.of(first["proportions"], first["class_losses"], [20, 12, 0, 8]))
    assert last["proportions"].tolist() == expected.tolist()
    assert last["class_losses"].tolist() == first["class_losses"].tolist()
    warm = make(Warm(), update_every=1)
    list(islice(warm, 2))
    assert warm.proportions.tolist() == [1 / 3, 1 / 3, 0, 1 / 3]


@pytest.mark.parametrize("policy", [Learn2Mix(0.3, min_share=0.05), GroupDRO(0.1)])
def test_a_subclass_that_overrides_nothing_gives_the_same_bits(policy: Any) -> None:
    subclass = type("Same", (type(policy),), {})
    options = {name: getattr(policy, name) for name in policy.__dataclass_fields__}
    loaders = [make(of, update_every=2) for of in (policy, subclass(**options))]
    rows = [drive(loader, 12) for loader in loaders]
    assert rows[0] == rows[1]
    assert loaders[0].proportions.tolist() == loaders[1].proportions.tolist() != START


# ---- policies that call the loader

CALLS: dict[str, Callable[[Loader], Any]] = {
    "next": lambda loader: next(iter(loader)),
    "record": lambda loader: loader.record([1.0], [0]),
    "record of a batch": lambda loader: loader.record(np.ones(6)),
    "update": lambda loader: loader.update(),
    "set_epoch": lambda loader: loader.set_epoch(3),
    "state_dict": lambda loader: loader.state_dict(),
    "load_state_dict": lambda loader: loader.load_state_dict(make(Policy()).state_dict()),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("every", [None, 2])
def test_a_policy_that_calls_the_loader_raises_and_the_loader_stays_usable(call: str, every: int | None) -> None:
    policy = Policy()
    loader, twin = make(policy, update_every=every), make(Policy(), update_every=every)
    steps = every or 5
    batches, expected = loader.forever(), drive(twin, steps + 4)
    for step in range(steps):
        assert next(batches).tolist() == expected[step]
        loader.record(np.full(6, step + 1.0))
    before = loader.state_dict()
    policy.answer = lambda window: (CALLS[call](loader), window.proportions)[1]
    with pytest.raises(RuntimeError, match="the loader is in use: this call comes from inside another one"):
        next(batches)
    assert loader.state_dict() == before
    policy.answer = lambda window: window.proportions
    for rows in expected[steps:]:
        assert next(batches).tolist() == rows
        loader.record(np.ones(6))


def test_a_policy_may_read_attributes_of_the_loader_and_close_it() -> None:
    looks: list[Any] = []

    def look(window: Window) -> Any:
        looks.append((loader.proportions.tolist(), loader.step, loader.total_step, len(loader.history), repr(loader)))
        if len(looks) == 2:
            loader.close()
        return window.proportions

    loader = make(Policy(look), update_every=2)
    batches = loader.forever()
    for _ in range(4):
        next(batches)
        loader.record(np.ones(6))
    assert len(next(batches)) == 6
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)
    assert [(step, total) for _, step, total, _, _ in looks] == [(2, 2), (4, 4)]
    assert looks[0][0] == START
