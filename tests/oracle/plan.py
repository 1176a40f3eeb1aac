"""Rows drawn for a batch: permutations of passes, rows of a class in a batch, and quotas."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from oracle.arithmetic import Floats, Ints
from oracle.randomness import BUCKET, SHUFFLE, due_quarter, fisher_yates, sequence

MAX_UNSPLIT = 2**19  # rows shuffled in one piece
MAX_BUCKET = 2**17  # average rows per bucket, if a class is split
PART = 2**16  # rows whose buckets are drawn from one stream


@lru_cache(maxsize=1000)
def permutation(seed: int, k: int, number: int, size: int) -> Ints:
    """Return the uniformly random order of 0 ... size - 1 in pass `number` of class `k`, int64."""
    buckets: list[list[int]] = [list(range(size))]
    if size > MAX_UNSPLIT:
        bits = (math.ceil(size / MAX_BUCKET) - 1).bit_length()
        parts = [sequence(seed, BUCKET, k, number, part) for part in range(math.ceil(size / PART))]
        quarters = np.concatenate([part.random_raw(PART // 4).astype("<u8").view("<u2") for part in parts])
        bucket_of = quarters[:size] >> (16 - bits)
        buckets = [np.flatnonzero(bucket_of == bucket).tolist() for bucket in range(2**bits)]
    for bucket, members in enumerate(buckets):
        fisher_yates(members, sequence(seed, SHUFFLE, k, number, bucket))
    result = np.array([member for members in buckets for member in members], np.int64)
    result.setflags(write=False)  # it is cached
    return result


@dataclass
class Cursor:
    """Position of a class: `position` rows of pass `number` were visited, of which the `held` ones are not drawn yet."""

    number: int = 0
    position: int = 0
    held: list[int] = field(default_factory=list)


def draw(cursor: Cursor, quota: int, size: int, row_at: Callable[[int, int], int]) -> list[int]:
    """Draw `quota` rows of a class of `size` for one batch and advance its cursor; `row_at` takes (pass, position).

    A row that the batch already contains is held for the next batch. If the quota exceeds the class, all rows of the
    class are drawn before any is repeated.
    """
    drawn: list[int] = []
    in_round: set[int] = set()
    pending, held = deque(cursor.held), list[int]()
    for _ in range(quota):
        if len(in_round) == size:
            assert not pending, "a round ended before the rows that were held before it"
            in_round.clear()
            pending, held = deque(held), []
        if pending:
            row = pending.popleft()
        else:
            while True:
                if cursor.position == size:
                    cursor.number, cursor.position = cursor.number + 1, 0
                row = row_at(cursor.number, cursor.position)
                cursor.position += 1
                if row not in in_round:
                    break
                held.append(row)
        in_round.add(row)
        drawn.append(row)
    cursor.held = [*pending, *held]
    return drawn


# ---- Quotas


def fractions(proportions: Floats, total: int) -> Floats:
    """Return the fractional rows of each class in a batch, shape `[K]`, each in [0, 1).

    Fractions below 2**-500 become 0, because they would be due after more steps than a float can represent.
    """
    exact = proportions * total
    left = exact - np.floor(exact)
    return np.where(left < 2.0**-500, 0.0, left)


@dataclass
class Due:
    """Times at which each class is due one row more than its whole quota; the lists have a value for each class.

    A class is due once per interval, in which its fractions sum to one row, at an offset inside the interval.

    Attributes:
        visits: Number of extra rows so far.
        offsets: Offset of the next due time, in [0, 2**16), in units of 2**-16 of the interval.
        times: Step at which the class is due next; if its fraction is 0, the part of a row missing until then.
    """

    visits: list[int]
    offsets: list[int]
    times: list[float]


def first_due(seed: int, num_classes: int) -> Due:
    """Return the initial due times."""
    offsets = [due_quarter(seed, k, 0) for k in range(num_classes)]
    return Due([0] * num_classes, offsets, [offset * 2.0**-16 for offset in offsets])


def next_offset(offset: int, quarter: int) -> int:
    """Return an offset up to half an interval away, reflected at the ends of the interval."""
    offset += quarter - 2**15
    if offset < 0:
        return -1 - offset
    return offset if offset < 2**16 else 2**17 - 1 - offset


def quotas(seed: int, proportions: Floats, total: int, due: Due) -> Ints:
    """Return the number of rows of each class in a batch, shape `[K]`, with sum `total`.

    Each is the floor of `proportions * total`, or one more. The remaining rows go to the classes with the earliest due
    times, and to the smaller id for ties; their due times advance.
    """
    fraction = fractions(proportions, total)
    quota = np.floor(proportions * total).astype(np.int64)
    left_over = total - int(quota.sum())
    for k in sorted(np.flatnonzero(fraction > 0).tolist(), key=lambda k: (due.times[k], k))[:left_over]:
        quota[k] += 1
        due.visits[k] += 1
        before = due.offsets[k]
        due.offsets[k] = next_offset(before, due_quarter(seed, k, due.visits[k]))
        due.times[k] += (2**16 + due.offsets[k] - before) * 2.0**-16 * (1.0 / float(fraction[k]))
    return quota


def change_due(due: Due, old: Floats, new: Floats, step: int) -> None:
    """Change `due` in place from the `old` to the `new` fractions before (total) step `step`, and keep the fraction due."""
    for k, (f_old, f_new) in enumerate(zip(old.tolist(), new.tolist(), strict=True)):
        if f_new != f_old:
            missing = due.times[k] if f_old == 0 else (due.times[k] - step) * f_old
            due.times[k] = missing if f_new == 0 else step + missing / f_new
