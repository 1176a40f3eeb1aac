"""What is chosen by name on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from l2m_experiments.errors import InputError

T = TypeVar("T")


def named(kind: str, name: str, things: Mapping[str, T]) -> T:
    """Returns the thing of that name.

    Args:
        kind: What the things are, in the singular, for the message.
        name: As given.
        things: All there are.

    Raises:
        InputError: There is none; the message suggests the nearest, or names all where none is near.
    """
    if name in things:
        return things[name]
    near = difflib.get_close_matches(name, things, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(things)}"
    msg = f"there is no {kind} {name!r}; {hint}"
    raise InputError(msg)
