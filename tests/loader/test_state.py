"""Restored loaders repeat the rest of the run."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from l2m_fast import Balanced, ClassLoss, GroupDRO, Loader, Static
from loader.small import FORMATS, STEPS, N, drive, losses_of, make

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "window an epoch": {},
    "windows of 4": {"update_every": 4},
    "windows of 1": {"update_every": 1, "mixing": GroupDRO(0.1)},
    "windows longer than epochs": {"update_every": 9, "order": "grouped"},
    "small classes": {"mixing": Static([0.2, 0.1, 0, 0.7]), "batch_size": 13, "steps_per_epoch": STEPS},
    "in order": {"shuffle": False, "mixing": Balanced()},
    "no classes": {"classes": None, "mixing": None, "batch_size": 7},
    "no classes, short of a pass": {"classes": None, "mixing": None, "batch_size": 7, "steps_per_epoch": 4},
    "rows": {"rows": np.arange(0, N, 2), "prefetch": 0, "num_threads": 0},
    "one of two ranks": {"rank": 1, "world_size": 2, "batch_size": 3, "all_reduce": lambda sums: sums.__imul__(2)},
}


# ---- restoring


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
@pytest.mark.parametrize("through", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_a_restored_loader_repeats_the_rest_from_every_step(options: Any, through: Callable[[Any], Any]) -> None:
    run = make(**options)
    total = 3 * len(run)
    expected = drive(make(**options), total)
    final = make(**options)
    drive(final, total)
    done: list[Any] = []
    for rest in range(total, 0, -1):
        restored = make(**options)
        restored.load_state_dict(through(run.state_dict()))
        assert drive(restored, rest) == expected[total - rest :]
        assert restored.state_dict() == final.state_dict()
        # The run itself continues its epoch; saving its states has no effect on it.
        if not done or run.step == 0 or run.step == len(run):
            batches = iter(run)
        rows = next(batches)
        done.append([run.epoch, run.step, rows.tolist(), np.asarray(run.batch_classes).tolist()])
        if run.step % 3:
            run.record(losses_of(rows))
        assert done[-1] == expected[len(done) - 1][:4]


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_a_state_taken_and_loaded_is_the_same_state(options: Any) -> None:
    run = make(**options)
    for _ in range(2):
        for rows in run:
            run.record(losses_of(rows))
            restored = make(**options)
            restored.load_state_dict(run.state_dict())
            assert restored.state_dict() == run.state_dict()
            assert (restored.epoch, restored.step) == (
                (run.epoch, run.step) if run.step < len(run) else (run.epoch + 1, 0)
            )
            np.testing.assert_array_equal(restored.class_losses, run.class_losses)
            if run.step < len(run):  # at the end of an epoch, its losses have not taken effect yet
                np.testing.assert_array_equal(restored.proportions, run.proportions)


def test_a_state_describes_consumed_batches_not_prefetched_ones() -> None:
    states = []
    for prefetch, num_threads in ((0, 0), (1, 1), (16, 2)):
        loader = make(prefetch=prefetch, num_threads=num_threads)
        list(itertools.islice(loader, 3))
        states.append(loader.state_dict())
    assert states[0] == states[1] == states[2]
    assert states[0]["total_step"] == 3


def test_a_state_is_small_and_a_copy() -> None:
    loader = make()
    batches = iter(loader)
    next(batches)
    before = loader.state_dict()
    kept = copy.deepcopy(before)
    next(batches)
    loader.record(np.ones(6))
    assert before == kept
    for value in before.values():
        if isinstance(value, list):
            value.clear()
    before["fingerprint"].clear()
    again = make()
    again.load_state_dict(kept)
    kept["passes"][0] = 99
    assert again.state_dict()["passes"][0] == 0


def test_a_state_at_the_end_of_an_epoch_resumes_with_the_next() -> None:
    expected = make()
    run = make()
    for epoch in range(3):
        for rows in run:
            run.record(losses_of(rows))
        for rows in expected:
            expected.record(losses_of(rows))
        restored = make()
        restored.load_state_dict(run.state_dict())
        assert (restored.epoch, restored.step) == (epoch + 1, 0)
        assert restored.proportions.tolist() == expected.proportions.tolist()
        run = restored


def test_a_state_after_the_last_batch_of_an_epoch_never_gives_an_empty_epoch() -> None:
    expected = make()
    drive(expected, STEPS)
    for rows in expected:
        expected.record(losses_of(rows))
    run = make()
    drive(run, STEPS)
    assert run.step == STEPS  # no further batch has been requested
    state = run.state_dict()
    restored = make()
    restored.load_state_dict(state)
    assert (restored.epoch, restored.step) == (1, 0)
    batches = []
    for rows in restored:
        batches.append(rows)
        restored.record(losses_of(rows))
    assert len(batches) == STEPS
    assert restored.state_dict() == expected.state_dict()


def test_loading_into_a_running_loader_ends_its_iterator() -> None:
    loader = make()
    batches = iter(loader)
    first = [next(batches).tolist() for _ in range(2)]
    state = loader.state_dict()
    rest = [next(batches).tolist()]
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"a newer one, load_state_dict\(\) or end_epoch\(\) replaced it"):
        next(batches)
    resumed = [batch.tolist() for batch in loader]
    assert resumed[:1] == rest
    fresh = make()
    loader.load_state_dict(fresh.state_dict())
    assert [batch.tolist() for batch in loader] == first + resumed


def test_an_iterator_created_before_a_load_raises_after_it() -> None:
    loader = make(prefetch=4)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(batches)
    assert len(list(loader)) == STEPS - 1


def test_the_seed_is_restored() -> None:
    loader = make(seed=2**64 - 1)
    list(itertools.islice(loader, 2))
    other = make(seed=3)
    list(itertools.islice(other, 4))
    other.load_state_dict(FORMATS["json"](loader.state_dict()))
    assert other.state_dict()["seed"] == 2**64 - 1
    assert drive(other, 20) == drive_on(loader, 20)


def drive_on(loader: Loader, steps: int) -> list[Any]:
    """Return the result of `drive()` on a copy of `loader`, in mid-epoch."""
    twin = make(seed=loader.state_dict()["seed"])
    twin.load_state_dict(loader.state_dict())
    return drive(twin, steps)


def test_threads_prefetch_and_format_are_not_part_of_a_state() -> None:
    pytest.importorskip("torch")
    loader = make(num_threads=0, prefetch=0)
    list(itertools.islice(loader, 4))
    other = make(num_threads=2, prefetch=9, format="torch")
    other.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in other] == [batch.tolist() for batch in rest_of(loader)]


def rest_of(loader: Loader) -> Iterator[Any]:
    twin = make()
    twin.load_state_dict(loader.state_dict())
    return iter(twin)


def test_the_history_is_dropped() -> None:
    loader = make()
    drive(loader, 2 * STEPS + 1)
    assert len(loader.history) == 2
    loader.load_state_dict(loader.state_dict())
    assert loader.history == []


# ---- states that do not fit


def test_recorded_sums_are_part_of_a_state() -> None:
    loader = make()
    loader.record(ClassLoss(np.array([1.0, 2.0, 0.0, 4.0]), np.array([1, 1, 0, 2])))
    other = make()
    other.load_state_dict(loader.state_dict())
    other.update()
    assert other.class_losses[[0, 1, 3]].tolist() == [1, 2, 2]
