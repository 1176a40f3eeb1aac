"""Saved states as bytes, the form that the C API reads and writes."""

from __future__ import annotations

from typing import Any

from l2m_fast import _core

MAX_EPOCH = 2**52  # for set_epoch(); leaves room for all epochs that may follow


def state_to_bytes(state: dict[str, Any]) -> bytes:
    """Return the bytes of a state, which are the same on every machine and end in a hash that detects damage.

    The C API loads them into a loader with the same data and options.

    Args:
        state: State from `Loader.state_dict()`.

    Raises:
        TypeError, ValueError: `state` is not a state of this version.
    """
    return _core.state_to_bytes(state)


def state_from_bytes(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the state of some bytes, a dict for `Loader.load_state_dict()`.

    Args:
        data: Bytes from `state_to_bytes()`, or from `l2m_state_save()` of the C API.

    Raises:
        TypeError: `data` is not a contiguous buffer of bytes.
        ValueError: The bytes are damaged, or are not those of a state of this version.
    """
    return _core.state_from_bytes(data)
