"""Saved states: what they must contain, when they fit a loader, and how those of several ranks become one."""

from __future__ import annotations

import math
from typing import Any

from l2m_fast._checks import shortened
from l2m_fast.losses.sums import LARGEST_SUM, MAX_COUNT

VERSION = 3  # 1: permutations by Philox alone; 2: due times that moved by up to an interval
MAX_EPOCH = 2**52  # for set_epoch(): far enough below for all epochs that may follow

State = dict[str, Any]

# Of a state, all but what differs from rank to rank: its place among the ranks, and the losses it has not shared yet.
_OF_ONE_RANK = frozenset({"rank", "window_sum", "window_count"})

_KEYS: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "seed": (int,),
    "fingerprint": (dict,),
    "rank": (int,),
    "world_size": (int,),
    "epoch": (int,),
    "next_epoch": (int, type(None)),  # asked for by set_epoch() while an epoch runs
    "step": (int,),
    "total_step": (int,),
    "windows": (int,),
    "passes": (list,),
    "positions": (list,),
    "visits": (list,),
    "offsets": (list,),
    "due": (list,),
    "held": (list,),
    "proportions": (list,),
    "next_proportions": (list,),
    "class_losses": (list,),
    "window_sum": (list,),
    "window_count": (list,),
}
_BY_CLASS: dict[str, tuple[type, ...]] = {
    "passes": (int,),
    "positions": (int,),
    "visits": (int,),
    "offsets": (int,),
    "due": (float,),
    "proportions": (float,),
    "next_proportions": (float,),
    "class_losses": (float, type(None)),
    "window_sum": (float,),
    "window_count": (int,),
}


def merged(state: object, fingerprint: dict[str, Any], rank: int, world_size: int, num_classes: int) -> State:
    """The state that this rank goes on from.

    Args:
        state: One state, or the list of the states of all ranks, whose pending losses add up: rank 0 takes them.
        fingerprint: Of this loader.
        rank: Of this loader.
        world_size: Of this loader.
        num_classes: Of this loader.

    Raises:
        TypeError: Not a dict or a list of them, or an entry of the wrong type.
        ValueError: Another version, entries missing or malformed, the state of a loader of other data or settings,
            ranks missing, or pending losses of other ranks that would be lost.
    """
    states = state if isinstance(state, list) else [state]
    if not states:
        msg = "a list of states must hold those of all ranks (got an empty list)"
        raise ValueError(msg)
    checked = [_checked(one, fingerprint, num_classes) for one in states]
    first = checked[0]
    of = first["world_size"]
    if len(checked) == 1:
        if (first["rank"], of) == (rank, world_size):
            return first
        if of > 1 and any(first["window_count"]):
            msg = (
                f"a state with losses recorded since the last update, of rank {first['rank']} of {of}, cannot go on as rank "
                f"{rank} of {world_size} alone: pass the list of the states of all {of} ranks"
            )
            raise ValueError(msg)
    else:
        got = sorted(one["rank"] for one in checked)
        if len(got) != of or got != list(range(of)):
            msg = f"a list of states must hold each of the {of} ranks once (got ranks {shortened(got)})"
            raise ValueError(msg)
        for one in checked[1:]:
            differing = sorted(key for key in first.keys() - _OF_ONE_RANK if one[key] != first[key])
            if differing:
                msg = f"the states of the ranks are not of one moment: {', '.join(differing)} differ"
                raise ValueError(msg)
    pending = checked if rank == 0 else []
    counts = [sum(of_class) for of_class in zip(*(one["window_count"] for one in pending), strict=True)]
    for count in counts:
        _check_count("window_count", count)
    return {
        **first,
        "window_sum": [
            max(-LARGEST_SUM, min(sum(sums), LARGEST_SUM))
            for sums in zip(*(one["window_sum"] for one in pending), strict=True)
        ]
        or [0.0] * num_classes,
        "window_count": counts or [0] * num_classes,
    }


