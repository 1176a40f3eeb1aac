"""What is raised where the user can mend it."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line that says what, and what is allowed."""
