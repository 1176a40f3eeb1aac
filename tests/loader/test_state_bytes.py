"""States as bytes: the same run, and damage is detected."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from l2m_fast import GroupDRO, Loader, Static, state_from_bytes, state_to_bytes
from loader.small import drive, losses_of, make

OPTIONS: dict[str, dict[str, Any]] = {
    "an epoch": {},
    "windows": {"update_every": 2, "lookahead": 1, "mixing": GroupDRO(0.1)},
    "held rows": {"mixing": Static([0.3, 0.1, 0.0, 0.6]), "batch_size": 12, "steps_per_epoch": 40},
    "no classes": {"classes": None, "mixing": None},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_state_survives_bytes(options: dict[str, Any]) -> None:
    loader = make(**options)
    for rows in itertools.islice(loader, 5):
        loader.record(losses_of(rows))
        state = loader.state_dict()
        data = state_to_bytes(state)
        assert state_from_bytes(data) == state
        assert state_from_bytes(memoryview(data)) == state
        assert state_to_bytes(state_from_bytes(bytearray(data))) == data
    loader.set_epoch(9)
    assert state_from_bytes(state_to_bytes(loader.state_dict()))["next_epoch"] == 9


def test_a_state_from_bytes_resumes() -> None:
    run = make()
    drive(run, 9)
    data = state_to_bytes(run.state_dict())
    resumed, expected = make(), make()
    resumed.load_state_dict(state_from_bytes(data))
    expected.load_state_dict(run.state_dict())
    assert drive(resumed, 12) == drive(expected, 12)


def test_the_bytes_are_little_endian_words() -> None:
    data = state_to_bytes(make().state_dict())
    assert data[:24] == b"l2mstate" + (6).to_bytes(8, "little") + len(data).to_bytes(8, "little")


def test_every_changed_byte_and_every_cut_is_detected() -> None:
    loader = make()
    drive(loader, 3)
    data = state_to_bytes(loader.state_dict())
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r"must .* \(got"):
            state_from_bytes(damaged)
        with pytest.raises(ValueError, match=r"must .* \(got"):
            state_from_bytes(data[:at])
    with pytest.raises(ValueError, match=f"complete, with {len(data)} bytes .got {len(data) + 1}"):
        state_from_bytes(data + b"\0")


def hash_of(data: bytes) -> bytes:
    """Return the last word of a state, FNV-1a of all before it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value.to_bytes(8, "little")


@pytest.mark.parametrize("seed", range(20))
def test_a_forged_state_is_refused_or_a_state(seed: int) -> None:
    """Bytes with a right hash lead neither outside the memory nor to large allocations."""
    rng = random.Random(seed)
    loader = make(mixing=Static([0.3, 0.1, 0.0, 0.6]), batch_size=12, steps_per_epoch=40)
    drive(loader, 7)
    data = state_to_bytes(loader.state_dict())
    assert hash_of(data[:-8]) == data[-8:]
    for _ in range(100):
        forged = bytearray(data[:-8])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(3, len(forged) // 8) * 8
            forged[at : at + 8] = rng.choice([0, 1, 2**16, 2**53, 2**63, 2**64 - 1, rng.getrandbits(64)]).to_bytes(
                8, "little"
            )
        try:
            state = state_from_bytes(bytes(forged) + hash_of(bytes(forged)))
        except ValueError:
            continue
        assert state_from_bytes(state_to_bytes(state)) == state


def test_another_version_is_refused_by_name() -> None:
    data = bytearray(state_to_bytes(make().state_dict()))
    data[8] = 5
    with pytest.raises(ValueError, match=r"version of the state must be 6 \(got 5\)"):
        state_from_bytes(data)


@pytest.mark.parametrize("data", [None, "l2mstate", 5, [1, 2]])
def test_other_objects_are_not_bytes(data: Any) -> None:
    with pytest.raises(TypeError):
        state_from_bytes(data)


def test_strided_memory_is_refused() -> None:
    data = np.frombuffer(state_to_bytes(make().state_dict()), np.uint8)
    with pytest.raises(ValueError, match="contiguous"):
        state_from_bytes(np.repeat(data, 2)[::2].data)


@pytest.mark.parametrize("state", [None, [], {}, {"version": 6}, b""])
def test_other_objects_are_not_states(state: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="state"):
        state_to_bytes(state)


def test_invalid_text_in_a_fingerprint_is_refused() -> None:
    state = Loader(np.arange(3), batch_size=1, format="numpy", seed=0).state_dict()
    data = state_to_bytes(state)[:-8].replace(b"shuffled", b"shuffle\xff")
    with pytest.raises(ValueError, match="utf-8"):
        state_from_bytes(data + hash_of(data))
