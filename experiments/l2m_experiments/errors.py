"""The error for input that the user can correct."""

from __future__ import annotations


class InputError(Exception):
    """Input that cannot be used; the message is one line that says what is wrong and what is allowed."""
