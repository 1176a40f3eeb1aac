"""The oracle keeps the contracts that it specifies.

The statistical tests run on fixed seeds, so they never flicker; `FALSE_ALARM` is the chance that one of their
statistics would fail for a fresh seed although the oracle is right.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from oracle import (
    MAX_BUCKET,
    MAX_UNSPLIT,
    PART,
    Cursor,
    Due,
    Floats,
    Ints,
    OracleLoader,
    change_due,
    checked_proportions,
    draw,
    due_quarter,
    first_due,
    fisher_yates,
    fractions,
    learn2mix,
    neumaier_sum,
    next_offset,
    permutation,
    quotas,
    sequence,
    throw_dice,
    with_min_share,
    words,
)

FALSE_ALARM = 1e-6
MAX_WORD = 2**64 - 1


def assert_uniform(counts: ArrayLike, degrees_of_freedom: int | None = None) -> None:
    """Pearson's chi-square test of equal expected counts (at least 10 a cell) at level FALSE_ALARM."""
    observed = np.asarray(counts, np.float64).ravel()
    expected = observed.mean()
    assert expected >= 10
    df = observed.size - 1 if degrees_of_freedom is None else degrees_of_freedom
    z = NormalDist().inv_cdf(1 - FALSE_ALARM)
    limit = df * (1 - 2 / (9 * df) + z * (2 / (9 * df)) ** 0.5) ** 3  # Wilson and Hilferty (1931)
    assert ((observed - expected) ** 2 / expected).sum() < limit


@dataclass
class Classical:
    fixed: bool = True

    def initial(self, class_sizes: Ints, /) -> Floats:
        return np.asarray(class_sizes / class_sizes.sum())

    def update(self, _proportions: Floats, _class_losses: Floats, _class_sizes: Ints, /) -> Floats:
        raise AssertionError


@dataclass
class Uniform(Classical):
    def initial(self, class_sizes: Ints, /) -> Floats:
        return np.asarray((class_sizes > 0) / (class_sizes > 0).sum())


@dataclass
class Mixing(Classical):
    fixed: bool = False
    mixing_rate: float = 0.3
    min_share: float = 0.0

    def initial(self, class_sizes: Ints, /) -> Floats:
        return with_min_share(super().initial(class_sizes), class_sizes, self.min_share)

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Ints, /) -> Floats:
        return learn2mix(proportions, class_losses, class_sizes, self.mixing_rate, self.min_share)


@dataclass
class Given:
    """Starts with `start` and goes on to what `change` makes of the window's class losses."""

    start: list[float]
    change: Callable[[list[float]], list[float]]

    def initial(self, _class_sizes: Ints, /) -> list[float]:
        return self.start

    def update(self, _proportions: Floats, class_losses: Floats, _class_sizes: Ints, /) -> list[float]:
        return self.change(class_losses.tolist())


def long_tail(num_rows: int = 60, num_classes: int = 5) -> Ints:
    """Classes of falling size in mixed order."""
    rng = np.random.default_rng(0)
    return rng.choice(num_classes, num_rows, p=2.0 ** -np.arange(num_classes) / (2 - 2.0 ** (1 - num_classes)))


def loss_of(rows: Ints) -> Floats:
    return 0.1 + (rows % 7) / 3.0


def epoch_of(loader: OracleLoader) -> list[tuple[list[int], list[int]]]:
    """Returns the rows and the classes of every batch."""
    return [(rows.tolist(), classes.tolist()) for rows, classes in loader]


def rows_of(loader: OracleLoader) -> list[int]:
    """Returns the rows of an epoch."""
    return [row for rows, _ in loader for row in rows.tolist()]


# ---- Randomness


