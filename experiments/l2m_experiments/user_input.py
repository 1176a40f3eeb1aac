"""Input of the user: its error, and lookup by a name from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(Exception):
    """Input that cannot be used; the message is one line that says what is wrong and what is allowed."""


def lookup(kind: str, name: str, items: Mapping[str, T]) -> T:
    """Return the item of the given name.

    Args:
        kind: Singular noun for the items, used in the message.
        name: The name the user gave.
        items: All items by name.

    Raises:
        InputError: No item has this name; the message suggests the nearest name, or lists all if none is near.
    """
    if name in items:
        return items[name]
    near = difflib.get_close_matches(name, items, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(items)}"
    msg = f"there is no {kind} {name[:200]!r}; {hint}"
    raise InputError(msg)
