"""Checks that several modules share."""

from __future__ import annotations

import reprlib
from collections.abc import Sized
from contextlib import suppress

import numpy as np


class _Repr(reprlib.Repr):
    """Represent the first items of a list, and other large containers and arrays by their size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxlong = self.maxother = most

    repr_bytes = reprlib.Repr.repr_str  # it cuts before it represents

    def repr1(self, x: object, level: int) -> str:
        """Return the repr of a value or of an item of it."""
        name = type(x).__name__
        with suppress(Exception):  # of a __repr__, __len__ or shape
            if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic):
                return f"<{name} of shape {tuple(x.shape)} and {x.dtype}>"
            if isinstance(x, Sized) and not isinstance(x, (str, bytes, list, tuple)) and len(x) > 100:
                return f"<{name} of {len(x)} items>"
            return super().repr1(x, level)
        return f"<{name} without a repr>"


def shortened(value: object, most: int = 200) -> str:
    """Return the repr of a value, or a summary of it, for an error message.

    The cost does not grow with the number of items.

    Args:
        value: Any object, also one whose `__repr__` raises.
        most: Maximum length of the result; a longer one is cut and ends in "...".
    """
    text = _Repr(most).repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
