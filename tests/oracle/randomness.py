"""Random numbers addressed by (seed, stream, a, b, c), without shared state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SHUFFLE, DUE, RANK_OFFSET, BATCH_ORDER, BUCKET = 1, 2, 3, 4, 5  # the streams


def words(seed: int, stream: int, a: int, b: int, c: int, count: int, block: int = 0) -> NDArray[np.uint64]:
    """Return `count` words of a stream, starting at word `4 * block`, by Philox4x64-10."""
    counter = np.array([block, a, b, c], np.uint64)
    return np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter).random_raw(count).astype("<u8")


def sequence(seed: int, stream: int, a: int, b: int = 0, c: int = 0) -> np.random.SFC64:
    """Return the generator of an address: SFC64, whose state is the first three words of the address, and 1."""
    generator = np.random.SFC64()
    state = generator.state
    state["state"]["state"] = np.array([*words(seed, stream, a, b, c, 3), 1], np.uint64)
    generator.state = state
    return generator


class Words(Protocol):
    """Protocol of a source of random numbers."""

    def random_raw(self) -> Any:
        """Return the next 64 random bits."""


def throw_dice(generator: Words, sides: Sequence[int]) -> list[int]:
    """Return unbiased integers below each of `sides`, whose product is below 2**64 (Brackett-Rozinsky, Lemire 2024)."""
    product = math.prod(sides)
    while True:
        rest = int(generator.random_raw())
        dice = []
        for n in sides:
            die, rest = divmod(rest * n, 2**64)
            dice.append(die)
        if rest >= 2**64 % product:
            return dice


def fisher_yates(values: list[Any], generator: Words) -> None:
    """Shuffle `values` in place, uniformly, with several dice per throw, and one at a time for the last values."""
    bound = len(values)
    while bound > 1:
        count = min(max(58 // bound.bit_length(), 1), 8)
        if count >= bound:
            count = 1
        for die in throw_dice(generator, range(bound, bound - count, -1)):
            bound -= 1
            values[bound], values[die] = values[die], values[bound]


@lru_cache(maxsize=100_000)
def due_quarter(seed: int, k: int, visit: int) -> int:
    """Return 16 bits for a visit of class `k`: quarter number `visit` of its stream, low quarters of a word first."""
    quarters = words(seed, DUE, k, 0, 0, 4, visit // 16).view("<u2")
    return int(quarters[visit % 16])
