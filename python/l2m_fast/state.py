"""Saved states: of which version and loader they must be. The core checks all else."""

from __future__ import annotations

from typing import Any

from l2m_fast._checks import shortened

VERSION = 4  # 3: without lookahead, rows drawn and memory of policies; 2: due times that moved by up to an interval
MAX_EPOCH = 2**52  # for set_epoch(): far enough below for all epochs that may follow

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
    """Return the states that a loader is to go on from.

    Args:
        state: One state, or the list of the states of all ranks.
        fingerprint: Of this loader.

    Raises:
        TypeError: Not a dict or a list of them.
        ValueError: Another version, entries missing, or the state of a loader of other data or settings.
    """
    states: list[Any] = state if isinstance(state, list) else [state]
    for one in states:
        _check(one, fingerprint)
    return states


def _check(state: object, fingerprint: dict[str, Any]) -> None:
    if not isinstance(state, dict):
        msg = f"a state must be a dict, or a list of those of all ranks (got {type(state).__name__})"
        raise TypeError(msg)
    version = state.get("version")
    if type(version) is not int or version != VERSION:
        msg = f"the state must be of version {VERSION} (got {shortened(version)})"
        raise ValueError(msg)
    missing = sorted(_KEYS - state.keys())
    if missing:
        msg = f"the state lacks {', '.join(missing)}"
        raise ValueError(msg)
    theirs = state["fingerprint"]
    if not isinstance(theirs, dict):
        msg = f"fingerprint of the state must be of type dict (got {shortened(theirs)})"
        raise TypeError(msg)
    differing = [key for key in fingerprint if not _equal(theirs.get(key), fingerprint[key])]
    if differing:
        differences = "; ".join(
            f"{key}: {shortened(theirs.get(key))} in the state, {shortened(fingerprint[key])} here" for key in differing
        )
        msg = f"the state is that of another loader ({differences})"
        raise ValueError(msg)


def _equal(theirs: object, ours: object) -> bool:
    """Whether two values are equal; of what does not say so by a bool, such as an array, they are not."""
    return (theirs == ours) is True
