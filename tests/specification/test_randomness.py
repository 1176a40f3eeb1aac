"""Words, sequences and dice of the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import (
    due_quarter,
    sequence,
    throw_dice,
    words,
)
from specification.cases import MAX_WORD, assert_uniform


def plain_philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Return the block of a counter, as in figure 2 of Salmon et al. (2011)."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (high >> 64) ^ x1 ^ k0, high & MAX_WORD, (low >> 64) ^ x3 ^ k1, low & MAX_WORD
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MAX_WORD, (k1 + 0xBB67AE8584CAA73B) & MAX_WORD
    return [x0, x1, x2, x3]


# philox4x64-10 in the known-answer tests of Random123, by the authors of Salmon et al. (2011): counter, key, block
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]),
    ([MAX_WORD] * 4, [MAX_WORD] * 2, [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_philox_passes_the_known_answer_tests(counter: list[int], key: list[int], block: list[int]) -> None:
    assert plain_philox(counter, key) == block
    before = sum(word << 64 * i for i, word in enumerate(counter)) - 1  # NumPy increments the counter before each block
    numpy_counter = np.array([before >> 64 * i & MAX_WORD for i in range(4)], np.uint64)
    assert np.random.Philox(key=np.array(key, np.uint64), counter=numpy_counter).random_raw(4).tolist() == block


@given(st.integers(0, MAX_WORD), *[st.integers(0, 2**32)] * 4, st.integers(1, 9))
def test_words_of_a_stream_are_philox_blocks_starting_at_counter_one(
    seed: int, stream: int, a: int, b: int, c: int, count: int
) -> None:
    blocks = [plain_philox([1 + i, a, b, c], [seed, stream]) for i in range(3)]
    assert words(seed, stream, a, b, c, count).tolist() == [*itertools.chain(*blocks)][:count]
    assert words(seed, stream, a, b, c, 4, block=2).tolist() == blocks[2]


def plain_sfc64(a: int, b: int, c: int) -> Iterator[int]:
    """Yield SFC64 as published by its author (Doty-Humphrey, PractRand), from a state with counter 1."""
    for counter in itertools.count(1):
        word = (a + b + counter) & MAX_WORD
        a, b, c = b ^ b >> 11, (c + (c << 3)) & MAX_WORD, ((c << 24 | c >> 40) + word) & MAX_WORD
        yield word


@given(st.integers(0, MAX_WORD), *[st.integers(0, 2**32)] * 4)
def test_a_sequence_is_sfc64_seeded_by_the_words_of_its_address(seed: int, stream: int, a: int, b: int, c: int) -> None:
    expected = [*itertools.islice(plain_sfc64(*words(seed, stream, a, b, c, 3).tolist()), 30)]
    assert sequence(seed, stream, a, b, c).random_raw(30).tolist() == expected


def test_due_quarter_is_a_quarter_of_a_word_low_ones_first() -> None:
    quarters = [word >> 16 * i & 0xFFFF for word in words(9, 2, 7, 0, 0, 11).tolist() for i in range(4)]
    assert [due_quarter(9, 7, visit) for visit in range(44)] == quarters


class Given64:
    """Source of the given words, one after the other."""

    def __init__(self, *given_words: int) -> None:
        self._words = iter(given_words)

    def random_raw(self) -> int:
        return next(self._words)


def test_dice_are_thrown_again_where_a_word_would_bias_them() -> None:
    assert throw_dice(Given64(0, MAX_WORD), [3]) == [2]  # 2**64 = 1 (mod 3): one word is in excess: 0
    assert throw_dice(Given64(1), [3]) == [0]
    assert throw_dice(Given64(0), [1]) == [0]
    assert [throw_dice(Given64(word), [2**63]) for word in (0, 1, 2, 3)] == [[0], [0], [1], [1]]
    assert throw_dice(Given64(3 << 62), [2, 4, 2]) == [1, 2, 0]  # digits of 3/4 in mixed base 2, 4, 2
    assert throw_dice(Given64(0, 15, 16), [3, 5]) == [0, 0]  # 2**64 = 1 (mod 15)


@pytest.mark.parametrize("n", [6, 3 * 2**61])
def test_a_die_is_uniform(n: int) -> None:
    generator = sequence(1, 9, 0)
    thrown = [die for _ in range(6000) for die in throw_dice(generator, [n])]
    assert 0 <= min(thrown) <= max(thrown) < n
    assert_uniform(np.bincount([die * 6 // n for die in thrown], minlength=6))
    assert_uniform(np.bincount([die % 6 for die in thrown], minlength=6))


@pytest.mark.parametrize("sides", [(7, 6, 5), (11, 10, 9, 8)])
def test_dice_of_a_throw_are_uniform_and_independent(sides: tuple[int, ...]) -> None:
    generator = sequence(1, 9, 0)
    throws = np.array([throw_dice(generator, sides) for _ in range(100_000)])
    assert_uniform(np.bincount(np.ravel_multi_index(tuple(throws.T), sides), minlength=int(np.prod(sides))))
