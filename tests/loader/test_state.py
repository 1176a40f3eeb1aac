"""States: a loader that was restored repeats the rest of the run; a state that does not fit is refused."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, ClassLoss, GroupDRO, Learn2Mix, Loader, Proportional, Static

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])
STEPS = 6


def make(**options: Any) -> Loader:
    """A loader whose classes are smaller than some quotas, so that rows are held."""
    usual: dict[str, Any] = {
        "seed": 0,
        "batch_size": 6,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "format": "numpy",
    }
    return Loader(np.arange(N), **usual | {"num_threads": 1} | options)


def losses_of(rows: Any) -> Any:
    return np.sqrt(1.0 + np.asarray(rows)) * (CLASSES[np.asarray(rows)] + 1)


def drive(loader: Loader, steps: int) -> list[Any]:
    """`steps` batches over as many epochs as it takes; losses of most are recorded."""
    seen: list[Any] = []
    while len(seen) < steps:
        for rows in loader:
            seen.append([loader.epoch, loader.step, rows.tolist(), np.asarray(loader.batch_classes).tolist()])
            if loader.step % 3:
                loader.record(losses_of(rows))
            seen[-1] += [loader.proportions.tolist(), loader.class_losses.tolist().__repr__()]
            if len(seen) == steps:
                break
    return seen


def through_torch(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FORMATS: dict[str, Callable[[Any], Any]] = {
    "json": lambda state: json.loads(json.dumps(state, allow_nan=False)),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "torch": through_torch,
}
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
        # The run itself goes on in the epoch that it is in, never disturbed by its states having been taken.
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
            if run.step < len(run):  # at the end of an epoch what was recorded in it has still to act
                np.testing.assert_array_equal(restored.proportions, run.proportions)


def test_a_state_is_what_was_consumed_not_what_was_prefetched() -> None:
    states = []
    for prefetch, num_threads in ((0, 0), (1, 1), (16, 2)):
        loader = make(prefetch=prefetch, num_threads=num_threads)
        list(itertools.islice(loader, 3))
        states.append(loader.state_dict())
    assert states[0] == states[1] == states[2]
    assert states[0]["total_step"] == 3


def test_a_state_is_small_and_the_users_own() -> None:
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


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next() -> None:
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
    assert run.step == STEPS  # the iterator has not been asked for more
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
    rest = [batch.tolist() for batch in batches]
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"a later one, or load_state_dict\(\), took its place"):
        next(batches)
    assert [batch.tolist() for batch in loader] == rest
    fresh = make()
    loader.load_state_dict(fresh.state_dict())
    assert [batch.tolist() for batch in loader] == first + rest


def test_an_iterator_of_before_a_load_cannot_go_on_beside_it() -> None:
    loader = make(prefetch=4)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(batches)
    assert len(list(loader)) == STEPS - 1


def test_the_seed_is_taken_over() -> None:
    loader = make(seed=2**64 - 1)
    list(itertools.islice(loader, 2))
    other = make(seed=3)
    list(itertools.islice(other, 4))
    other.load_state_dict(FORMATS["json"](loader.state_dict()))
    assert other.state_dict()["seed"] == 2**64 - 1
    assert drive(other, 20) == drive_on(loader, 20)


def drive_on(loader: Loader, steps: int) -> list[Any]:
    """What `drive()` sees of a copy of `loader`, in mid-epoch."""
    twin = make(seed=loader.state_dict()["seed"])
    twin.load_state_dict(loader.state_dict())
    return drive(twin, steps)


def test_threads_prefetch_and_format_are_not_part_of_a_state() -> None:
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


# ---- set_epoch


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["classless", "classes"])
def test_set_epoch_to_the_coming_epoch_changes_nothing(classes: Any) -> None:
    mixing = Proportional()
    plain, told = make(classes=classes, mixing=mixing), make(classes=classes, mixing=mixing)
    for epoch in range(4):
        told.set_epoch(epoch)
        for one, other in zip(plain, told, strict=True):
            np.testing.assert_array_equal(one, other)
        assert told.state_dict() == plain.state_dict()


def test_set_epoch_without_classes_gives_the_batches_of_that_epoch() -> None:
    plain, told = make(classes=None, mixing=None), make(classes=None, mixing=None)
    epochs = [[batch.tolist() for batch in plain] for _ in range(5)]
    for epoch in (3, 0, 0, 4, 2):
        told.set_epoch(epoch)
        assert told.epoch in (epoch, told.state_dict()["epoch"])
        assert [batch.tolist() for batch in told] == epochs[epoch]
    assert told.epoch == 3


def test_set_epoch_with_classes_starts_fresh_passes_addressed_by_the_epoch() -> None:
    runs = []
    for before in (0, 2):
        loader = make(mixing=Balanced(), batch_size=6, prefetch=5)
        for _ in range(before):
            list(itertools.islice(loader, 3))
        loader.set_epoch(7)
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        assert state["epoch"] == 7
        assert state["passes"] == [7, 7, 7, 7]
        assert max(state["positions"]) == 2
        rows = np.concatenate(list(batches))
        runs.append([rows[CLASSES[rows] == k].tolist() for k in (0, 1, 3)])
    # Which class gets the odd row goes on from before; the order inside a class is that of its pass.
    for one, other in zip(*runs, strict=True):
        assert set(one) & set(other)


def test_set_epoch_keeps_proportions_losses_and_the_count_of_steps() -> None:
    loader = make()
    drive(loader, STEPS + 2)
    loader.set_epoch(5)
    before = loader.proportions.tolist()
    assert loader.state_dict()["total_step"] == STEPS + 2
    assert loader.proportions.tolist() == before
    next(iter(loader))
    state = loader.state_dict()
    assert state["total_step"] == STEPS + 3
    assert (state["epoch"], state["step"]) == (5, 1)
    assert loader.proportions.tolist() != before  # the epoch left had recorded losses; they act now


def test_set_epoch_does_not_disturb_the_running_epoch() -> None:
    plain, told = make(mixing=Balanced()), make(mixing=Balanced())
    batches = iter(told)
    expected = [batch.tolist() for batch in plain]
    got = [next(batches).tolist()]
    told.set_epoch(9)
    got += [batch.tolist() for batch in batches]
    assert got == expected
    next(iter(told))
    assert told.epoch == 9


def test_an_epoch_that_was_set_is_part_of_what_there_is_to_see_and_to_save() -> None:
    loader = make(mixing=Balanced())
    list(loader)
    loader.set_epoch(9)
    assert (loader.epoch, loader.step) == (9, 0)
    restored = make(mixing=Balanced())
    restored.load_state_dict(loader.state_dict())
    expected = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in restored] == expected

    batches = iter(loader)
    next(batches)
    loader.set_epoch(20)  # waits for the end of the running epoch, also of the restored one
    assert (loader.epoch, loader.step) == (10, 1)
    restored.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    for one in (batches, iter(restored)):
        assert len(list(one)) == STEPS - 1
    assert (loader.epoch, restored.epoch) == (20, 20)
    assert [batch.tolist() for batch in restored] == [batch.tolist() for batch in loader]


@pytest.mark.parametrize("running", [True, False])
def test_set_epoch_keeps_the_last_batch(running: bool) -> None:
    loader, plain = make(mixing=Learn2Mix()), make(mixing=Learn2Mix())
    for one in (loader, plain):
        for step, _ in enumerate(one):
            if running and step == 1 and one is loader:
                one.set_epoch(7)
        if one is loader:
            one.set_epoch(7)
        one.record(np.ones(len(one.batch_rows)))
    assert np.array_equal(loader.batch_rows, plain.batch_rows)
    assert loader.state_dict()["window_count"] == plain.state_dict()["window_count"]


def test_set_epoch_to_a_restored_epoch_goes_on_in_its_middle() -> None:
    loader = make(mixing=Balanced())
    batches = iter(loader)
    list(itertools.islice(batches, 2))
    state = loader.state_dict()
    rest = [batch.tolist() for batch in batches]
    for epoch, steps in ((0, STEPS - 2), (1, STEPS), (3, STEPS)):
        restored = make(mixing=Balanced())
        restored.load_state_dict(state)
        restored.set_epoch(epoch)
        got = [batch.tolist() for batch in restored]
        assert len(got) == steps
        assert (got == rest) is (epoch == 0)
        assert restored.epoch == epoch + 1


def test_the_last_set_epoch_counts() -> None:
    loader = make()
    for epoch in (4, 2, 0):
        loader.set_epoch(epoch)
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in make()]


# ---- ranks


def _ranks(world_size: int, mailbox: list[Any], **options: Any) -> list[Loader]:
    """Loaders of all ranks in one process; the sums to be reduced are put in the mailbox by `_reduce_all()`."""
    return [
        make(
            batch_size=12 // world_size,
            rank=rank,
            world_size=world_size,
            all_reduce=lambda sums: np.copyto(sums, [*sum(mailbox), world_size]),
            **options,
        )
        for rank in range(world_size)
    ]


def _steps(ranks: list[Loader], steps: int) -> list[Any]:
    """So many steps of a new iter() of all ranks, every rank recording; global batches as sorted rows."""
    batches = [iter(loader) for loader in ranks]
    seen = []
    for _ in range(steps):
        parts = [next(of_rank) for of_rank in batches]
        seen.append(sorted(np.concatenate(parts).tolist()))
        for loader, part in zip(ranks, parts, strict=True):
            loader.record(losses_of(part))
    return seen


def _post(ranks: list[Loader], mailbox: list[Any]) -> None:
    mailbox[:] = [
        np.array(state["window_sum"] + state["window_count"]) for state in (loader.state_dict() for loader in ranks)
    ]


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_the_states_of_all_ranks_resume_on_any_number_of_ranks(before: int, after: int) -> None:
    def settle(ranks: list[Loader], mailbox: list[Any]) -> list[float]:
        """Ends the epoch on all ranks with what they recorded."""
        _post(ranks, mailbox)
        for loader in ranks:
            next(iter(loader))
        shares = {tuple(loader.proportions.tolist()) for loader in ranks}
        assert len(shares) == 1
        return list(shares.pop())

    mailbox: list[Any] = []
    ranks = _ranks(before, mailbox)
    _steps(ranks, 2)
    states = FORMATS["json"]([loader.state_dict() for loader in ranks])
    resumed_mailbox: list[Any] = []
    resumed = _ranks(after, resumed_mailbox)
    for loader in resumed:
        loader.load_state_dict(states)
    pending = np.sum([loader.state_dict()["window_sum"] for loader in resumed], axis=0)
    np.testing.assert_allclose(pending, np.sum([state["window_sum"] for state in states], axis=0), rtol=1e-15)

    same_ranks = _ranks(before, mailbox)
    for loader, state in zip(same_ranks, states, strict=True):
        loader.load_state_dict(state)
    assert _steps(resumed, len(ranks[0]) - 2) == _steps(same_ranks, len(ranks[0]) - 2)
    np.testing.assert_allclose(settle(resumed, resumed_mailbox), settle(same_ranks, mailbox), rtol=1e-13)


def test_a_state_without_pending_losses_resumes_on_other_ranks_alone() -> None:
    states = [loader.state_dict() for loader in _ranks(2, [])]
    (whole,) = _ranks(1, [])
    whole.load_state_dict(states[1])
    assert len(list(whole)) == 3


def test_pending_losses_of_the_other_ranks_are_not_forgotten() -> None:
    ranks = _ranks(2, [])
    for loader in ranks:
        loader.record(losses_of(next(iter(loader))))
    (whole,) = _ranks(1, [])
    before = whole.state_dict()
    with pytest.raises(ValueError, match=r"rank 1 of 2, cannot go on as rank 0 of 1 alone"):
        whole.load_state_dict(ranks[1].state_dict())
    assert whole.state_dict() == before


def test_a_list_must_hold_the_states_of_all_ranks_at_one_moment() -> None:
    states = [loader.state_dict() for loader in _ranks(3, [])]
    (whole,) = _ranks(1, [])
    later = {**states[2], "total_step": 1, "step": 1}
    for given, message in (
        ([], "an empty list"),
        (states[:2], r"each of the 3 ranks once \(got ranks \[0, 1\]\)"),
        ([states[0], states[0], states[1]], r"got ranks \[0, 0, 1\]"),
        ([*states, states[0]], r"got ranks \[0, 0, 1, 2\]"),
        ([*states[:2], later], "not of one moment: step, total_step differ"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.load_state_dict(given)
    whole.load_state_dict(states[::-1])
    assert len(list(whole)) == 3


# ---- states that do not fit


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"batch_size": 5}, "global_batch: 5 in the state, 6 here"),
        ({"world_size": 2, "rank": 0, "all_reduce": print}, "global_batch: 12 in the state, 6 here"),
        ({"classes": CLASSES[::-1]}, "classes: '"),
        ({"classes": CLASSES // 2}, "num_classes: 2 in the state, 4 here"),
        ({"rows": np.arange(N - 1)}, "rows: 39 in the state, 40 here"),
        ({"rows": np.arange(N)[::-1][:30]}, "rows: 30 in the state"),
        ({"mixing": Learn2Mix(0.25)}, r"mixing: {'Learn2Mix': {.*'mixing_rate': 0.25"),
        ({"mixing": Balanced()}, r"mixing: {'Balanced': {}} in the state"),
        ({"order": "grouped"}, "order: 'grouped' in the state, 'shuffled' here"),
        ({"shuffle": False}, "shuffle: False in the state, True here"),
        ({"steps_per_epoch": 6}, "steps_per_epoch: 6 in the state, None here"),
        ({"update_every": 3}, "update_every: 3 in the state, None here"),
        ({"drop_last": True}, "drop_last: True in the state"),
        ({"classes": None, "mixing": None}, "num_classes: 1 in the state"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_the_state_of_another_loader_is_refused_naming_what_differs(options: Any, differing: str) -> None:
    loader = make()
    with pytest.raises(ValueError, match=f"the state is that of another loader.*{differing}"):
        loader.load_state_dict(make(**options).state_dict())
    assert len(list(loader)) == STEPS


@pytest.mark.parametrize(
    ("data", "differing"),
    [
        (np.arange(N, dtype=np.int32), r"fields: \[\['int32', \[\]\]\] in the state"),
        (np.zeros((N, 3), np.int64), r"fields: \[\['int64', \[3\]\]\] in the state"),
        ((np.arange(N), np.arange(N)), "fields: "),
    ],
)
def test_the_state_of_other_data_is_refused(data: Any, differing: str) -> None:
    other = Loader(data, batch_size=6, classes=CLASSES, mixing=Learn2Mix(0.5), format="numpy", seed=0)
    with pytest.raises(ValueError, match=differing):
        make().load_state_dict(other.state_dict())


def test_numpy_and_torch_data_of_one_dtype_have_the_same_fingerprint() -> None:
    loader = Loader(torch.arange(N), batch_size=6, classes=CLASSES, mixing=Learn2Mix(0.5), seed=0)
    loader.load_state_dict(make().state_dict())
    assert len(list(loader)) == STEPS


def test_other_row_ids_of_the_same_number_are_refused() -> None:
    first, second = make(rows=np.arange(20)), make(rows=np.arange(1, 21))
    with pytest.raises(ValueError, match="another loader"):
        second.load_state_dict(first.state_dict())


_MISSING = object()
_COUNTS = ("rank", "world_size", "epoch", "step", "total_step", "windows")
_LISTS = (
    *("passes", "positions", "visits", "offsets", "due", "held", "proportions", "next_proportions", "class_losses"),
    *("window_sum", "window_count"),
)
_NAN, _INF = float("nan"), float("inf")
# Field -> broken values, TypeErrors and ValueErrors apart.
_WRONG_TYPE: dict[str, list[Any]] = {
    "seed": [1.5, None, True, "0"],
    "fingerprint": [None, [], "x"],
    **{name: [1.5, None, True, "0", [0]] for name in _COUNTS},
    **{name: [None, 1, "x", {}, (0, 0, 0, 0)] for name in _LISTS},
}
for _name in ("passes", "positions", "visits", "offsets", "window_count"):
    _WRONG_TYPE[_name] += [[0, 0, 0, 0.0], [0, 0, 0, None], [0, 0, 0, True], [0, 0, 0, "a"]]
for _name in ("due", "proportions", "next_proportions", "window_sum"):
    _WRONG_TYPE[_name] += [[0.5, 0.5, 0.0, "a"], [0.5, 0.5, 0.0, None], [0.5, 0.5, 0.0, [0.0]]]
_WRONG_TYPE["class_losses"] += [[0.0, 0.0, None, "a"], [0.0, 0.0, None, True]]
_WRONG_VALUE: dict[str, list[Any]] = {
    "version": [0, 1, 2, 4, "3", None, _MISSING],
    "seed": [-1, 2**64, _MISSING],
    "fingerprint": [{}, _MISSING],
    "rank": [-1, 1, 5, 2**70, _MISSING],
    "world_size": [-1, 0, 5, 2**70, _MISSING],
    "epoch": [-1, 2**53 + 1, 2**63, 2**64 - 1, 2**64, _MISSING],
    "step": [-1, 4, 7, 2**63, 2**64, _MISSING],
    "total_step": [-1, 2, 0, 2**63, 2**64 - 1, 2**64, _MISSING],
    "windows": [-1, 1, 7, 2**63, 2**64, _MISSING],
    "passes": [[], [0, 0, 0], [0] * 5, [2**53 + 1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2**64], _MISSING],
    "positions": [[0, 0, 0], [-1, 0, 0, 0], [21, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2**63], _MISSING],
    "visits": [[0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2**53 + 1], [0, 0, 0, 2**64], _MISSING],
    "offsets": [[0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2**16], _MISSING],
    "due": [[0.0] * 3, [1e200, 0.0, 0.0, 0.0], [_NAN, 0.0, 0.0, 0.0], [0.0, _INF, 0.0, 0.0], _MISSING],
    "held": [
        *([1], [[0]], [[0, 1]], [[0, [0, 0]]], [[0, [1.5]]], [[0, [-1]]], [[0, [N]]], [[0, [39]]], [[7, [1]]]),
        *([[-1, [1]]], [[0, [1]], [0, [2]]], [["a", [1]]], [[0, ["a"]]], [[0, list(range(21))]], [[2, [1]]]),
        *([[2, []]], [[0, [1], 2]], [[3, [32]], [0, [1]]], [[True, [20]]], [[0, [True]]], [[0, [2**63]]], [None]),
        _MISSING,
    ],
    "proportions": [
        *([0.5, 0.5, 0.0], [_NAN, 0.5, 0.0, 0.5], [1.5, -0.5, 0.0, 0.0], [0.1, 0.1, 0.0, 0.1], [0.5, 0.25, 0.25, 0.0]),
        *([], [0.5, 0.5, 0.0, 0.0, 0.0], [_INF, 0.0, 0.0, 0.0], _MISSING),
    ],
    "next_proportions": [
        *([0.5, 0.5, 0.0], [_NAN, 0.5, 0.0, 0.5], [1.5, -0.5, 0.0, 0.0], [0.1, 0.1, 0.0, 0.1], [0.5, 0.25, 0.25, 0.0]),
        *([], [0.5, 0.5, 0.0, 0.0, 0.0], [_INF, 0.0, 0.0, 0.0], _MISSING),
    ],
    "class_losses": [[0.0] * 3, [_NAN, 0.0, 0.0, 0.0], [_INF, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], _MISSING],
    "window_sum": [[0.0] * 5, [_NAN, 0.0, 0.0, 0.0], [_INF, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], _MISSING],
    "window_count": [[0] * 5, [-1, 0, 0, 0], [2**63, 0, 0, 0], [0, 0, 0, 0], [2**60, 1, 0, 1], _MISSING],
}


def _broken() -> Iterator[Any]:
    for error, table in ((TypeError, _WRONG_TYPE), (ValueError, _WRONG_VALUE)):
        for name, values in table.items():
            for value in values:
                shown = "missing" if value is _MISSING else str(value)[:30]
                yield pytest.param(name, value, error, id=f"{name}={shown}")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """Of a loader in mid-epoch, with pending losses of every class."""
    loader = make()
    for rows in itertools.islice(loader, 3):
        loader.record(losses_of(rows))
    state = loader.state_dict()
    assert min(state["window_count"][k] for k in (0, 1, 3)) > 0
    return state


@pytest.mark.parametrize(("name", "value", "error"), list(_broken()))
def test_a_broken_state_is_refused_and_the_loader_goes_on(
    state: dict[str, Any], name: str, value: Any, error: type[Exception]
) -> None:
    loader, twin = make(seed=1), make(seed=1)
    batches, expected = iter(loader), iter(twin)
    next(batches), next(expected)
    loader.record(np.ones(6))
    twin.record(np.ones(6))
    broken = {key: entry for key, entry in state.items() if key != name}
    if value is not _MISSING:
        broken[name] = value
    with pytest.raises((TypeError, ValueError), match=r"\(got|lacks|another loader|broken|alone") as raised:
        loader.load_state_dict(broken)
    assert raised.type is error
    assert "pybind11" not in str(raised.value)
    assert "incompatible" not in str(raised.value)
    assert loader.state_dict() == twin.state_dict()
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in expected]
    assert loader.state_dict() == twin.state_dict()


@pytest.mark.parametrize("given", [None, 1, "state", b"", (), {1, 2}, [None], [1], np.zeros(3)])
def test_what_is_not_a_state_is_refused(given: Any) -> None:
    loader = make()
    with pytest.raises(TypeError, match="a state must be a dict"):
        loader.load_state_dict(given)
    assert len(list(loader)) == STEPS


def test_an_empty_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of version 3 \(got None\)"):
        make().load_state_dict({})


def test_windows_must_agree_with_the_steps() -> None:
    loader = make(update_every=2)
    drive(loader, 5)
    state = loader.state_dict()
    assert state["windows"] == 2
    for windows in (0, 1, 3):
        with pytest.raises(ValueError, match=r"windows of the state must be in \[2\]"):
            loader.load_state_dict({**state, "windows": windows})
    loader.load_state_dict(state)


def test_every_saved_batch_of_every_class_can_be_told_from_a_held_one() -> None:
    """Held rows are part of a state, and only rows of their class, each once."""
    loader = make(mixing=Static([0.3, 0.1, 0.0, 0.6]), batch_size=12, steps_per_epoch=40)
    held = 0
    for _ in loader:
        state = loader.state_dict()
        for k, rows in state["held"]:
            held += len(rows)
            assert len(set(rows)) == len(rows)
            assert (CLASSES[rows] == k).all()
        make(mixing=Static([0.3, 0.1, 0.0, 0.6]), batch_size=12, steps_per_epoch=40).load_state_dict(state)
    assert held > 0


def test_a_custom_policy_is_recognised_by_its_parameters() -> None:
    class Follow:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, proportions: Any, class_losses: Any, class_sizes: Any) -> Any:  # noqa: ARG002
            return proportions

    state = make(mixing=Follow(0.5)).state_dict()
    make(mixing=Follow(0.5)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"Follow.*{'rate': 0.5}} in the state, .*Follow.*{'rate': 0.25}} here"):
        make(mixing=Follow(0.25)).load_state_dict(state)


def test_sums_of_ranks_stop_at_the_largest_float() -> None:
    mailbox: list[Any] = []
    ranks = _ranks(2, mailbox)
    for loader in ranks:
        losses = np.full(loader.num_classes, 1.7e308)
        loader.record(losses, np.arange(loader.num_classes))
    state = [json.loads(json.dumps(loader.state_dict())) for loader in ranks]
    resumed = _ranks(2, mailbox)[0]
    resumed.load_state_dict(state)
    assert resumed.state_dict()["window_sum"] == [np.finfo(np.float64).max] * resumed.num_classes


def test_recorded_sums_are_part_of_a_state() -> None:
    loader = make()
    loader.record(ClassLoss(np.array([1.0, 2.0, 0.0, 4.0]), np.array([1, 1, 0, 2])))
    other = make()
    other.load_state_dict(loader.state_dict())
    other.update()
    assert other.class_losses[[0, 1, 3]].tolist() == [1, 2, 2]
