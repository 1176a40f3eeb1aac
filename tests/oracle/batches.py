"""Batches as a pure function of seed, data, epoch, step and the progress of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.arithmetic import Floats, Ints
from oracle.plan import Cursor, Due, change_due, draw, first_due, fractions, permutation, quotas
from oracle.randomness import BATCH_ORDER, RANK_OFFSET, fisher_yates, sequence, throw_dice

MAX_GLOBAL_BATCH = 2**31 - 1


@dataclass
class Progress:
    """State that every batch changes: cursors of the classes, rows drawn of each, and current proportions."""

    cursors: list[Cursor]
    due: Due
    drawn: list[int]
    proportions: Floats

    def state(self) -> dict[str, Any]:
        """Return the progress as entries of a state."""
        return {
            "passes": [cursor.number for cursor in self.cursors],
            "positions": [cursor.position for cursor in self.cursors],
            "drawn": list(self.drawn),
            "held": [[k, list(cursor.held)] for k, cursor in enumerate(self.cursors) if cursor.held],
            "visits": list(self.due.visits),
            "offsets": list(self.due.offsets),
            "due": list(self.due.times),
            "proportions": self.proportions.tolist(),
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Progress:
        """Return the progress stored in the entries of a state."""
        held = dict(state["held"])
        positions = enumerate(zip(state["passes"], state["positions"], strict=True))
        return cls(
            [Cursor(number, position, list(held.get(k, ()))) for k, (number, position) in positions],
            Due(list(state["visits"]), list(state["offsets"]), list(state["due"])),
            list(state["drawn"]),
            np.array(state["proportions"]),
        )


class Batches:
    """Batches of one rank, with the arguments of `OracleLoader`.

    Attributes:
        seed: Key of all randomness.
        class_sizes: Number of rows of each class to draw from, int64, shape `[K]`.
        steps: Number of batches of an epoch, over all ranks.
        own_steps: Number of batches of an epoch with rows for this rank.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        classes: Ints | None,
        rows: Ints | None,
        shuffle: bool,
        order: str,
        drop_last: bool,
        steps_per_epoch: int | None,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._shuffle, self._order, self.seed = shuffle, order, seed
        self._rank, self._world_size = rank, world_size
        class_of_row = np.zeros(num_rows, np.int64) if classes is None else np.asarray(classes, np.int64)
        self._in_order = not shuffle and classes is None
        drawn_from = np.arange(num_rows) if rows is None else np.asarray(rows, np.int64)
        if not self._in_order:
            drawn_from = np.sort(drawn_from)
        self._rows_of = [drawn_from[class_of_row[drawn_from] == k] for k in range(int(class_of_row.max()) + 1)]
        self.class_sizes = np.array([len(of_class) for of_class in self._rows_of], np.int64)

        self._num_rows, self._global_batch = len(drawn_from), batch_size * world_size
        if self._global_batch > MAX_GLOBAL_BATCH:
            msg = f"batch_size * world_size must be at most {MAX_GLOBAL_BATCH} (got {self._global_batch})"
            raise ValueError(msg)
        self._epoch_is_pass = classes is None and steps_per_epoch is None
        full, left_over = divmod(self._num_rows, self._global_batch)
        if steps_per_epoch is not None:
            self.steps = steps_per_epoch
        elif classes is None:
            # In order, a remainder smaller than world_size counts too: ranks without rows of it have one batch less.
            self.steps = full + (not drop_last and left_over >= (1 if self._in_order else world_size))
        else:
            self.steps = max(full, 1)
        if self.steps == 0:
            msg = f"{self._num_rows} rows make no batch of {batch_size} on each of {world_size} ranks"
            raise ValueError(msg)
        self.own_steps = self.steps - (self._epoch_is_pass and self._rows_of_batch(self.steps - 1) <= rank)

    def _rows_of_batch(self, step: int) -> int:
        """Return the rows of the global batch at `step` of an epoch."""
        if self._epoch_is_pass:
            return min(self._global_batch, self._num_rows - step * self._global_batch)  # the last batch may be short
        return self._global_batch

    def begin(self) -> Progress:
        """Return the progress before the first batch, without proportions."""
        num_classes = len(self._rows_of)
        cursors = [Cursor() for _ in range(num_classes)]
        return Progress(cursors, first_due(self.seed, num_classes), [0] * num_classes, np.zeros(num_classes))

    def start_passes(self, progress: Progress, number: int) -> None:
        """Start pass `number` of every class from the beginning."""
        progress.cursors = [Cursor(number) for _ in self._rows_of]

    def adopt(self, progress: Progress, proportions: Floats, total_step: int) -> None:
        """Make proportions take effect before batch `total_step` of the training."""
        old, new = (fractions(p, self._global_batch) for p in (progress.proportions, proportions))
        change_due(progress.due, old, new, total_step)
        progress.proportions = proportions

    def draw(self, progress: Progress, epoch: int, step: int) -> tuple[Ints, Ints, Ints]:
        """Draw a batch and advance the progress.

        Returns:
            The rows of this rank, their classes, and the number of rows of each class in the global batch, shape `[K]`.
        """
        if self._epoch_is_pass and step == 0:
            self.start_passes(progress, epoch)
        quota = quotas(self.seed, progress.proportions, self._rows_of_batch(step), progress.due)
        plan = [(row, k) for k, cursor in enumerate(progress.cursors) for row in self._draw(k, cursor, int(quota[k]))]
        progress.drawn = [drawn + new for drawn, new in zip(progress.drawn, quota.tolist(), strict=True)]

        offset = 0
        if self._world_size > 1 and not self._in_order:
            (offset,) = throw_dice(sequence(self.seed, RANK_OFFSET, epoch, step), [self._world_size])
        local = [entry for i, entry in enumerate(plan) if (i + offset) % self._world_size == self._rank]
        if self._order == "shuffled" and self._shuffle and len(self._rows_of) > 1:
            fisher_yates(local, sequence(self.seed, BATCH_ORDER, epoch, step, self._rank))
        rows, classes = np.array(local, np.int64).reshape(-1, 2).T.copy()
        return rows, classes, quota

    def _draw(self, k: int, cursor: Cursor, quota: int) -> list[int]:
        rows = self._rows_of[k]

        def row_at(number: int, position: int) -> int:
            place = permutation(self.seed, k, number, len(rows))[position] if self._shuffle else position
            return int(rows[place])

        return draw(cursor, quota, len(rows), row_at)
