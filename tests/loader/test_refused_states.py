"""States of other loaders, and broken states, are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, Learn2Mix, Loader, Static
from loader.small import CLASSES, STEPS, N, drive, losses_of, make


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"batch_size": 5}, "global_batch: 5 in the state, 6 here"),
        ({"world_size": 2, "rank": 0, "all_reduce": print}, "global_batch: 12 in the state, 6 here"),
        ({"classes": CLASSES[::-1]}, "classes: [0-9a-f]{16} in the state"),
        ({"classes": CLASSES // 2}, "num_classes: 2 in the state, 4 here"),
        ({"rows": np.arange(N - 1)}, "rows: 39 in the state, 40 here"),
        ({"rows": np.arange(N)[::-1][:30]}, "rows: 30 in the state"),
        (
            {"mixing": Learn2Mix(0.25)},
            r"mixing: Learn2Mix\(mixing_rate=0.25, .*=proportional\) in the state, Learn2Mix\(mixing_rate=0.5, .* here",
        ),
        ({"mixing": Balanced()}, r"mixing: Balanced\(\) in the state"),
        ({"order": "grouped"}, "order: grouped in the state, shuffled here"),
        ({"shuffle": False}, "shuffle: false in the state, true here"),
        ({"steps_per_epoch": 6}, "steps_per_epoch: 6 in the state, none here"),
        ({"update_every": 3}, "update_every: 3 in the state, none here"),
        ({"drop_last": True}, "drop_last: true in the state"),
        ({"classes": None, "mixing": None}, "num_classes: 1 in the state"),
        ({"classes": None, "mixing": None}, "classes: none, rows [0-9a-f]{16} in the state"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_the_state_of_another_loader_is_refused_naming_the_difference(options: Any, differing: str) -> None:
    loader = make()
    with pytest.raises(
        ValueError, match=f"the state must be from a loader with the same data and options.*{differing}"
    ):
        loader.load_state_dict(make(**options).state_dict())
    assert len(list(loader)) == STEPS


@pytest.mark.parametrize(
    ("data", "differing"),
    [
        (np.arange(N, dtype=np.int32), "fields: 4 in the state, 8 here"),
        (np.zeros((N, 3), np.int64), "fields: 24 in the state, 8 here"),
        ((np.arange(N), np.arange(N)), "fields: 8, 8 in the state, 8 here"),
    ],
)
def test_the_state_of_other_data_is_refused(data: Any, differing: str) -> None:
    other = Loader(data, batch_size=6, classes=CLASSES, mixing=Learn2Mix(0.5), format="numpy", seed=0)
    with pytest.raises(ValueError, match=differing):
        make().load_state_dict(other.state_dict())


def test_numpy_and_torch_data_have_the_same_fingerprint() -> None:
    loader = Loader(torch.arange(N), batch_size=6, classes=CLASSES, mixing=Learn2Mix(0.5), seed=0)
    loader.load_state_dict(make().state_dict())
    assert len(list(loader)) == STEPS


def test_as_many_other_row_ids_are_refused() -> None:
    first, second = make(rows=np.arange(20)), make(rows=np.arange(1, 21))
    with pytest.raises(ValueError, match="must be from a loader with the same data"):
        second.load_state_dict(first.state_dict())


_MISSING = object()
_COUNTS = ("rank", "world_size", "epoch", "step", "total_step", "windows")
_LISTS = (
    *("passes", "positions", "visits", "offsets", "due", "held", "proportions", "next_proportions", "class_losses"),
    *("drawn", "window_sums", "window_counts", "memory"),
)
_NAN, _INF = float("nan"), float("inf")
# Field -> broken values, TypeErrors and ValueErrors apart.
_WRONG_TYPE: dict[str, list[Any]] = {
    "seed": [1.5, None, True, "0"],
    "fingerprint": [None, [], "x"],
    **{name: [1.5, None, True, "0", [0]] for name in _COUNTS},
    **{name: [None, 1, "x", {}, (0, 0, 0, 0)] for name in _LISTS},
}
for _name in ("passes", "positions", "visits", "offsets", "drawn"):
    _WRONG_TYPE[_name] += [[0, 0, 0, 0.0], [0, 0, 0, None], [0, 0, 0, True], [0, 0, 0, "a"]]
for _name in ("due", "proportions", "next_proportions"):
    _WRONG_TYPE[_name] += [[0.5, 0.5, 0.0, "a"], [0.5, 0.5, 0.0, None], [0.5, 0.5, 0.0, [0.0]]]
_WRONG_TYPE["updated"] = [None, 0, 1, "x"]
_WRONG_TYPE["window_counts"] += [[[0, 0, 0, 0.0]], [[0, 0, 0, None]], [[0, 0, 0, True]], [0, 0, 0, 0]]
_WRONG_TYPE["window_sums"] += [[[[], [], [], ["a"]]], [[[], [], [], [None]]], [[0.0] * 4], [[[0]] * 4]]
_WRONG_TYPE["memory"] += [[0], [[0.0]], [0.0, 0.0, 0.0, None]]
_WRONG_TYPE["held"] += [[[0, [1.5]]], [["a", [1]]], [[0, ["a"]]], [[True, [20]]], [[0, [True]]]]
_WRONG_TYPE["fingerprint"] += [{"rows": 40}, {1: "40"}]
_WRONG_TYPE["class_losses"] += [[0.0, 0.0, None, "a"], [0.0, 0.0, None, True]]
_WRONG_VALUE: dict[str, list[Any]] = {
    "version": [0, 1, 2, 3, 4, 5, 7, True, 6.0, "6", None, _MISSING],
    "updated": [_MISSING],
    "drawn": [[0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2**53 + 1], _MISSING],
    "memory": [[0.0], [0.0] * 4, [_NAN], _MISSING],
    "seed": [-1, 2**64, _MISSING],
    "fingerprint": [{}, {"rows": "40"}, _MISSING],
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
        *([1], [[0]], [[0, 1]], [[0, [0, 0]]], [[0, [-1]]], [[0, [N]]], [[0, [39]]], [[7, [1]]], [[-1, [1]]]),
        *([[0, [1]], [0, [2]]], [[0, list(range(21))]], [[2, [1]]], [[2, []]], [[0, [1], 2]], [[3, [32]], [0, [1]]]),
        *([[0, [2**63]]], [None], _MISSING),
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
    "window_sums": [
        *([], [[[]] * 5], [[[_NAN], [], [], []]], [[[_INF], [], [], []]], [[[-1e300], [], [], []]]),
        *([[[], [], [1.0], []]], [[[]] * 4] * 2, [[]] * 4),
        _MISSING,
    ],
    "window_counts": [
        *([], [[0] * 5], [[-1, 0, 0, 0]], [[2**63, 0, 0, 0]], [[0, 0, 0, 0]], [[2**60, 1, 0, 1]], [[0] * 4] * 2),
        _MISSING,
    ],
}


def _broken() -> Iterator[Any]:
    for error, table in ((TypeError, _WRONG_TYPE), (ValueError, _WRONG_VALUE)):
        for name, values in table.items():
            for value in values:
                shown = "missing" if value is _MISSING else str(value)[:30]
                yield pytest.param(name, value, error, id=f"{name}={shown}")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """Return the state of a loader in mid-epoch, with pending losses of every class."""
    loader = make()
    for rows in itertools.islice(loader, 3):
        loader.record(losses_of(rows))
    state = loader.state_dict()
    assert min(state["window_counts"][0][k] for k in (0, 1, 3)) > 0
    return state


@pytest.mark.parametrize(("name", "value", "error"), list(_broken()))
def test_a_broken_state_is_refused_and_the_loader_stays_usable(
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
    with pytest.raises((TypeError, ValueError), match=r"\(got|lacks|invalid|alone") as raised:
        loader.load_state_dict(broken)
    assert raised.type is error
    assert "pybind11" not in str(raised.value)
    assert "incompatible" not in str(raised.value)
    assert loader.state_dict() == twin.state_dict()
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in expected]
    assert loader.state_dict() == twin.state_dict()


@pytest.mark.parametrize("given", [None, 1, "state", b"", (), {1, 2}, [None], [1], np.zeros(3)])
def test_a_value_that_is_not_a_state_is_refused(given: Any) -> None:
    loader = make()
    with pytest.raises(TypeError, match="state must be a dict"):
        loader.load_state_dict(given)
    assert len(list(loader)) == STEPS


def test_an_empty_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"version of the state must be 6 \(got None\)"):
        make().load_state_dict({})


def test_windows_must_agree_with_the_steps() -> None:
    loader = make(update_every=2)
    drive(loader, 5)
    state = loader.state_dict()
    assert state["windows"] == 2
    for windows in (0, 1, 3):
        with pytest.raises(ValueError, match=r"windows of the state must be in \[2, 2\]"):
            loader.load_state_dict({**state, "windows": windows})
    loader.load_state_dict(state)


def test_held_rows_are_saved_once_and_belong_to_their_class() -> None:
    """Check the held rows in the states of a whole epoch, and that each state can be loaded."""
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


def test_a_custom_policy_is_recognized_by_its_parameters() -> None:
    class Follow:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, window: Any) -> Any:
            return window.proportions

    state = make(mixing=Follow(0.5)).state_dict()
    make(mixing=Follow(0.5)).load_state_dict(state)
    with pytest.raises(ValueError, match=r'Follow": {"rate": 0.5}} in the state, .*Follow": {"rate": 0.25}} here'):
        make(mixing=Follow(0.25)).load_state_dict(state)