def _checked(state: object, fingerprint: dict[str, Any], num_classes: int) -> State:
    if not isinstance(state, dict):
        msg = f"a state must be a dict, or a list of those of all ranks (got {type(state).__name__})"
        raise TypeError(msg)
    if type(state.get("version")) is not int or state["version"] != VERSION:
        msg = f"the state must be of version {VERSION} (got {shortened(state.get('version'))})"
        raise ValueError(msg)
    missing = sorted(_KEYS.keys() - state.keys())
    if missing:
        msg = f"the state lacks {', '.join(missing)}"
        raise ValueError(msg)
    for key, kinds in _KEYS.items():
        if not isinstance(state[key], kinds) or isinstance(state[key], bool):
            msg = f"{key} of the state must be of type {' or '.join(kind.__name__ for kind in kinds)} (got {shortened(state[key])})"
            raise TypeError(msg)
        if isinstance(state[key], int) and key != "seed":
            _check_count(key, state[key])
    theirs = state["fingerprint"]
    differing = [key for key in fingerprint if not _equal(theirs.get(key), fingerprint[key])]
    if differing:
        differences = "; ".join(
            f"{key}: {shortened(theirs.get(key))} in the state, {shortened(fingerprint[key])} here" for key in differing
        )
        msg = f"the state is that of another loader ({differences})"
        raise ValueError(msg)
    for key, kinds in _BY_CLASS.items():
        if len(state[key]) != num_classes:
            msg = f"{key} of the state must have {num_classes} values (got {len(state[key])})"
            raise ValueError(msg)
        for value in state[key]:
            if not isinstance(value, kinds) or isinstance(value, bool):
                msg = f"{key} of the state must hold {' or '.join(kind.__name__ for kind in kinds)} (got {shortened(value)})"
                raise TypeError(msg)
            if isinstance(value, int):
                _check_count(key, value)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"{key} of the state must be finite (got {value})"
                raise ValueError(msg)
    if not 0 <= state["seed"] < 2**64:
        msg = f"seed of the state must be in [0, 2**64) (got {shortened(state['seed'])})"
        raise ValueError(msg)
    if state["rank"] >= state["world_size"]:
        msg = f"rank of the state must be in [0, {state['world_size']}) (got {state['rank']})"
        raise ValueError(msg)
    if any(loss is not None and loss < 0 for loss in state["class_losses"]):
        msg = f"class_losses of the state must be >= 0 (got {shortened(state['class_losses'])})"
        raise ValueError(msg)
    _check_held(state["held"], num_classes)
    return state


def _equal(theirs: object, ours: object) -> bool:
    """Whether two values are equal; of what does not say so by a bool, such as an array, they are not."""
    return (theirs == ours) is True


def _check_count(key: str, value: int) -> None:
    most = 2**16 - 1 if key == "offsets" else MAX_COUNT
    if not 0 <= value <= most:
        msg = f"{key} of the state must be in [0, {most}] (got {shortened(value)})"
        raise ValueError(msg)


def _check_held(held: list[Any], num_classes: int) -> None:
    """Checks the form; the core checks that the rows are of their class and none is there twice."""
    before = -1
    for entry in held:
        match entry:
            case [int(class_id), [_, *_] as rows] if all(type(row) is int and 0 <= row <= MAX_COUNT for row in rows):
                if type(class_id) is int and before < class_id < num_classes:
                    before = class_id
                    continue
        msg = f"held of the state must hold [class, [row, ...]] with ascending classes below {num_classes} (got {shortened(entry)})"
        raise ValueError(msg)


def check_steps(state: State, steps: int, update_every: int | None) -> None:
    """Raises ValueError unless the counts of a state agree with each other."""
    total = state["total_step"]
    if state["step"] > min(steps, total):
        msg = (
            f"step of the state must be at most {steps}, and total_step (got step {state['step']}, total_step {total})"
        )
        raise ValueError(msg)
    possible = {0}
    if update_every is not None:  # the window that ends here may or may not be closed yet
        possible = {total // update_every, max((total - 1) // update_every, 0)}
    if state["windows"] not in possible:
        msg = f"windows of the state must be in {sorted(possible)} at total_step {total} (got {state['windows']})"
        raise ValueError(msg)
