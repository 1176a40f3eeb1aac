"""Damaged states are refused at once, or work without a hang, a crash or a repeated row."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

from faults.programs import run
from l2m_fast import Balanced, ClassLoss, Learn2Mix, Loader, Static

N = 24
CLASSES = np.array([0] * 3 + [1] * 9 + [2] * 12)


def make(**options: Any) -> Loader:
    usual: dict[str, Any] = {"batch_size": 10, "classes": CLASSES, "mixing": Balanced(), "format": "numpy", "seed": 0}
    return Loader(np.arange(N), **usual | options)


def test_held_rows_that_were_never_reached_are_refused() -> None:
    """They made next() hang and use more and more memory."""
    program = """
        loader = Loader(np.arange(3), batch_size=10, classes=np.zeros(3, int), steps_per_epoch=5, format="numpy", seed=0)
        state = loader.state_dict()
        try:
            loader.load_state_dict({**state, "held": [[0, [1]]]})
        except ValueError as error:
            print(error)
        print(sum(len(batch) for batch in loader))
        """
    out = run("import warnings; warnings.simplefilter('ignore')\n" + program.replace("\n        ", "\n"))
    assert out == "the state is invalid: class 0 holds 1 rows after drawing 0 rows of its pass\n50\n"


@pytest.mark.parametrize("key", ["passes", "positions", "held"])
def test_a_list_that_is_silent_about_its_length_is_refused(key: str) -> None:
    """It led outside the memory of the state."""
    program = f"""
        class Short(list):
            def __len__(self): return 0
        loader = Loader(np.arange(4000), batch_size=10, classes=np.arange(4000) % 7, format="numpy", seed=0)
        try:
            loader.load_state_dict({{**loader.state_dict(), "{key}": Short([10**6] * 4000)}})
        except ValueError as error:
            print("refused")
        """
    assert run(program) == "refused\n"


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
def test_a_held_row_that_is_still_ahead_is_refused(shuffle: bool) -> None:
    loader = make(shuffle=shuffle)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    position = state["positions"][2]
    assert 0 < position < 12
    drawn = set(np.flatnonzero(CLASSES == 2)) - set(range(N))
    seen = [row for row in loader.batch_rows.tolist() if CLASSES[row] == 2]
    to_come = sorted(set(np.flatnonzero(CLASSES == 2).tolist()) - set(seen) - drawn)
    for row in to_come:
        with pytest.raises(ValueError, match=f"row {row} of class 2 is held, but not drawn yet"):
            loader.load_state_dict({**state, "held": [[2, [row]]]})
    for row in seen:
        loader.load_state_dict({**state, "held": [[2, [row]]]})


def test_millions_of_missing_ranks_need_no_memory() -> None:
    state = {**make().state_dict(), "world_size": 2**50}
    with pytest.raises(ValueError, match=r"each of the 1125899906842624 ranks once \(got ranks \[0, 1\]\)"):
        make().load_state_dict([state, {**state, "rank": 1}])
    with pytest.raises(ValueError, match="ranks once") as raised:
        make().load_state_dict([state] * 1000)
    assert len(str(raised.value)) < 400


def test_huge_counts_are_refused_at_once() -> None:
    state = make().state_dict()
    for name, max_value in {"epoch": 2**53, "total_step": 2**53, "next_epoch": 2**52}.items():
        for value in (max_value + 1, 2**62, 2**63, 2**70):
            with pytest.raises(ValueError, match=rf"{name} of the state must be in \[0, {max_value}\]"):
                make().load_state_dict({**state, name: value})
    cases: list[tuple[str, Any]] = [
        *((name, [2**53 + 1, 0, 0]) for name in ("passes", "visits", "drawn")),
        ("window_counts", [[2**53 + 1, 0, 0]]),
    ]
    for name, entry in cases:
        with pytest.raises(ValueError, match=rf"{name} of the state must be in \[0, {2**53}\]"):
            make().load_state_dict({**state, name: entry})


def test_the_largest_epoch_that_can_be_set_can_be_saved_and_resumed() -> None:
    loader = make()
    for epoch in (2**52 + 1, 2**62):
        with pytest.raises(ValueError, match=rf"epoch must be an int in \[0, {2**52}\]"):
            loader.set_epoch(epoch)
    loader.set_epoch(2**52)
    for _ in range(3):
        list(loader)
        resumed = make()
        resumed.load_state_dict(loader.state_dict())
        assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in copy.deepcopy(loader)]


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "name", ["held", "passes", "due", "fingerprint", "version", "seed", "class_losses", "window_sums", "memory"]
)
def test_deep_nesting_is_refused(name: str) -> None:
    loader = make()
    state = loader.state_dict()
    with pytest.raises((TypeError, ValueError)) as raised:
        loader.load_state_dict({**state, name: nested(20_000)})
    assert len(str(raised.value)) < 500
    assert len(list(loader)) == 2


def test_deep_nesting_of_the_data_is_refused() -> None:
    data: Any = np.arange(N)
    for _ in range(20_000):
        data = (data,)
    with pytest.raises(ValueError, match="data must be nested at most 100 levels deep"):
        Loader(data, batch_size=2, format="numpy")


@pytest.mark.filterwarnings("ignore:Learn2Mix.*none was recorded")
@pytest.mark.parametrize("name", ["epoch", "total_step", "passes", "visits", "drawn", "window_counts"])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_run_ends_before_its_counters_overflow(name: str, lookahead: int) -> None:
    def loader() -> Loader:
        return make(mixing=Learn2Mix(), update_every=3 if name == "window_counts" else None, lookahead=lookahead)

    for start in (2**53 - 40, 2**53):
        state = loader().state_dict()
        if name == "window_counts":
            state[name] = [[start] * 3]
            state["window_sums"] = [[[1.0]] * 3]
        else:
            state[name] = [start] * 3 if isinstance(state[name], list) else start
        counting = loader()
        counting.load_state_dict(state)
        refused = ""
        for _ in range(60):
            try:
                next(iter(counting))
            except RuntimeError as error:
                refused = str(error)
                break
            counting.record(np.ones(10))
            loader().load_state_dict(counting.state_dict())
        loader().load_state_dict(counting.state_dict())
        assert ("the loader cannot count further" in refused) == (name != "window_counts")


def test_counts_of_losses_that_would_overflow_are_refused() -> None:
    loader = make()
    max_counts = ClassLoss(np.array([1.0, 0, 0]), np.array([2**53, 0, 0]))
    loader.record(max_counts)
    before = loader.state_dict()
    with pytest.raises(ValueError, match="counts"):
        loader.record(max_counts)
    assert loader.state_dict() == before
    make().load_state_dict(before)
    ranks = [make(batch_size=5, mixing=Static([0.2, 0.4, 0.4]), rank=r, world_size=2) for r in range(2)]
    for rank in ranks:
        rank.record(max_counts)
    with pytest.raises(ValueError, match="window_counts"):
        make(mixing=Static([0.2, 0.4, 0.4])).load_state_dict([rank.state_dict() for rank in ranks])


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_state_is_refused_or_works(seed: int) -> None:
    """If a damaged state is accepted, batches are full, rows have their class, and rows repeat only if they must."""
    rng = random.Random(seed)
    loader = make(mixing=Static([0.3, 0.3, 0.4]), batch_size=7, steps_per_epoch=50)
    for _ in zip(range(rng.randrange(1, 40)), loader, strict=False):
        pass
    state = loader.state_dict()
    for _ in range(60):
        damaged = copy.deepcopy(state)
        for _ in range(rng.randint(1, 3)):
            damage(damaged, rng)
        resumed = make(mixing=Static([0.3, 0.3, 0.4]), batch_size=7, steps_per_epoch=50)
        try:
            resumed.load_state_dict(damaged)
        except (TypeError, ValueError, OverflowError):
            continue
        batches = iter(resumed)
        for _ in range(20):
            try:
                rows = next(batches).tolist()
            except StopIteration:
                break
            except RuntimeError as error:
                if "the loader cannot count further" not in str(error):
                    raise
                break
            assert len(rows) == 7
            assert np.array_equal(resumed.batch_classes, CLASSES[rows])
            for k, size in enumerate((3, 9, 12)):
                of_class = [row for row in rows if CLASSES[row] == k]
                assert len(of_class) - len(set(of_class)) == max(len(of_class) - size, 0)


def damage(state: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice([name for name in state if name not in ("version", "fingerprint")])
    value = state[name]
    other: list[Any] = [
        0,
        1,
        -1,
        2,
        5,
        11,
        23,
        2**31,
        2**53,
        2**63,
        0.5,
        -0.5,
        1e300,
        float("nan"),
        None,
        [],
        "a",
        True,
    ]
    if name == "held" and rng.random() < 0.7:
        k = rng.randrange(3)
        state[name] = [[k, rng.sample(range(N), rng.randint(1, 4))]]
    elif isinstance(value, list) and value and rng.random() < 0.9:
        i = rng.randrange(len(value))
        is_number = isinstance(value[i], (int, float))
        value[i] = value[i] + rng.choice([-1, 1, 3]) if is_number and rng.random() < 0.5 else rng.choice(other)
    else:
        state[name] = rng.choice(other)


class _NoText:
    def __repr__(self) -> str:
        return "\ud800" * 300


@pytest.mark.parametrize(
    "value", ["é" * 300, "a" + "é" * 300, ["日" * 300], _NoText()], ids=["even", "odd", "list", "none"]
)
def test_a_wrong_value_of_a_state_is_cut_between_characters(value: Any) -> None:
    loader = make()
    state = loader.state_dict()
    for key in sorted(state.keys() - {"version", "fingerprint"}):
        with pytest.raises((TypeError, ValueError), match=key) as error:
            loader.load_state_dict({**state, key: value})
        assert not isinstance(error.value, UnicodeError)
        assert len(str(error.value)) < 400
