"""Passes of the oracle and the rows drawn from them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import (
    MAX_BUCKET,
    MAX_UNSPLIT,
    PART,
    Cursor,
    draw,
    fisher_yates,
    permutation,
    sequence,
)
from specification.cases import assert_uniform

# ---- Permutations


def test_every_order_of_a_pass_is_equally_likely() -> None:
    orders = Counter(tuple(permutation.__wrapped__(5, 2, number, 4)) for number in range(4800))
    assert len(orders) == 24
    assert_uniform(list(orders.values()))


def test_orders_of_passes_and_of_classes_are_independent() -> None:
    def order(k: int, number: int) -> tuple[int, ...]:
        return tuple(permutation.__wrapped__(0, k, number, 3))

    passes = Counter((order(0, 2 * i), order(0, 2 * i + 1)) for i in range(3600))
    classes = Counter((order(1, i), order(2, i)) for i in range(3600))
    assert len(passes) == len(classes) == 36
    assert_uniform(list(passes.values()))
    assert_uniform(list(classes.values()))


def test_every_place_of_a_larger_pass_is_equally_likely() -> None:
    counts = np.zeros((10, 10))
    for number in range(1000):
        counts[np.arange(10), permutation(8, 0, number, 10)] += 1
    assert_uniform(counts, 81)  # the sums of rows and columns are fixed


@pytest.mark.parametrize("size", [MAX_UNSPLIT + 1, MAX_UNSPLIT + MAX_BUCKET + 5])
def test_a_class_of_several_buckets_is_permuted_uniformly(size: int) -> None:
    first, second = (permutation(3, 0, number, size) for number in (0, 1))
    for order in (first, second):
        assert np.array_equal(np.sort(order), np.arange(size))
        counts, _, _ = np.histogram2d(np.arange(size), order, bins=32)
        assert_uniform(counts, 31 * 31)
    counts, _, _ = np.histogram2d(np.argsort(first), np.argsort(second), bins=32)
    assert_uniform(counts, 31 * 31)


def test_buckets_are_chosen_by_16_bit_quarters_and_shuffled_separately() -> None:
    size = MAX_UNSPLIT + 5  # 8 buckets of about 65,536: the top three bits of a quarter
    quarters = [
        int(word) >> 16 * i & 0xFFFF
        for part in range(9)
        for word in sequence(6, 5, 2, 7, part).random_raw(PART // 4)
        for i in range(4)
    ]
    expected: list[int] = []
    for bucket in range(8):
        members = [i for i in range(size) if quarters[i] >> 13 == bucket]
        fisher_yates(members, sequence(6, 1, 2, 7, bucket))
        expected += members
    assert permutation(6, 2, 7, size).tolist() == expected


# ---- Rows of a class


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=12), st.integers(0, 2**64 - 1))
def test_draws_are_without_replacement_in_a_batch_and_across_passes(size: int, sizes: list[int], seed: int) -> None:
    cursor, seen = Cursor(), Counter(dict.fromkeys(range(size), 0))
    for quota in sizes:
        drawn = draw(cursor, quota, size, lambda number, position: int(permutation(seed, 0, number, size)[position]))
        assert len(drawn) == quota
        for start in range(0, quota, size):  # in rounds, so that each row is drawn floor or ceil of quota / size times
            assert len(set(drawn[start : start + size])) == min(size, quota - start)
        seen.update(drawn)
        assert max(seen.values()) - min(seen.values()) <= 1
        assert set(cursor.held) <= set(permutation(seed, 0, cursor.number, size)[: cursor.position].tolist())
        assert len(cursor.held) < size


def test_a_held_row_is_first_in_the_next_batch() -> None:
    passes = [[0, 1, 2, 3], [3, 0, 1, 2]]
    cursor = Cursor()
    drawn = [draw(cursor, 3, 4, lambda number, position: passes[number][position])]
    assert (drawn, cursor) == ([[0, 1, 2]], Cursor(0, 3))
    drawn.append(draw(cursor, 3, 4, lambda number, position: passes[number][position]))
    assert (drawn[1], cursor) == ([3, 0, 1], Cursor(1, 3, [3]))
    drawn.append(draw(cursor, 2, 4, lambda number, position: passes[number][position]))
    assert (drawn[2], cursor) == ([3, 2], Cursor(1, 4))
