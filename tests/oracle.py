"""The whole loader in slow, obvious NumPy: the specification that the fast one equals bit for bit.

Read it from the top: addressed randomness, the permutation of a pass, the rows of a batch, the quotas, the proportions,
and the loop that puts them together. Every floating-point expression is evaluated as it is written, in double
precision, without fused multiply-add.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHUFFLE, DUE, RANK_OFFSET, BATCH_ORDER, BUCKET = 1, 2, 3, 4, 5  # the streams
MAX_UNSPLIT = 2**19  # rows shuffled in one piece
MAX_BUCKET = 2**17  # rows of a bucket on average, where a class is split
PART = 2**16  # rows whose buckets are drawn from one stream
MAX_GLOBAL_BATCH = 2**31 - 1
LARGEST = float(np.finfo(np.float64).max)  # where a sum of losses stops


class Policy(Protocol):
    """How proportions evolve; one that never follows losses has `fixed = True` as well."""

    def initial(self, class_sizes: Ints, /) -> ArrayLike:
        """Returns the proportions to start with, shape `[K]`."""

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Ints, /) -> ArrayLike:
        """Returns the next proportions, shape `[K]`."""


# ---- Randomness: addressed by (seed, stream, a, b, c), never consumed in common


def words(seed: int, stream: int, a: int, b: int, c: int, count: int, block: int = 0) -> NDArray[np.uint64]:
    """Returns `count` words of a stream, from word `4 * block` on: Philox4x64-10."""
    counter = np.array([block, a, b, c], np.uint64)
    return np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter).random_raw(count).astype("<u8")


def sequence(seed: int, stream: int, a: int, b: int = 0, c: int = 0) -> np.random.SFC64:
    """Returns the generator that begins at an address: SFC64, whose state is the first three words there, and 1."""
    generator = np.random.SFC64()
    state = generator.state
    state["state"]["state"] = np.array([*words(seed, stream, a, b, c, 3), 1], np.uint64)
    generator.state = state
    return generator


class Words(Protocol):
    """What numbers are drawn from."""

    def random_raw(self) -> Any:
        """Returns the next 64 random bits."""


def throw_dice(generator: Words, sides: Sequence[int]) -> list[int]:
    """Returns unbiased integers below each of `sides`, whose product is below 2**64 (Brackett-Rozinsky, Lemire 2024)."""
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
    """Shuffles `values` in place, uniformly; several dice a throw, for the last values one after the other."""
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
    """Return 16 bits for a visit of class `k`: quarter number `visit` of the words of its stream, low ones first."""
    quarters = words(seed, DUE, k, 0, 0, 4, visit // 16).view("<u2")
    return int(quarters[visit % 16])


# ---- The rows of a class


@lru_cache(maxsize=1000)
def permutation(seed: int, k: int, number: int, size: int) -> Ints:
    """Returns the uniformly random order of 0 ... size - 1 in pass `number` of class `k`, int64."""
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
    """Where a class stands: `position` rows of pass `number` were looked at, the `held` ones not yet drawn."""

    number: int = 0
    position: int = 0
    held: list[int] = field(default_factory=list)


def draw(cursor: Cursor, quota: int, size: int, row_at: Callable[[int, int], int]) -> list[int]:
    """Draws `quota` rows of a class of `size` for one batch and moves its cursor on; `row_at` (pass, position).

    A row that the batch already has is held for later; where the quota exceeds the class, a round of all its rows is
    completed before any comes again.
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
    """Returns what the whole rows of each class leave over, shape `[K]`, each in [0, 1).

    Less than 2**-500 counts as nothing: it would be due in more steps than a float can count.
    """
    exact = proportions * total
    left = exact - np.floor(exact)
    return np.where(left < 2.0**-500, 0.0, left)


@dataclass
class Due:
    """When each class is due one row more than its whole quota; the lists have a value for each class.

    A class is due once in every interval, the time in which it becomes entitled to one more row, at an offset in it.

    Attributes:
        visits: How often it got one.
        offsets: Of the next time, in [0, 2**16), in units of 2**-16 of the interval.
        times: The step at which it is due next; of a class that is entitled to none: the part of a row it must still become
            entitled to until then.
    """

    visits: list[int]
    offsets: list[int]
    times: list[float]