def plain_philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Returns the block of a counter, after figure 2 of Salmon et al. (2011)."""
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
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], block: list[int]) -> None:
    assert plain_philox(counter, key) == block
    before = sum(word << 64 * i for i, word in enumerate(counter)) - 1  # NumPy counts up before each block
    numpy_counter = np.array([before >> 64 * i & MAX_WORD for i in range(4)], np.uint64)
    assert np.random.Philox(key=np.array(key, np.uint64), counter=numpy_counter).random_raw(4).tolist() == block


@given(st.integers(0, MAX_WORD), *[st.integers(0, 2**32)] * 4, st.integers(1, 9))
def test_words_of_a_stream_are_philox_blocks_from_counter_one_on(
    seed: int, stream: int, a: int, b: int, c: int, count: int
) -> None:
    blocks = [plain_philox([1 + i, a, b, c], [seed, stream]) for i in range(3)]
    assert words(seed, stream, a, b, c, count).tolist() == [*itertools.chain(*blocks)][:count]
    assert words(seed, stream, a, b, c, 4, block=2).tolist() == blocks[2]


def plain_sfc64(a: int, b: int, c: int) -> Iterator[int]:
    """SFC64 as its author gives it (Doty-Humphrey, PractRand), from a state with counter 1 on."""
    for counter in itertools.count(1):
        word = (a + b + counter) & MAX_WORD
        a, b, c = b ^ b >> 11, (c + (c << 3)) & MAX_WORD, ((c << 24 | c >> 40) + word) & MAX_WORD
        yield word


@given(st.integers(0, MAX_WORD), *[st.integers(0, 2**32)] * 4)
def test_a_sequence_is_sfc64_from_the_words_of_its_address_on(seed: int, stream: int, a: int, b: int, c: int) -> None:
    expected = [*itertools.islice(plain_sfc64(*words(seed, stream, a, b, c, 3).tolist()), 30)]
    assert sequence(seed, stream, a, b, c).random_raw(30).tolist() == expected


def test_due_quarter_is_a_quarter_of_a_word_low_ones_first() -> None:
    quarters = [word >> 16 * i & 0xFFFF for word in words(9, 2, 7, 0, 0, 11).tolist() for i in range(4)]
    assert [due_quarter(9, 7, visit) for visit in range(44)] == quarters


class Given64:
    """The given words one after the other."""

    def __init__(self, *given_words: int) -> None:
        self._words = iter(given_words)

    def random_raw(self) -> int:
        return next(self._words)


def test_dice_are_thrown_again_where_a_word_would_bias_them() -> None:
    assert throw_dice(Given64(0, MAX_WORD), [3]) == [2]  # 2**64 = 1 (mod 3): one of the words is too many, and it is 0
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
    assert_uniform(counts, 81)  # rows and columns add up by themselves


@pytest.mark.parametrize("size", [MAX_UNSPLIT + 1, MAX_UNSPLIT + MAX_BUCKET + 5])
def test_a_class_of_several_buckets_is_permuted_uniformly(size: int) -> None:
    first, second = (permutation(3, 0, number, size) for number in (0, 1))
    for order in (first, second):
        assert np.array_equal(np.sort(order), np.arange(size))
        counts, _, _ = np.histogram2d(np.arange(size), order, bins=32)
        assert_uniform(counts, 31 * 31)
    counts, _, _ = np.histogram2d(np.argsort(first), np.argsort(second), bins=32)
    assert_uniform(counts, 31 * 31)


def test_buckets_are_chosen_by_16_bit_quarters_and_shuffled_apart() -> None:
    size = MAX_UNSPLIT + 5  # 8 buckets of some 65,536: the top three bits of a quarter
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
        for start in range(0, quota, size):  # round by round; so each row comes floor or ceil of quota / size times
            assert len(set(drawn[start : start + size])) == min(size, quota - start)
        seen.update(drawn)
        assert max(seen.values()) - min(seen.values()) <= 1
        assert set(cursor.held) <= set(permutation(seed, 0, cursor.number, size)[: cursor.position].tolist())
        assert len(cursor.held) < size


def test_a_held_row_comes_first_in_the_next_batch() -> None:
    passes = [[0, 1, 2, 3], [3, 0, 1, 2]]
    cursor = Cursor()
    drawn = [draw(cursor, 3, 4, lambda number, position: passes[number][position])]
    assert (drawn, cursor) == ([[0, 1, 2]], Cursor(0, 3))
    drawn.append(draw(cursor, 3, 4, lambda number, position: passes[number][position]))
    assert (drawn[1], cursor) == ([3, 0, 1], Cursor(1, 3, [3]))
    drawn.append(draw(cursor, 2, 4, lambda number, position: passes[number][position]))
    assert (drawn[2], cursor) == ([3, 2], Cursor(1, 4))


# ---- Quotas


def many_quotas(seed: int, proportions: ArrayLike, total: int, steps: int) -> Ints:
    """Returns the quotas of `steps` batches with the same proportions, shape `[steps, K]`."""
    p = np.asarray(proportions, np.float64)
    due = first_due(seed, len(p))
    change_due(due, np.zeros(len(p)), fractions(p, total), 0)
    return np.array([quotas(seed, p, total, due) for _ in range(steps)])


def assert_apportioned(quota: Ints, proportions: Floats, total: int) -> None:
    exact = proportions * total
    assert quota.sum() == total
    assert ((quota == np.floor(exact)) | (quota == np.ceil(exact))).all()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda p: sum(p) > 0),
    st.integers(1, 100) | st.integers(1, 2**31 - 1),
    st.integers(0, 2**64 - 1),
)
def test_quotas_are_exact_and_floor_or_ceil(shares: list[float], total: int, seed: int) -> None:
    proportions = checked_proportions(np.array(shares) / sum(shares), np.ones(len(shares), np.int64))
    for quota in many_quotas(seed, proportions, total, 5):
        assert_apportioned(quota, proportions, total)


@pytest.mark.parametrize(("num_classes", "total"), [(1_000_000, 1024), (10_000, 2**31 - 1)])
def test_quotas_of_many_classes_are_exact(num_classes: int, total: int) -> None:
    shares = np.random.default_rng(0).dirichlet(np.full(num_classes, 0.1))
    proportions = checked_proportions(shares, np.ones(num_classes, np.int64))
    due = Due([0] * num_classes, [0] * num_classes, [0.0] * num_classes)
    assert_apportioned(quotas(0, proportions, total, due), proportions, total)


@pytest.mark.parametrize(("num_classes", "total"), [(3, 7), (10, 32), (50, 8), (100, 50)])
def test_drift_does_not_grow_and_gaps_stay_below_twice_the_mean(num_classes: int, total: int) -> None:
    """The bounds are wide: no seed of 80 like these came near them."""
    for seed in range(3):
        p = np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.7))
        quota = many_quotas(seed, p, total, 1500)
        drift = np.cumsum(quota, 0) - np.outer(np.arange(1, 1501), p * total)
        assert abs(drift[:750]).max() < 3
        assert abs(drift[750:]).max() < 3
        for k in np.flatnonzero((p * total < 1) & (p * total > 0.002)):
            longest, mean = np.diff(np.flatnonzero(quota[:, k])).max(), 1 / (p[k] * total)
            assert longest <= 1.5 * mean + 4
            if mean >= 10:
                assert longest < 2.2 * mean


@pytest.mark.parametrize(
    ("shares", "total"),
    [([1.0] * 10, 1), ([3.0] + [1.0] * 17, 1), ([11.0] * 6 + [1.0] * 34, 2), ([1.0] * 200, 7)],
    ids=["equal", "one larger", "some larger", "many"],
)
def test_gaps_of_a_rare_class_stay_below_2_2_times_the_mean(shares: list[float], total: int) -> None:
    """600 random sets of shares reached 2.0 in 200,000 steps each."""
    p = np.array(shares) / sum(shares)
    quota = many_quotas(1, p, total, 4000)
    for k in np.flatnonzero(p * total <= 0.1):
        assert np.diff(np.flatnonzero(quota[:, k])).max() < 2.2 / (p[k] * total)


def test_offsets_stay_uniform_and_move_by_at_most_half_an_interval() -> None:
    generator = np.random.default_rng(0)
    offsets = generator.integers(0, 2**16, 20_000)
    for _ in range(5):
        quarters = generator.integers(0, 2**16, 20_000)
        moved = np.array([next_offset(int(o), int(q)) for o, q in zip(offsets, quarters, strict=True)])
        assert abs(moved - offsets).max() <= 2**15
        offsets = moved
    assert_uniform(np.bincount(offsets // 2**10, minlength=64))
    starts = np.repeat([0, 1, 2**15, 2**16 - 1], 2**16)
    ends = np.array([next_offset(int(o), q % 2**16) for q, o in enumerate(starts)])
    assert ends.min() == 0
    assert ends.max() == 2**16 - 1


def test_drift_does_not_grow_where_a_class_is_entitled_to_whole_rows_in_every_other_window() -> None:
    due, now, drift = first_due(2, 3), np.zeros(3), np.zeros(3)
    for window in range(1500):
        p = np.array([0.1, 0.3, 0.6]) if window % 2 else np.array([0.123, 0.271, 0.606])
        change_due(due, fractions(now, 10), fractions(p, 10), 3 * window)
        now = p
        for _ in range(3):
            drift += quotas(2, p, 10, due) - p * 10
            assert abs(drift).max() < 3


def test_which_classes_meet_varies_and_is_close_to_independent() -> None:
    steps = 1500
    quota = many_quotas(0, np.full(100, 0.01), 50, steps)
    assert len({row.tobytes() for row in quota}) == steps
    meetings = quota.T @ quota
    pairs = meetings[np.triu_indices(100, 1)] / steps
    # Independent classes would meet in a quarter of the batches, give or take 0.011; the rule evens each class out.
    assert abs(pairs.mean() - 0.25 * 49 / 49.5) < 0.002
    assert pairs.min() > 0.15
    assert pairs.max() < 0.35


def test_due_times_follow_changing_fractions() -> None:
    due = Due([0] * 5, [0] * 5, [0.75, 12.0, 0.5, 14.0, 15.0])
    old, new = np.array([0.0, 0.25, 0.0, 0.5, 0.125]), np.array([0.0, 0.5, 0.25, 0.0, 0.125])
    change_due(due, old, new, 10)
    assert due.times == [0.75, 11.0, 12.0, 2.0, 15.0]


# ---- Proportions


def test_neumaier_sum_keeps_what_the_plain_sum_loses() -> None:
    assert neumaier_sum([1.0, 1e100, 1.0, -1e100]) == 2.0
    assert neumaier_sum([0.1] * 10) == 1.0
    assert neumaier_sum([]) == 0.0


@pytest.mark.parametrize(
    ("proportions", "message"),
    [
        ([0.5, 0.5], "must be 3 finite"),
        ([0.5, 0.5, 0.0, 0.0], "must be 3 finite"),
        ([1.5, -0.5, 0.0], "must be 3 finite"),
        ([np.nan, 1.0, 0.0], "must be 3 finite"),
        ([np.inf, 1.0, 0.0], "must be 3 finite"),
        ([0.5, 0.49, 0.0], "must sum to 1"),
        ([0.5, 0.25, 0.25], "empty classes must be 0"),
    ],
)
def test_bad_proportions_are_refused(proportions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_proportions(proportions, np.array([4, 4, 0]))


def test_proportions_are_renormalised() -> None:
    assert checked_proportions([0.5000004, 0.5000004], np.array([1, 1])).tolist() == [0.5, 0.5]


def test_learn2mix_steps_towards_the_loss_shares() -> None:
    proportions, sizes = np.array([0.5, 0.25, 0.25, 0.0]), np.array([2, 1, 1, 0])
    new = learn2mix(proportions, np.array([1.0, 3.0, 0.0, 0.0]), sizes, mixing_rate=0.5)
    assert new.tolist() == [0.375, 0.5, 0.125, 0.0]
    assert learn2mix(proportions, np.zeros(4), sizes).tolist() == proportions.tolist()
    floored = learn2mix(proportions, np.array([1.0, 3.0, 0.0, 0.0]), sizes, mixing_rate=0.5, min_share=0.25)
    assert floored.tolist() == [0.34375, 0.375, 0.28125, 0.0]


# ---- Batches and ranks


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_slice_the_global_plan(world_size: int, shuffle: bool) -> None:
    def batches_of(rank: int, world_size: int, order: str) -> list[tuple[list[int], list[int]]]:
        options: dict[str, Any] = {"shuffle": shuffle, "order": order, "rank": rank, "world_size": world_size}
        size = 12 // world_size
        return epoch_of(OracleLoader(60, batch_size=size, classes=long_tail(), mixing=Classical(), **options))

    grouped = [batches_of(rank, world_size, "grouped") for rank in range(world_size)]
    shuffled = [batches_of(rank, world_size, "shuffled") for rank in range(world_size)]
    assert (shuffled == grouped) == (not shuffle)
    for step, (rows, classes) in enumerate(batches_of(0, 1, "grouped")):
        (offset,) = throw_dice(sequence(0, 3, 0, step), [world_size])
        for rank in range(world_size):
            start = (rank - offset) % world_size
            part = (rows[start::world_size], classes[start::world_size])
            assert grouped[rank][step] == part
            assert sorted(zip(*shuffled[rank][step], strict=True)) == sorted(zip(*part, strict=True))


def test_rows_follow_their_classes_in_a_shuffled_batch() -> None:
    classes = long_tail()
    loader = OracleLoader(60, batch_size=16, classes=classes, mixing=Uniform())
    for rows, batch_classes in loader:
        assert np.array_equal(classes[rows], batch_classes)
        assert np.array_equal(np.bincount(batch_classes, minlength=5), loader.quotas)
        assert (np.diff(batch_classes) < 0).any()


def test_order_within_a_shuffled_batch_is_uniform() -> None:
    classes = np.arange(4)
    loader = OracleLoader(4, batch_size=4, classes=classes, mixing=Classical(), steps_per_epoch=2400)
    assert_uniform(list(Counter(tuple(rows.tolist()) for rows, _ in loader).values()))


def test_only_the_given_rows_are_drawn_and_classes_are_numbered_over_all() -> None:
    classes = np.array([0, 1, 2, 0, 1, 5])
    rows = np.array([4, 0, 3])
    loader = OracleLoader(6, batch_size=2, classes=classes, mixing=Classical(), rows=rows, shuffle=False)
    assert loader.class_sizes.tolist() == [2, 1, 0, 0, 0, 0]
    assert Counter(row for _ in range(30) for row in rows_of(loader)) == {0: 20, 3: 20, 4: 20}
    assert epoch_of(OracleLoader(6, batch_size=3, mixing=Classical(), rows=rows, shuffle=False)) == [
        ([4, 0, 3], [0] * 3)  # in the order given
    ]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 16, 17, 23, 24, 25])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_in_dataset_order_every_row_comes_once_over_all_ranks(num_rows: int, world_size: int) -> None:
    options: dict[str, Any] = {"batch_size": 3, "mixing": Classical(), "shuffle": False, "world_size": world_size}
    loaders = [OracleLoader(num_rows, rank=rank, **options) for rank in range(world_size)]
    for _ in range(2):
        batches = [[rows.tolist() for rows, _ in loader] for loader in loaders]
        for rank, of_rank in enumerate(batches):
            assert [row for rows in of_rank for row in rows] == list(range(rank, num_rows, world_size))
            assert len(of_rank) == len(loaders[rank])
        assert {loader.epoch for loader in loaders} == {loaders[0].epoch}
        assert len({loader.state_dict()["total_step"] for loader in loaders}) == 1


# ---- Epochs


def test_without_classes_an_epoch_is_a_pass() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Classical(), seed=2)
    for epoch in range(3):
        assert rows_of(loader) == permutation(2, 0, epoch, 10).tolist()
    assert epoch_of(OracleLoader(5, batch_size=3, mixing=Classical(), shuffle=False)) == [
        ([0, 1, 2], [0, 0, 0]),
        ([3, 4], [0, 0]),
    ]


def test_a_dropped_tail_does_not_come_in_the_next_epoch() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Classical(), drop_last=True)
    for epoch in range(2):
        assert rows_of(loader) == permutation(0, 0, epoch, 10)[:8].tolist()


def test_steps_per_epoch_lets_passes_run_on() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Classical(), steps_per_epoch=3)
    assert Counter(row for _ in range(5) for row in rows_of(loader)) == dict.fromkeys(range(10), 6)


@pytest.mark.parametrize(
    ("num_rows", "world_size", "options", "steps"),
    [
        (24, 2, {}, 3),
        (25, 2, {}, 3),  # one row for two ranks is dropped
        (26, 2, {}, 4),
        (26, 2, {"drop_last": True}, 3),
        (5, 1, {}, 2),
        (3, 1, {}, 1),
        (3, 1, {"steps_per_epoch": 5}, 5),
        (26, 2, {"classes": True}, 3),
        (3, 2, {"classes": True}, 1),
        (3, 1, {"classes": True, "drop_last": True}, 1),
    ],
)
def test_number_of_steps(num_rows: int, world_size: int, options: dict[str, Any], steps: int) -> None:
    if "classes" in options:
        options = {**options, "classes": np.arange(num_rows) % 3}
    for rank in range(world_size):
        loader = OracleLoader(num_rows, batch_size=4, mixing=Classical(), rank=rank, world_size=world_size, **options)
        assert len(loader) == len(epoch_of(loader)) == steps


@pytest.mark.parametrize(
    ("num_rows", "options"),
    [
        (3, {"batch_size": 4, "drop_last": True}),
        (3, {"batch_size": 4, "world_size": 4}),
        (3, {"batch_size": 2**31}),
        (30, {"batch_size": 4, "world_size": 2, "mixing": Mixing()}),
    ],
)
def test_options_that_make_no_batch_are_refused(num_rows: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"make no batch|at most|all_reduce"):
        OracleLoader(num_rows, **{"mixing": Classical(), **options})


def test_an_unfinished_epoch_ends_where_it_was_consumed() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    first = iter(loader)
    rows, _ = next(first)
    loader.record(loss_of(rows))
    before = loader.state_dict()
    second = iter(loader)
    iter(loader)  # changes nothing, since it is never advanced
    assert (loader.epoch, loader.step, len(loader.history)) == (0, 1, 0)
    assert loader.state_dict() == before
    other = next(second)
    assert (loader.epoch, loader.step, len(loader.history)) == (1, 1, 1)
    with pytest.raises(RuntimeError, match="ended this iterator"):
        next(first)
    after = loader.state_dict()
    assert after["total_step"] == 2
    assert len(other[0]) == 6
    assert after["proportions"] == after["next_proportions"] != before["proportions"]
    assert len(list(second)) == len(loader) - 1
    assert (loader.epoch, loader.step) == (2, 0)


def test_set_epoch_changes_nothing_where_the_epoch_would_have_been_next_anyway() -> None:
    def run(set_epoch: bool) -> list[Any]:
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Classical())
        seen: list[Any] = []
        for epoch in range(3):
            if set_epoch:
                loader.set_epoch(epoch)
            batches = iter(loader)
            seen.append(next(batches))
            if set_epoch:
                loader.set_epoch(epoch + 1)
            seen += batches
        return [rows.tolist() for rows, _ in seen]

    assert run(set_epoch=True) == run(set_epoch=False)


def test_set_epoch_starts_passes_addressed_by_the_epoch() -> None:
    loader = OracleLoader(60, batch_size=7, classes=long_tail(), mixing=Classical(), seed=3)
    epoch_of(loader)
    before = loader.state_dict()
    loader.set_epoch(9)
    changed = {"epoch": 9, "step": 0, "passes": [9] * 5, "positions": [0] * 5, "held": []}
    assert loader.state_dict() == {**before, **changed}
    rows, classes = next(iter(loader))
    largest = np.flatnonzero(long_tail() == 0)
    start = largest[permutation(3, 0, 9, len(largest))][: loader.quotas[0]]
    assert sorted(rows[classes == 0]) == sorted(start)


def test_set_epoch_waits_for_the_running_iterator() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Classical())
    expected = epoch_of(OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Classical()))
    batches = iter(loader)
    seen = [next(batches)]
    loader.set_epoch(4)
    seen += batches
    assert [(rows.tolist(), classes.tolist()) for rows, classes in seen] == expected
    assert (loader.epoch, loader.state_dict()["passes"]) == (4, [4] * 5)


def test_set_epoch_goes_on_with_a_restored_epoch_or_leaves_it() -> None:
    def restored() -> OracleLoader:
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
        rows, _ = next(iter(loader))
        loader.record(loss_of(rows))
        state = loader.state_dict()
        loader.load_state_dict(state)
        return loader

    loader = restored()
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader) - 1
    loader = restored()
    loader.set_epoch(5)
    assert (loader.epoch, loader.step, len(loader.history)) == (5, 0, 1)
    assert len(list(loader)) == len(loader)


# ---- Windows


def recording(loader: OracleLoader, epochs: int) -> Iterator[tuple[list[int], list[float]]]:
    """Yields what every batch holds and the proportions in force for it; records a loss for every row."""
    for _ in range(epochs):
        batches = iter(loader)
        while True:
            proportions = loader.proportions.tolist()
            try:
                rows, _ = next(batches)
            except StopIteration:
                break
            yield rows.tolist(), proportions
            loader.record(loss_of(rows))


def test_an_epochs_window_acts_from_the_next_epoch() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    for epoch, group in itertools.groupby(enumerate(recording(loader, 4)), lambda item: item[0] // 10):
        in_force = {tuple(proportions) for _, (_, proportions) in group}
        assert len(in_force) == 1
        start = Mixing().initial(loader.class_sizes).tolist()
        assert list(in_force.pop()) == (loader.history[epoch - 1]["proportions"] if epoch else start)
    assert len(loader.history) == 4


@pytest.mark.parametrize("every", [1, 3, 10, 13])
def test_window_w_acts_from_the_first_batch_of_window_w_plus_2(every: int) -> None:
    means: list[float] = []

    def change(class_losses: list[float]) -> list[float]:
        means.append(class_losses[0])
        return [0.25 + len(means) / 128, 0.75 - len(means) / 128]

    mixing = Given([0.25, 0.75], change)
    loader = OracleLoader(40, batch_size=4, classes=np.arange(40) % 2, mixing=mixing, update_every=every)
    step = 0
    for _ in range(4):
        batches = iter(loader)
        for _ in range(len(loader)):
            window = step // every
            assert loader.proportions[0] == 0.25 + max(window - 1, 0) / 128
            next(batches)
            assert loader.state_dict()["windows"] == window
            assert means == [np.mean(range(w * every, (w + 1) * every)) for w in range(window)]
            loader.record([step, step], classes=[0, 1])
            step += 1


def test_every_update_starts_from_the_newest_proportions() -> None:
    loader = OracleLoader(4, batch_size=4, classes=np.array([0, 0, 0, 1]), mixing=Mixing(mixing_rate=0.5))
    next(iter(loader))
    for _ in range(2):
        loader.record([1.0, 3.0], classes=[0, 1])
        loader.update()
    assert [record["proportions"] for record in loader.history] == [[0.5, 0.5], [0.375, 0.625]]
    assert loader.proportions.tolist() == [0.75, 0.25]


def test_update_closes_the_window_now_and_acts_from_the_next_epoch() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    batches = iter(loader)
    start = loader.proportions.tolist()
    rows, _ = next(batches)
    loader.record(loss_of(rows))
    loader.update()
    assert len(loader.history) == 1
    assert loader.proportions.tolist() == start
    assert len(list(batches)) == len(loader) - 1
    assert len(loader.history) == 1, "nothing was recorded since"
    assert loader.proportions.tolist() == loader.history[0]["proportions"]
    with pytest.raises(RuntimeError, match="update_every=None"):
        OracleLoader(60, batch_size=6, mixing=Classical(), update_every=3).update()


def test_class_losses_are_the_means_of_the_finite_losses() -> None:
    seen: list[list[float]] = []

    def change(class_losses: list[float]) -> list[float]:
        seen.append(class_losses)
        return [0.5, 0.25, 0.25, 0.0]

    mixing = Given([0.5, 0.25, 0.25, 0.0], change)
    loader = OracleLoader(8, batch_size=4, classes=np.arange(8) // 2, mixing=mixing, rows=np.arange(6))
    loader.record([1.0, np.nan, 2.0, -4.0, np.inf], classes=[0, 0, 0, 1, 1])
    loader.update()
    loader.record([7.0], classes=[3])  # an empty class
    loader.update()
    loader.record([5.0, 3.0], classes=[2, 0])
    loader.update()
    assert seen == [[1.5, 0.0, 0.75, 0.0], [3.0, 0.0, 5.0, 0.0]]
    assert loader.class_losses == [3.0, 0.0, 5.0, None]
    assert [record["class_losses"][2] for record in loader.history] == [None, 5.0]


def test_bad_records_add_nothing() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    with pytest.raises(RuntimeError, match="needs a batch"):
        loader.record([1.0])
    next(iter(loader))
    for losses, classes in (([1.0], None), ([1.0, 2.0], [0]), ([1.0, 2.0], [0, 5]), ([1.0, 2.0], [0, -1])):
        with pytest.raises(ValueError, match="one class in"):
            loader.record(losses, classes)
    assert sum(loader.state_dict()["window_count"]) == 0


def test_fixed_policies_keep_their_proportions_and_the_class_losses() -> None:
    for every in (None, 3):
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Uniform(), update_every=every)
        assert {tuple(proportions) for _, proportions in recording(loader, 2)} == {(0.2,) * 5}
        assert None not in loader.class_losses
        assert loader.history == []


def test_ranks_that_sum_their_losses_agree_with_one_process() -> None:
    world_size = 3
    barrier, buffers, results = threading.Barrier(world_size), {}, {}

    def run(rank: int, world_size: int, all_reduce: Callable[[Floats], object] | None) -> None:
        loader = OracleLoader(
            60,
            batch_size=12 // world_size,
            classes=long_tail(),
            mixing=Mixing(),
            update_every=4,
            rank=rank,
            world_size=world_size,
            all_reduce=all_reduce,
        )
        for _ in range(4):
            for rows, _ in loader:
                loader.record(np.asarray(rows % 8, np.float64))  # whole numbers: any order of adding is exact
        results[rank, world_size] = loader.history

    def all_reduce_of(rank: int) -> Callable[[Floats], object]:
        def all_reduce(buffer: Floats) -> None:
            buffers[rank] = buffer.copy()
            barrier.wait(timeout=60)
            buffer[:] = sum(buffers[other] for other in range(world_size))
            barrier.wait(timeout=60)

        return all_reduce

    threads = [threading.Thread(target=run, args=(rank, world_size, all_reduce_of(rank))) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(0, 1, None)
    assert len(results[0, 1]) == 4
    assert all(results[rank, world_size] == results[0, 1] for rank in range(world_size))


# ---- State

CONFIGURATIONS: list[dict[str, Any]] = [
    {"mixing": Mixing(), "classes": long_tail(), "batch_size": 7},
    {"mixing": Mixing(min_share=0.05), "classes": long_tail(), "batch_size": 7, "update_every": 3},
    {"mixing": Mixing(), "classes": long_tail(), "batch_size": 7, "update_every": 1, "steps_per_epoch": 4},
    {"mixing": Uniform(), "classes": long_tail(), "batch_size": 20, "shuffle": False, "update_every": 2},
    {"mixing": Classical(), "batch_size": 9},
    {"mixing": Classical(), "batch_size": 9, "drop_last": True, "rank": 1, "world_size": 2},
    {"mixing": Classical(), "batch_size": 9, "steps_per_epoch": 5, "seed": MAX_WORD},
]


@pytest.mark.parametrize("options", CONFIGURATIONS)
@pytest.mark.parametrize("pending", [False, True], ids=["before_recording", "after_recording"])
def test_restored_loader_repeats_the_uninterrupted_run(options: dict[str, Any], pending: bool) -> None:
    """At every step of three epochs, the ends included, with losses that wait in the window or not."""

    def run(loader: OracleLoader, batches: int, note: Callable[[], None]) -> list[Any]:
        seen: list[Any] = []
        while len(seen) < batches:
            for rows, classes in loader:
                if not pending:
                    note()
                loader.record(loss_of(rows))
                if pending:
                    note()
                seen.append((rows.tolist(), classes.tolist(), loader.quotas.tolist()))
                if len(seen) == batches:
                    return [*seen, loader.state_dict()]
            note()
        return seen

    uninterrupted = OracleLoader(60, **options)
    states: list[str] = []
    total = 3 * len(uninterrupted)
    expected = run(uninterrupted, total, lambda: states.append(json.dumps(uninterrupted.state_dict())))
    assert len(states) == total + 2
    for text in states:
        state = json.loads(text)
        loader = OracleLoader(60, **{**options, "seed": 99})
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        consumed = state["total_step"]
        if not pending and state["step"] > 0:
            rows, classes = np.array(expected[consumed - 1][:2])
            loader.record(loss_of(rows), classes)
        if consumed < total:
            assert run(loader, total - consumed, lambda: None) == expected[consumed:]


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    batches = iter(loader)
    for rows, _ in itertools.islice(batches, len(loader)):
        loader.record(loss_of(rows))
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, len(loader))
    restored = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Mixing())
    restored.load_state_dict(state)
    assert next(batches, None) is None
    assert epoch_of(restored) == epoch_of(loader)
    assert restored.history == loader.history != []


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_state_is_of_plain_types_and_small(options: dict[str, Any]) -> None:
    loader = OracleLoader(60, **options)
    list(recording(loader, 2))
    text = json.dumps(loader.state_dict(), allow_nan=False)
    assert json.loads(text) == loader.state_dict()
    held = sum(len(rows) for _, rows in loader.state_dict()["held"])
    assert held <= loader.quotas.sum()


def test_without_classes_the_cursor_is_epoch_and_step() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Classical())
    for epoch in range(3):
        for step, _ in enumerate(loader, 1):
            state = loader.state_dict()
            assert (state["passes"], state["positions"], state["held"]) == ([epoch], [min(4 * step, 10)], [])


def test_a_state_of_another_number_of_ranks_goes_on_with_the_same_global_batches() -> None:
    def loader(rank: int, world_size: int) -> OracleLoader:
        return OracleLoader(
            60, batch_size=12 // world_size, classes=long_tail(), mixing=Uniform(), rank=rank, world_size=world_size
        )

    one = loader(0, 1)
    batches = iter(one)
    next(batches)
    two = [loader(rank, 2) for rank in range(2)]
    for part in two:
        part.load_state_dict(one.state_dict())
    for (rows, _), (left, _), (right, _) in zip(batches, *two, strict=True):
        assert sorted(rows) == sorted([*left, *right])
