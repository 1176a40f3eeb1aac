"""Checks of saved states: their version, their keys and their fingerprint. The core checks the values."""

from __future__ import annotations

from typing import Any

from l2m_fast._checks import shortened

VERSION = 4  # 3 had no lookahead, rows drawn and policy memory; in 2, due times could move by a whole interval
MAX_EPOCH = 2**52  # for set_epoch(); leaves room for all epochs that may follow

State = dict[str, Any]

_KEYS = frozenset(
    {
        *(
            "version",
            "fingerprint",
            "seed",
            "rank",
            "world_size",
            "epoch",
            "next_epoch",
            "step",
            "total_step",
            "updated",
        ),
        *("windows", "passes", "positions", "drawn", "visits", "offsets", "due", "held", "proportions"),
        *("next_proportions", "class_losses", "window_sums", "window_counts", "memory"),
    }
)


def checked(state: object, fingerprint: dict[str, Any]) -> list[State]:
    """Return the states to load, as a list.

    Args:
        state: State of one rank, or the list of the states of all ranks.
        fingerprint: Fingerprint of this loader.

    Raises:
        TypeError: `state` is neither a dict nor a list of dicts.
        ValueError: The version is wrong, keys are missing, or the state was saved by a loader with other data or
            options.
    """
    states: list[Any] = state if isinstance(state, list) else [state]
    for one in states:
        _check(one, fingerprint)
    return states


def _check(state: object, fingerprint: dict[str, Any]) -> None:
    if not isinstance(state, dict):
        msg = f"state must be a dict, or a list of the dicts of all ranks (got {type(state).__name__})"
        raise TypeError(msg)
    version = state.get("version")
    if type(version) is not int or version != VERSION:
        msg = f"version of the state must be {VERSION} (got {shortened(version)})"
        raise ValueError(msg)
    missing = sorted(_KEYS - state.keys())
    if missing:
        msg = f"the state lacks the keys {', '.join(missing)}"
        raise ValueError(msg)
    theirs = state["fingerprint"]
    if not isinstance(theirs, dict):
        msg = f"fingerprint of the state must be a dict (got {shortened(theirs)})"
        raise TypeError(msg)
    differing = [key for key in fingerprint if not _equal(theirs.get(key), fingerprint[key])]
    if differing:
        differences = "; ".join(
            f"{key}: {shortened(theirs.get(key))} in the state, {shortened(fingerprint[key])} here" for key in differing
        )
        msg = f"the state must be from a loader with the same data and options (got {differences})"
        raise ValueError(msg)


def _equal(theirs: object, ours: object) -> bool:
    """Return whether two values compare equal. Values whose comparison returns no bool, such as arrays, do not."""
    return (theirs == ours) is True