def first_due(seed: int, num_classes: int) -> Due:
    """Return the due times of classes that are entitled to none yet."""
    offsets = [due_quarter(seed, k, 0) for k in range(num_classes)]
    return Due([0] * num_classes, offsets, [offset * 2.0**-16 for offset in offsets])


def next_offset(offset: int, quarter: int) -> int:
    """Return an offset up to half an interval away, reflected at the ends of the interval."""
    offset += quarter - 2**15
    if offset < 0:
        return -1 - offset
    return offset if offset < 2**16 else 2**17 - 1 - offset


def quotas(seed: int, proportions: Floats, total: int, due: Due) -> Ints:
    """Return the whole rows of each class in a batch of `total`, shape `[K]`, sum exactly `total`.

    Each is the floor of `proportions * total`, or one more. The rows left over go to the classes that have been due longest,
    ties to the smaller id; these move on.
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
    """Move `due` in place from the `old` to the `new` fractions before (total) step `step`: what is owed stays owed."""
    for k, (f_old, f_new) in enumerate(zip(old.tolist(), new.tolist(), strict=True)):
        if f_new != f_old:
            missing = due.times[k] if f_old == 0 else (due.times[k] - step) * f_old
            due.times[k] = missing if f_new == 0 else step + missing / f_new


# ---- Proportions


def neumaier_sum(values: ArrayLike) -> float:
    """Returns the compensated sum of `values` in their order (Neumaier 1974)."""
    total = compensation = 0.0
    for x in np.asarray(values, np.float64).tolist():
        new = total + x
        compensation += (total - new) + x if abs(total) >= abs(x) else (x - new) + total
        total = new
    return total + compensation


def mean_loss(losses: Sequence[float]) -> float:
    """Return the mean of losses, also where their sum is beyond the largest float."""
    total, scale = neumaier_sum(losses), 1.0
    if not math.isfinite(total):
        scale = 2.0**64
        total = neumaier_sum([loss / scale for loss in losses])
    return min(total / len(losses) * scale, LARGEST)


def checked_proportions(proportions: ArrayLike, class_sizes: Ints) -> Floats:
    """Returns proportions that came from outside, renormalised, float64, shape `[K]`.

    Raises:
        ValueError: Wrong length, not finite, negative, not summing to one, or above zero for an empty class.
    """
    p = np.array(proportions, np.float64)
    if p.shape != class_sizes.shape or not np.isfinite(p).all() or (p < 0).any():
        msg = f"proportions must be {len(class_sizes)} finite numbers >= 0, got {p}"
        raise ValueError(msg)
    total = neumaier_sum(p)
    if not abs(total - 1) <= 1e-6:
        msg = f"proportions must sum to 1 within 1e-6, got {total}"
        raise ValueError(msg)
    if (p[class_sizes == 0] != 0).any():
        msg = f"proportions of empty classes must be 0, got {p} for class sizes {class_sizes}"
        raise ValueError(msg)
    return p / total


def with_min_share(proportions: Floats, class_sizes: Ints, min_share: float) -> Floats:
    """Gives every nonempty class at least `min_share`, shape `[K]`."""
    if min_share == 0:
        return proportions
    nonempty = class_sizes > 0
    return np.where(nonempty, min_share + (1 - int(nonempty.sum()) * min_share) * proportions, 0.0)


def learn2mix(
    proportions: Floats, class_losses: Floats, class_sizes: Ints, mixing_rate: float = 0.1, min_share: float = 0.0
) -> Floats:
    """Steps from the proportions towards the loss shares (Learn2Mix, the paper's update rule), shape `[K]`."""
    total, scale = neumaier_sum(class_losses), 1.0
    if not math.isfinite(total):  # the shares of losses near the largest float are those of their fractions
        scale = 2.0**-64
        total = neumaier_sum(class_losses * scale)
    if total == 0:
        return proportions
    shares = class_losses * scale / total
    return with_min_share(proportions + mixing_rate * (shares - proportions), class_sizes, min_share)


# ---- The loop


class OracleLoader:
    """The loader without data: its batches are row ids and their classes.

    The arguments are those of `Loader`, with the number of rows for the data, every default stated and a policy given.

    Attributes:
        epoch: Of the next batch to be yielded.
        step: Of the next batch, counted in the epoch.
        proportions: In force for the next batch, shape `[K]`.
        class_losses: Newest mean loss of each class, None where it never had one.
        class_sizes: Rows drawn from of each class, int64, shape `[K]`.
        quotas: Rows of each class in the last global batch, int64, shape `[K]`.
        history: One record an update of the proportions.

    Raises:
        ValueError: No batch can be made of these options, or the ranks' losses cannot be summed.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        mixing: Policy,
        classes: Ints | None = None,
        rows: Ints | None = None,
        shuffle: bool = True,
        order: str = "shuffled",
        drop_last: bool = False,
        steps_per_epoch: int | None = None,
        update_every: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        all_reduce: Callable[[Floats], object] | None = None,
    ) -> None:
        class_of_row = np.zeros(num_rows, np.int64) if classes is None else np.asarray(classes, np.int64)
        self._in_order = not shuffle and classes is None
        drawn_from = np.arange(num_rows) if rows is None else np.asarray(rows, np.int64)
        if not self._in_order:
            drawn_from = np.sort(drawn_from)
        num_classes = int(class_of_row.max()) + 1
        self._rows_of = [drawn_from[class_of_row[drawn_from] == k] for k in range(num_classes)]
        self.class_sizes = np.array([len(of_class) for of_class in self._rows_of], np.int64)

        self._num_rows, self._global_batch = len(drawn_from), batch_size * world_size
        if self._global_batch > MAX_GLOBAL_BATCH:
            msg = f"batch_size * world_size must be at most {MAX_GLOBAL_BATCH}, got {self._global_batch}"
            raise ValueError(msg)
        self._epoch_is_pass = classes is None and steps_per_epoch is None
        full, left_over = divmod(self._num_rows, self._global_batch)
        if steps_per_epoch is not None:
            self._steps = steps_per_epoch
        elif classes is None:
            # In order, a rest smaller than world_size counts too: the ranks that get none of it have a batch less.
            self._steps = full + (not drop_last and left_over >= (1 if self._in_order else world_size))
        else:
            self._steps = max(full, 1)
        if self._steps == 0:
            msg = f"{self._num_rows} rows make no batch of {batch_size} on each of {world_size} ranks"
            raise ValueError(msg)

        self._shuffle, self._order, self._seed = shuffle, order, seed
        self._rank, self._world_size, self._all_reduce = rank, world_size, all_reduce
        self._mixing, self._fixed, self._update_every = mixing, bool(getattr(mixing, "fixed", False)), update_every
        if world_size > 1 and not self._fixed and all_reduce is None:
            msg = f"{type(mixing).__name__} follows the losses of {world_size} ranks and needs all_reduce"
            raise ValueError(msg)

        self.epoch = self.step = self._total_step = self._windows = 0
        self.class_losses: list[float | None] = [None] * num_classes
        self.history: list[dict[str, Any]] = []
        self._cursors = [Cursor() for _ in range(num_classes)]
        self._due = first_due(seed, num_classes)
        self._window_sum, self._window_count = [0.0] * num_classes, [0] * num_classes
        self.proportions = np.zeros(num_classes)
        self._next_proportions = checked_proportions(mixing.initial(self.class_sizes.copy()), self.class_sizes)
        self._adopt()
        self._iterations = self._newest = 0  # iterators made, and the newest that was advanced
        self._running = False
        self._jump: int | None = None  # the epoch after the running one, where it is not the next number
        self._batch_classes: Ints | None = None

    def __len__(self) -> int:
        rest = self._num_rows - (self._steps - 1) * self._global_batch
        return self._steps - (self._epoch_is_pass and rest <= self._rank)

    def __iter__(self) -> Iterator[tuple[Ints, Ints]]:
        """Return an iterator whose first batch begins the next epoch, or goes on with one restored in the middle."""
        self._iterations += 1
        return self._batches(self._iterations)

    def _batches(self, iteration: int) -> Iterator[tuple[Ints, Ints]]:
        if iteration > self._newest:
            if self._running or self.step >= self._steps:
                self._end_epoch()
            self._newest, self._running = iteration, True
        while True:
            if self._newest != iteration:
                msg = "a newer iterator or load_state_dict() has ended this iterator"
                raise RuntimeError(msg)
            if not self._running:
                return
            if self.step >= self._steps:
                break
            batch = self._next_batch()
            if len(batch[0]) > 0:
                yield batch
        self._end_epoch()

    def _next_batch(self) -> tuple[Ints, Ints]:
        every, step = self._update_every, self._total_step
        if every is not None and step > 0 and step % every == 0:
            self._close_window()
            self._windows += 1

        if self._epoch_is_pass and self.step == 0:
            self._start_pass(self.epoch)
        total = self._global_batch
        if self._epoch_is_pass:
            total = min(total, self._num_rows - self.step * total)  # the last batch may be short
        self.quotas = quotas(self._seed, self.proportions, total, self._due)
        plan = [(row, k) for k in range(len(self._cursors)) for row in self._draw(k)]

        offset = 0
        if self._world_size > 1 and not self._in_order:
            (offset,) = throw_dice(sequence(self._seed, RANK_OFFSET, self.epoch, self.step), [self._world_size])
        local = [entry for i, entry in enumerate(plan) if (i + offset) % self._world_size == self._rank]
        if self._order == "shuffled" and self._shuffle and len(self._cursors) > 1:
            fisher_yates(local, sequence(self._seed, BATCH_ORDER, self.epoch, self.step, self._rank))

        self.step += 1
        self._total_step += 1
        if every is not None and self._total_step % every == 0:
            self._adopt()
        rows, classes = np.array(local, np.int64).reshape(-1, 2).T.copy()
        self._batch_classes = classes
        return rows, classes

    def _draw(self, k: int) -> list[int]:
        rows = self._rows_of[k]

        def row_at(number: int, position: int) -> int:
            place = permutation(self._seed, k, number, len(rows))[position] if self._shuffle else position
            return int(rows[place])

        return draw(self._cursors[k], int(self.quotas[k]), len(rows), row_at)

    def _start_pass(self, number: int) -> None:
        self._cursors = [Cursor(number) for _ in self._cursors]

    def _end_epoch(self) -> None:
        if self._update_every is None:
            self._close_window()
            self._adopt()
        self.epoch, self.step, self._running = self.epoch + 1, 0, False
        self._leap()

    def _leap(self) -> None:
        if self._jump is not None:
            self.epoch, self._jump = self._jump, None
            self._start_pass(self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iter() epoch `epoch`; the running iterator, if any, goes on until then."""
        upcoming = self.epoch + (self._running or self.step >= self._steps)
        self._jump = None if epoch == upcoming else epoch
        if self._jump is not None and not self._running:
            if self.step > 0:
                self._end_epoch()  # the restored one, where it was consumed
            else:
                self._leap()

    def record(self, losses: ArrayLike, classes: ArrayLike | None = None) -> None:
        """Adds losses to the window, of the last batch's rows or of `classes`; those that are not finite are skipped.

        Raises:
            RuntimeError: No batch has been yielded and no classes are given.
            ValueError: Wrong length or a class out of range; nothing was added.
        """
        values = np.asarray(losses, np.float64)
        of = self._batch_classes if classes is None else np.asarray(classes, np.int64)
        if of is None:
            msg = "record() needs a batch, or classes"
            raise RuntimeError(msg)
        if values.ndim != 1 or values.shape != of.shape or ((of < 0) | (of >= len(self._cursors))).any():
            msg = f"losses {values.shape} must have one class in [0, {len(self._cursors)}) each, got {of}"
            raise ValueError(msg)
        for loss, k in zip(values.tolist(), of.tolist(), strict=True):
            if math.isfinite(loss):
                self._window_sum[k] = min(max(self._window_sum[k] + loss, -LARGEST), LARGEST)
                self._window_count[k] += 1

    def update(self) -> None:
        """Closes the window now; it acts from the next epoch to begin.

        Raises:
            RuntimeError: Windows are of `update_every` steps.
        """
        if self._update_every is not None:
            msg = f"update() needs update_every=None, got update_every={self._update_every}"
            raise RuntimeError(msg)
        self._close_window()
        if not self._running and self.step == 0:
            self._adopt()

    def _close_window(self) -> None:
        num_classes = len(self._cursors)
        totals = np.array([*self._window_sum, *self._window_count, 1.0], np.float64)
        if self._all_reduce is not None and self._world_size > 1 and not self._fixed:
            returned = self._all_reduce(totals)
            totals = totals if returned is None else np.asarray(returned)
            assert totals[-1] == self._world_size
        totals = totals[:-1]
        self._window_sum, self._window_count = [0.0] * num_classes, [0] * num_classes
        loss_sum, count = totals[:num_classes].tolist(), totals[num_classes:].tolist()
        had = [k for k in range(num_classes) if count[k] > 0 and self.class_sizes[k] > 0]
        for k in had:
            self.class_losses[k] = max(loss_sum[k] / count[k], 0.0)
        if not had or self._fixed:
            return
        known = [loss for loss in self.class_losses if loss is not None]  # never of an empty class
        mean = mean_loss(known)
        filled = np.array([mean if loss is None else loss for loss in self.class_losses])
        filled[self.class_sizes == 0] = 0.0
        new = self._mixing.update(self._next_proportions.copy(), filled, self.class_sizes.copy())
        self._next_proportions = checked_proportions(new, self.class_sizes)
        self.history.append(
            {
                "epoch": self.epoch,
                "total_step": self._total_step,
                "class_losses": list(self.class_losses),
                "proportions": self._next_proportions.tolist(),
            }
        )

    def _adopt(self) -> None:
        """Brings the newest proportions into force for the next batch."""
        old, new = (fractions(p, self._global_batch) for p in (self.proportions, self._next_proportions))
        change_due(self._due, old, new, self._total_step)
        self.proportions = self._next_proportions

    def state_dict(self) -> dict[str, Any]:
        """Returns what was consumed (the loader's own adds a fingerprint of its data and options)."""
        return {
            "version": 3,
            "seed": self._seed,
            "rank": self._rank,
            "world_size": self._world_size,
            "epoch": self.epoch,
            "next_epoch": self._jump,
            "step": self.step,
            "total_step": self._total_step,
            "windows": self._windows,
            "passes": [cursor.number for cursor in self._cursors],
            "positions": [cursor.position for cursor in self._cursors],
            "held": [[k, list(cursor.held)] for k, cursor in enumerate(self._cursors) if cursor.held],
            "visits": list(self._due.visits),
            "offsets": list(self._due.offsets),
            "due": list(self._due.times),
            "proportions": self.proportions.tolist(),
            "next_proportions": self._next_proportions.tolist(),
            "class_losses": list(self.class_losses),
            "window_sum": list(self._window_sum),
            "window_count": list(self._window_count),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes this rank's own state; the next iter() goes on where it was consumed."""
        self._seed, self._total_step, self._windows = state["seed"], state["total_step"], state["windows"]
        self.epoch, self.step = state["epoch"], state["step"]
        held = dict(state["held"])
        positions = enumerate(zip(state["passes"], state["positions"], strict=True))
        self._cursors = [Cursor(number, position, list(held.get(k, ()))) for k, (number, position) in positions]
        self._due = Due(list(state["visits"]), list(state["offsets"]), list(state["due"]))
        self.proportions, self._next_proportions = np.array(state["proportions"]), np.array(state["next_proportions"])
        self.class_losses = list(state["class_losses"])
        self._window_sum, self._window_count = list(state["window_sum"]), list(state["window_count"])
        self._jump = state["next_epoch"]
        self._newest, self._running, self._batch_classes = self._iterations, False, None
