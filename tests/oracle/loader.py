"""`OracleLoader`: epochs, windows and states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from oracle.arithmetic import Floats, Ints
from oracle.batches import Batches, Progress
from oracle.losses import UNIT, OpenWindows
from oracle.mixing import Policy, Window, checked_proportions, without_gaps


class OracleLoader:
    """Loader without data, whose batches are row ids and their classes.

    The arguments are those of `Loader`, but with the number of rows instead of the data, and a policy. Batches, and the
    steps of `record()` and `state_dict()`, are counted from 0 since the beginning of training.

    Attributes:
        class_losses: Newest mean loss of each class; None before its first loss.
        class_sizes: Number of rows of each class to draw from, int64, shape `[K]`.
        quotas: Number of rows of each class in the last global batch, int64, shape `[K]`.
        history: Records of the updates of the proportions.

    Raises:
        ValueError: These options give no batch, the lookahead is longer than a window, or the losses of the ranks
            cannot be summed.
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
        total_steps: int | None = None,
        update_every: int | None = None,
        lookahead: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        all_reduce: Callable[[Floats], object] | None = None,
    ) -> None:
        self._batches = Batches(
            num_rows,
            batch_size=batch_size,
            classes=classes,
            rows=rows,
            shuffle=shuffle,
            order=order,
            drop_last=drop_last,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self._rank, self._world_size, self._all_reduce = rank, world_size, all_reduce
        self._steps, self.class_sizes = self._batches.steps, self._batches.class_sizes
        self._mixing, self._total_steps, self._every, self._lookahead = mixing, total_steps, update_every, lookahead
        fixed = getattr(mixing, "fixed", False)
        self._schedule = not fixed and getattr(mixing, "schedule", False)
        self._follows = not fixed and not self._schedule
        if lookahead < 0 or (update_every is not None and lookahead > update_every):
            msg = f"lookahead must be at least 0 and at most update_every={update_every} (got {lookahead})"
            raise ValueError(msg)
        if world_size > 1 and self._follows and all_reduce is None:
            msg = f"{type(mixing).__name__} follows the losses of {world_size} ranks and needs all_reduce"
            raise ValueError(msg)
        # Whether the window of an epoch stays open after its StopIteration, until the next epoch begins.
        self._stays_open = update_every is None and lookahead > 0

        self._epoch = self._step = self._total_step = self._windows = 0
        self._updated = False  # update() closed the window of the epoch
        self._jump: int | None = None  # the epoch after this one, if it is not the next number
        self.class_losses: list[float | None] = [None] * len(self.class_sizes)
        self.history: list[dict[str, Any]] = []
        self._memory = np.zeros((getattr(mixing, "memory_rows", 0), len(self.class_sizes)))
        self._progress = self._batches.begin()
        self._next_proportions = checked_proportions(mixing.initial(self.class_sizes.copy()), self.class_sizes)
        self._adopt()
        self._iterations = 0  # number of iterators created
        self._start()

    def _start(self) -> None:
        """Start at the current step, at the beginning or after loading a state."""
        self._losses = OpenWindows(len(self.class_sizes), self._lookahead)
        self._running, self._newest = False, self._iterations  # the newest iterator that was advanced
        self._earliest = self._open_from = self._total_step
        self._after = {self._total_step: copy.deepcopy(self._progress)}  # for states, by the number of batches consumed
        self._place: dict[int, tuple[int, int]] = {}  # epoch of a batch, and its step in the epoch
        self._yielded: dict[int, Ints] = {}  # classes of a batch
        self._recorded: int | None = None  # the last batch with recorded losses

    # ---- Epochs and batches

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        if not self._has_ended():
            return self._epoch
        return self._epoch + 1 if self._jump is None else self._jump

    @property
    def step(self) -> int:
        """Step of the next batch, counted in the epoch."""
        return 0 if self._has_ended() else self._step

    @property
    def proportions(self) -> Floats:
        """Proportions of the next batch as far as they are known, shape `[K]`."""
        # With the longest lookahead, the window before may already be closed: by the state that was restored.
        if self._every == self._lookahead and self._total_step == (self._windows + 1) * self._every:
            return self._next_proportions
        return self._progress.proportions

    def _has_ended(self) -> bool:
        """Return whether the epoch has ended, except for the work done when the next one begins."""
        return not self._running and self._step >= self._steps

    def __len__(self) -> int:
        return self._batches.own_steps

    def __iter__(self) -> Iterator[tuple[Ints, Ints]]:
        """Return an iterator whose first batch begins the next epoch, or resumes a restored epoch."""
        self._iterations += 1
        return self._iterate(self._iterations, endless=False)

    def forever(self) -> Iterator[tuple[Ints, Ints]]:
        """Return an endless iterator over epochs.

        Raises:
            ValueError: Losses of the last batches of an epoch would be too late, or this rank has no batches.
        """
        if self._stays_open:
            msg = f"forever() with lookahead={self._lookahead} needs update_every (got None)"
            raise ValueError(msg)
        if len(self) == 0:
            msg = f"forever() needs rows for each of {self._world_size} ranks (got {self.class_sizes.sum()})"
            raise ValueError(msg)
        self._iterations += 1
        return self._iterate(self._iterations, endless=True)

    def _iterate(self, iteration: int, *, endless: bool) -> Iterator[tuple[Ints, Ints]]:
        if iteration > self._newest:
            self._newest = iteration
            self._begin_epoch()
        while True:
            if iteration != self._newest:
                msg = "a newer iterator or load_state_dict() has ended this iterator"
                raise RuntimeError(msg)
            if self._step >= self._steps:
                self._close_windows(self._total_step - 1)
                self._running = False
                if not self._stays_open:
                    self._end_epoch()
                if not endless:
                    return
                self._begin_epoch()
            self._close_windows(self._total_step)
            batch, number = self._next_batch(), self._total_step - 1
            if self._step == len(self) < self._steps:
                self._next_batch()  # only other ranks have rows: they count it at the same time
            if len(batch[0]) > 0:
                self._yielded[number] = batch[1]
                yield batch

    def _begin_epoch(self) -> None:
        """Begin the next epoch, or resume a restored one."""
        if self._running or self._step >= self._steps:
            self._end_epoch()
        if self._every is None and self._step == 0:
            self._adopt()
        self._running = True

    def _end_epoch(self) -> None:
        """End the epoch after the last batch consumed."""
        if self._every is None:
            if not self._updated:
                self._close_window(self._total_step)
            self._updated = False
            self._earliest = self._open_from = self._total_step
            self._adopt()
        self._epoch, self._step, self._running = self._epoch + 1, 0, False
        self._leap()

    def _leap(self) -> None:
        if self._jump is not None:
            self._epoch, self._jump = self._jump, None
            self._earliest = self._total_step
            self._batches.start_passes(self._progress, self._epoch)
            self._after[self._total_step] = copy.deepcopy(self._progress)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iter() at epoch `epoch`; a running iterator continues until then."""
        upcoming = self._epoch + (self._running or self._step >= self._steps)
        self._jump = None if epoch == upcoming else epoch
        if self._jump is None or self._running:
            return
        if self._step == 0:
            self._leap()
        elif self._stays_open:
            self._step = self._steps  # the restored epoch has ended; its window is closed when the next one begins
        else:
            self._end_epoch()  # the restored one

    def _close_windows(self, requested: int) -> None:
        """Close the windows that are due when batch `requested` is requested."""
        while self._every is not None and requested >= (self._windows + 1) * self._every + self._lookahead:
            self._close_window((self._windows + 1) * self._every)
            self._windows += 1

    def _next_batch(self) -> tuple[Ints, Ints]:
        t, every = self._total_step, self._every
        if every is not None and self._lookahead == every and t % every == 0:
            self._adopt()
        rows, classes, self.quotas = self._batches.draw(self._progress, self._epoch, self._step)
        self._place[t] = self._epoch, self._step
        self._step += 1
        self._total_step += 1
        if every is not None and self._lookahead < every and self._total_step % every == 0:
            self._adopt()
        self._after[self._total_step] = copy.deepcopy(self._progress)
        return rows, classes

    def _adopt(self) -> None:
        """Make the newest proportions take effect in the next batch."""
        self._batches.adopt(self._progress, self._next_proportions, self._total_step)

    # ---- Losses

    def record(self, losses: ArrayLike, classes: ArrayLike | None = None, *, step: int | None = None) -> None:
        """Add losses to the window of batch `step`, by default the last one; skip non-finite losses.

        Args:
            losses: Losses of the rows of the batch, or of `classes`.
            classes: Class of each loss.
            step: One of the last `lookahead + 1` batches yielded since the run was started or loaded.

        Raises:
            RuntimeError: No such batch was yielded, or its window is closed.
            ValueError: The length is wrong or a class is out of range. Nothing is added.
        """
        last = sorted(self._yielded)[-(self._lookahead + 1) :]
        open_from = self._open_from if self._every is None else self._windows * self._every
        if step is not None and (step not in last or step < open_from):
            msg = f"step must be one of {[t for t in last if t >= open_from]}, the last batches of open windows (got {step})"
            raise RuntimeError(msg)
        if classes is None and not last:
            msg = "record() needs a batch, or classes"
            raise RuntimeError(msg)
        t = (last[-1] if last else self._total_step - 1) if step is None else step
        window = self._windows if self._every is None else max(self._windows, t // self._every)
        values = np.asarray(losses, np.float64)
        of = self._yielded[last[-1] if step is None else step] if classes is None else np.asarray(classes, np.int64)
        if values.ndim != 1 or values.shape != of.shape or ((of < 0) | (of >= len(self.class_sizes))).any():
            msg = f"losses {values.shape} must have one class in [0, {len(self.class_sizes)}) each (got {of})"
            raise ValueError(msg)
        self._losses.add(window, t, values.tolist(), of.tolist())
        newest = self._total_step - 1 if step is None else step
        self._recorded = newest if self._recorded is None else max(newest, self._recorded)

    def update(self) -> None:
        """Close the window now, so that it takes effect from the next epoch.

        Raises:
            RuntimeError: The loader has `update_every`.
        """
        if self._every is not None:
            msg = f"update() needs update_every=None (got update_every={self._every})"
            raise RuntimeError(msg)
        self._close_window(self._total_step)
        self._earliest = self._total_step  # the window has the losses of all batches before
        if self._step > 0:
            self._updated = True
        else:
            self._adopt()
            self._after[self._total_step] = copy.deepcopy(self._progress)

    def _close_window(self, end: int) -> None:
        """Close the oldest open window, whose batches are those below `end`, and update the proportions."""
        num_classes = len(self.class_sizes)
        sums = self._losses.close(self._windows)
        totals = np.array([*sums.units, *sums.counts, 1], object)  # integers of any size
        if self._all_reduce is not None and self._world_size > 1 and self._follows:
            returned = self._all_reduce(totals)
            totals = totals if returned is None else np.asarray(returned)
            assert totals[-1] == self._world_size
        units, count = totals[:num_classes].tolist(), totals[num_classes:-1].tolist()
        had = [k for k in range(num_classes) if count[k] > 0 and self.class_sizes[k] > 0]
        for k in had:
            self.class_losses[k] = max(float(units[k] * UNIT) / count[k], 0.0)
        if self._schedule or (self._follows and had):
            known, counts = without_gaps(self.class_losses, self.class_sizes), np.array(count, np.int64)
            if self._schedule and self._world_size > 1:  # nothing is reduced: each rank knows other losses
                known, counts = np.zeros_like(known), np.zeros_like(counts)
            self._update_proportions(end, known, counts)

    def _update_proportions(self, end: int, class_losses: Floats, counts: Ints) -> None:
        window = Window(
            proportions=self._next_proportions.copy(),
            class_losses=class_losses,
            class_sizes=self.class_sizes.copy(),
            counts=counts,
            rows_drawn=np.array(self._progress.drawn, np.int64),
            passes=np.array([cursor.number for cursor in self._progress.cursors], np.int64),
            step=end,
            total_steps=self._total_steps,
            memory=self._memory.copy(),
        )
        result = self._mixing.update(window)
        proportions, memory = result if isinstance(result, tuple) else (result, self._memory)
        memory = np.array(memory, np.float64)
        if memory.shape != self._memory.shape or not np.isfinite(memory).all():
            msg = f"memory must be finite and of shape {self._memory.shape} (got {memory})"
            raise ValueError(msg)
        self._next_proportions, self._memory = checked_proportions(proportions, self.class_sizes), memory
        self.history.append(
            {
                "epoch": self._epoch,
                "total_step": self._total_step,
                "class_losses": list(self.class_losses),
                "proportions": self._next_proportions.tolist(),
            }
        )

    # ---- States

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Return the state just after batch `step`; `Loader` adds a fingerprint of its data and options.

        Args:
            step: The last batch, or one of the `lookahead` before it; by default the last one with recorded losses, or
                the nearest allowed.

        Raises:
            ValueError: The step is still to come, or earlier than the batch before the run was started or loaded,
                passes were started afresh or, with update_every=None, a window was closed.
        """
        now, every = self._total_step, self._every
        if len(self) < self._steps == self._step:
            self._close_windows(now - 1)  # as the ranks did that have rows in the last batch
        earliest = max(now - self._lookahead, self._earliest)
        if step is None:
            s = earliest if self._recorded is None else max(self._recorded + 1, earliest)
        elif earliest - 1 <= step < now:
            s = step + 1
        else:
            msg = f"step must be in [{earliest - 1}, {now - 1}] (got {step})"
            raise ValueError(msg)
        progress = self._progress if s == now else self._after[s]
        epoch, epoch_step = (self._epoch, self._step) if s == now else self._place[s]
        newest_window = self._windows if every is None else max(self._windows, (s - 1) // every)
        sums = [self._losses.total(window, before=s) for window in range(self._windows, newest_window + 1)]
        return {
            "version": 6,
            "seed": self._batches.seed,
            "rank": self._rank,
            "world_size": self._world_size,
            "epoch": epoch,
            "next_epoch": self._jump if epoch == self._epoch else None,
            "step": epoch_step,
            "total_step": s,
            "updated": self._updated,
            "windows": self._windows,
            **progress.state(),
            "next_proportions": self._next_proportions.tolist(),
            "class_losses": list(self.class_losses),
            "window_sums": [of_window.terms() for of_window in sums],
            "window_counts": [of_window.counts for of_window in sums],
            "memory": self._memory.ravel().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of this rank; the next iter() resumes after the last batch consumed."""
        self._batches.seed, self._total_step, self._windows = state["seed"], state["total_step"], state["windows"]
        self._epoch, self._step, self._jump = state["epoch"], state["step"], state["next_epoch"]
        self._progress = Progress.of_state(state)
        self._next_proportions, self._updated = np.array(state["next_proportions"]), state["updated"]
        self.class_losses = list(state["class_losses"])
        self._memory = np.array(state["memory"]).reshape(self._memory.shape)
        self._iterations += 1  # ends all earlier iterators
        self._start()
        for window, sums in enumerate(zip(state["window_sums"], state["window_counts"], strict=True), self._windows):
            self._losses.load(window, *sums)
