"""How far a run has come: its epochs, its windows of losses and the proportions these lead to."""

from __future__ import annotations

import atexit
import sys
import warnings
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from l2m_fast import _core, state
from l2m_fast._checks import cut, shortened
from l2m_fast.arguments import draw_seed
from l2m_fast.distributed import summed_over_ranks
from l2m_fast.history import History, Recorder
from l2m_fast.losses.sums import ClassLoss
from l2m_fast.losses.window import LossWindow, without_gaps
from l2m_fast.mixing import MixingPolicy, follows_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from l2m_fast.batch_source import BatchSource
    from l2m_fast.mixing import Floats, Sizes
    from l2m_fast.state import State

_ALL_STEPS = 2**63  # plan as far as you like
_HISTORY_BYTES = 64 << 20

_open: weakref.WeakSet[Progress] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads must not read arrays that the interpreter is about to free.
    for progress in list(_open):
        progress.close()


@dataclass(frozen=True)
class Course:
    """What of a loader's settings says how a run goes on.

    Attributes:
        steps: Batches of an epoch.
        own_steps: Of these, the ones in which this rank has rows.
        last_batch_rows: Rows of its last batch, over all ranks.
        update_every: Steps of a window of losses; None: an epoch.
        mixing: How the proportions evolve.
        class_sizes: Rows of each class.
        all_reduce: Sums a float64 array over all ranks; None: there is nothing to sum.
        world_size: Number of ranks.
    """

    steps: int
    own_steps: int
    last_batch_rows: int
    update_every: int | None
    mixing: MixingPolicy
    class_sizes: Sizes
    all_reduce: Callable[[Floats], object] | None
    world_size: int

    @property
    def follows_losses(self) -> bool:
        """Whether the proportions may change at all."""
        return follows_losses(self.mixing)

    def initial(self) -> Floats:
        """The proportions of the first batches."""
        return self._checked("initial", self.mixing.initial(self.class_sizes.copy()))

    def updated(self, proportions: Floats, class_losses: Floats) -> Floats:
        """The proportions that follow `proportions`."""
        updated = self.mixing.update(proportions.copy(), class_losses.copy(), self.class_sizes.copy())
        return self._checked("update", updated)

    def summed(self, sums: Floats) -> Floats:
        """Return the sums of all ranks."""
        return sums if self.all_reduce is None else summed_over_ranks(sums, self.all_reduce, self.world_size)

    def _checked(self, method: str, proportions: object) -> Floats:
        """Return what the policy returned, normalized."""
        where = f"from {method}() of {shortened(self.mixing)}"
        try:
            given = np.empty(0, object) if isinstance(proportions, np.ma.MaskedArray) else np.asarray(proportions)
        except (TypeError, ValueError, RuntimeError) as error:  # of lists that are ragged, or tensors with a gradient
            given, why = np.empty(0, object), f": {error}"
        else:
            why = ""
        if given.dtype.kind not in "iuf":
            msg = f"proportions must be numbers (got {shortened(proportions)}{why} {where})"
            raise TypeError(msg)
        if given.shape != self.class_sizes.shape:
            msg = f"proportions must have shape {self.class_sizes.shape} (got {given.shape} {where})"
            raise ValueError(msg)
        return _core.normalise(np.ascontiguousarray(given, np.float64), self.class_sizes)


class FullWindow(NamedTuple):
    """A window that ended and has not acted yet.

    Attributes:
        losses: What was recorded in it.
        epoch: In which it ended.
        total_step: At which it ended.
        wait_until: The total_step at which its losses are read: where they are on a device, the device has time until then.
    """

    losses: LossWindow
    epoch: int
    total_step: int
    wait_until: int


class Progress:
    """Where a run stands, and what moves it on.

    Whatever is raised within, Ctrl-C too, leaves it as it was before the call or after it.

    Args:
        course: How the run goes on.
        source: What the batches are made of.
        guard: Lets one call at a time use the loader.
        seed: None: it is drawn when it is first needed.
    """

    def __init__(self, course: Course, source: BatchSource, guard: _core.Guard, seed: int | None) -> None:
        self._course, self._source, self._guard, self.seed = course, source, guard, seed
        self.next_proportions = course.initial()
        self._class_losses: Floats = np.full(len(course.class_sizes), np.nan)
        self.window = LossWindow(len(course.class_sizes))
        self._full: FullWindow | None = None
        self.prefetcher = source.prefetcher(seed or 0, self.next_proportions)
        self._recorder = Recorder(len(course.class_sizes), _HISTORY_BYTES)
        self._epoch = self._epoch_began = 0
        self._windows = 0  # of update_every steps that ended
        self._next_epoch: int | None = None  # where it is not the next number
        self._iterations = 0  # iterators made
        self._newest = 0  # of these, the newest that was advanced
        self._iterating = False
        self._may_lack_losses = course.follows_losses  # and nothing was said of it yet
        self._policy_failed = False  # on the window that is to act
        self._closed = False
        _open.add(self)

    # ---- iteration

    def iterate(self) -> _core.Iteration:
        """Return an iterator, whose first batch begins the next epoch or goes on with the one that a loaded state was in."""
        self._iterations += 1
        return _core.Iteration(self._guard, self.prefetcher, self._iterations, self._turn, self._source.build)

    def _begin(self) -> None:
        if self._iterating or self._step == self._course.steps:
            self._finish_epoch()
        for field in self._source.fields:
            field.check_shape()
        _warn_of_workers()
        self.prefetcher.begin(
            self._epoch,
            self._step,
            self._course.steps,
            self._course.last_batch_rows,
            self._plan_until(),
        )

    def _turn(self, iteration: int) -> None:
        """Do what is due before the next batch, and say how many batches may follow without asking.

        Raises:
            StopIteration: The epoch has ended.
            RuntimeError: The iteration must not go on.
        """
        self.check_usable()
        if iteration < self._newest or iteration > self._iterations:
            msg = "this iterator has ended: a later one, or load_state_dict(), took its place"
            raise RuntimeError(msg)
        if iteration > self._newest:
            self.draw_seed()
            self._begin()
            self._newest, self._iterating = iteration, True
        if self._iterating and self._step < self._course.steps:
            self._close_windows()
            if self._step == self._course.own_steps:  # the last batch has rows for other ranks only
                self.prefetcher.skip()
        if self._iterating and self._step == self._course.steps:
            self._finish_epoch()
        if not self._iterating:
            raise StopIteration
        until = self._epoch_began + self._course.own_steps
        if self._course.update_every is not None:
            until = min(until, (self._windows + 1) * self._course.update_every)
            if self._full is not None:
                until = min(until, self._full.wait_until)
        self._warn_where_losses_lack()
        self.prefetcher.run(iteration, until)

    def draw_seed(self) -> None:
        """Draw the seed where it is still to be drawn."""
        if self.seed is None:
            seed = draw_seed(self._source.format)
            self.prefetcher.reseed(seed)
            self.seed = seed

    def _finish_epoch(self) -> None:
        if self._course.update_every is None:
            if self._course.all_reduce is not None or self.window.pending.count.any():
                self._end_window()
            self._adopt_next_proportions()
        began, epoch = self.prefetcher.total_step, self._epoch + 1
        if self._next_epoch is not None:
            epoch = self._next_epoch
            self._start_passes(epoch)
        self._iterating, self._epoch, self._epoch_began, self._next_epoch = False, epoch, began, None

    def request(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`; the running iterator, if any, goes on until then."""
        upcoming = self._epoch + (self._iterating or self._step == self._course.steps)
        self._next_epoch = None if epoch == upcoming else epoch
        if self._next_epoch is None or self._iterating:
            return
        if self._step > 0:
            self._finish_epoch()  # the restored one, where it was consumed
        else:
            self._start_passes(epoch)
            self._epoch, self._next_epoch = epoch, None

    def _start_passes(self, number: int) -> None:
        """Make every class start a fresh pass."""
        self.draw_seed()
        self.settle()
        sampler = self.prefetcher.state()
        num_classes = len(self._course.class_sizes)
        sampler.update(passes=[number] * num_classes, positions=[0] * num_classes, held=[])
        self.prefetcher.set_state(sampler)
        self._schedule(self.next_proportions, self._windows)

    @property
    def _step(self) -> int:
        """Batches consumed since the epoch began; counted by the core alone, so that nothing can fall between."""
        return self.prefetcher.total_step - self._epoch_began

    # ---- losses that are not recorded

    def note_losses(self) -> None:
        """Remember that losses are recorded."""
        self._may_lack_losses = False

    def _warn_where_losses_lack(self) -> None:
        """Warn once, before the first batch that should feel losses, where none was recorded."""
        if not self._may_lack_losses:
            return
        every = self._course.update_every
        if (self._epoch > 0 or self._epoch_began > 0) if every is None else self.prefetcher.total_step >= 2 * every:
            self._may_lack_losses = False
            if np.isnan(self._class_losses).all() and not self.window.pending.count.any():
                msg = (
                    f"{shortened(self._course.mixing)} follows losses, and none was recorded: call loader.record(losses) in "
                    "the loop, with the loss of each row of the batch"
                )
                warnings.warn(msg, RuntimeWarning, stacklevel=3)

    # ---- windows

    def update(self) -> None:
        """Close the window, which is the epoch; it takes effect from the next epoch to begin."""
        self.draw_seed()
        self._end_window()
        if not self._iterating and self._step == 0:  # between epochs
            self._adopt_next_proportions()

    def _adopt_next_proportions(self) -> None:
        self.prefetcher.schedule(self.prefetcher.total_step, self.next_proportions, _ALL_STEPS)

    def _schedule(self, proportions: Floats, windows: int) -> None:
        """Says what acts from the window after the next, where that is not in force yet; of windows of some steps.

        Args:
            proportions: Which.
            windows: That ended.
        """
        if self._closed or self._course.update_every is None or not self._course.follows_losses:
            return
        acts_from = (windows + 1) * self._course.update_every
        if self.prefetcher.total_step < acts_from:
            self.prefetcher.schedule(acts_from, proportions, acts_from + self._course.update_every)

    def _plan_until(self) -> int:
        """The total_step whose proportions are not known yet."""
        if self._course.update_every is None or not self._course.follows_losses:
            return _ALL_STEPS
        return (self._windows + (2 if self._full is None else 1)) * self._course.update_every

    def _close_windows(self) -> None:
        """End the window that is full; before a batch."""
        update_every = self._course.update_every
        if update_every is None:
            return
        total_step = self.prefetcher.total_step
        if total_step == (self._windows + 1) * update_every:
            self.settle()
            # Ranks act at the same batches, also where one of them saves its state in between: at once.
            if self.window.is_on_device and self._course.all_reduce is None:
                self.window.start_reading()
                full = FullWindow(self.window, self._epoch, total_step, total_step + update_every // 2)
                # At once: a Ctrl-C leaves the window to be ended, or ended.
                self._full, self.window, self._windows = full, self.window.successor(), self._windows + 1
            else:
                self._end_window()
        if self._full is not None and total_step >= self._full.wait_until:
            self.settle()

    def _end_window(self) -> None:
        """Ends the window, which acts."""
        full = FullWindow(self.window, self._epoch, self.prefetcher.total_step, 0)
        windows = self._windows + (self._course.update_every is not None)
        self._act(full, self.window.successor(), windows)

    def settle(self) -> None:
        """Has the window that ended act, if one has not yet."""
        if self._full is not None:
            self._act(self._full, self.window, self._windows)

    def _act(self, full: FullWindow, window: LossWindow, windows: int) -> None:
        """Make the next proportions of what was recorded, and go on with `window`. What is raised changes nothing.

        Where the policy fails a second time on the same window, the proportions stay, with a warning: a policy that cannot deal
        with some losses must not keep the run from going on.
        """
        course = self._course
        proportions, known, failure = self.next_proportions, None, None
        try:
            counts, class_losses = full.losses.result(self._class_losses, course.class_sizes > 0, course.summed)
            if counts is not None and course.follows_losses:
                known = without_gaps(class_losses, course.class_sizes > 0)
                proportions, failure = self._updated(proportions, known)
        except StopIteration as error:  # which would pass for the end of the epoch
            msg = f"all_reduce, or update() of {shortened(course.mixing)}, raised StopIteration"
            raise RuntimeError(msg) from error
        self._schedule(proportions, windows)  # first, so that a Ctrl-C cannot skip it
        # At once, for the same reason.
        self.next_proportions, self._class_losses, self._full, self.window, self._windows, self._policy_failed = (
            proportions,
            class_losses,
            None,
            window,
            windows,
            False,
        )
        if failure is not None:
            msg = f"{shortened(course.mixing)} failed again on the same losses, and the proportions stay: {cut(str(failure))}"
            warnings.warn(msg, RuntimeWarning, stacklevel=4)
        elif counts is not None and known is not None:
            self._recorder.append(
                epoch=full.epoch,
                total_step=full.total_step,
                proportions=proportions,
                class_losses=known,
                counts=counts,
            )

    def _updated(self, proportions: Floats, class_losses: Floats) -> tuple[Floats, Exception | None]:
        """Return the policy's next proportions; where it fails again, those of before and the failure."""
        try:
            return self._course.updated(proportions, class_losses), None
        except Exception as failure:
            if not self._policy_failed:
                self._policy_failed = True
                raise
            return proportions, failure

    # ---- what there is to see

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        ended = not self._iterating and self._step == self._course.steps  # a loaded state
        return self._epoch + 1 if ended else self._epoch

    @property
    def step(self) -> int:
        """Batches of this epoch that were yielded."""
        return 0 if self.epoch > self._epoch else self._step

    @property
    def class_losses(self) -> Floats:
        """Last known mean loss of each class; NaN where there was none yet."""
        self.settle()
        return self._class_losses.copy()

    @property
    def history(self) -> History:
        """One record of each update."""
        self.settle()
        return self._recorder.snapshot()

    def state(self) -> State:
        """Return what was consumed."""
        self.draw_seed()
        if self._iterating and self._step == self._course.own_steps < self._course.steps:
            self.prefetcher.skip()  # the ranks that have rows in the last batch have consumed it
        losses, pending = self.class_losses, self.window.pending
        return {
            "seed": self.seed,
            "epoch": self._epoch,
            "next_epoch": self._next_epoch,
            "step": self._step,
            "windows": self._windows,
            **self.prefetcher.state(),
            "next_proportions": self.next_proportions.tolist(),
            "class_losses": [None if np.isnan(loss) else loss for loss in losses.tolist()],
            "window_sum": pending.sum.tolist(),
            "window_count": pending.count.tolist(),
        }

    def load(self, loaded: State) -> None:
        """Goes on from a state; of a run that has not begun.

        Raises:
            ValueError: It cannot be a state of this run.
        """
        state.check_steps(loaded, self._course.steps, self._course.update_every)
        next_proportions = np.array(loaded["next_proportions"], np.float64)
        _core.normalise(next_proportions, self._course.class_sizes)  # only to check them: they are to stay as they are
        if abs(_core.compensated_sum(next_proportions) - 1) > 1e-12:
            msg = f"next_proportions of the state must sum to 1 within 1e-12 (got {sum(next_proportions)})"
            raise ValueError(msg)
        self._class_losses = np.array([np.nan if loss is None else loss for loss in loaded["class_losses"]], np.float64)
        self.window.add_sums(
            ClassLoss(np.array(loaded["window_sum"], np.float64), np.array(loaded["window_count"], np.int64))
        )
        self.prefetcher.set_state(loaded)
        self.next_proportions = next_proportions
        self._epoch, self._next_epoch, self._windows = loaded["epoch"], loaded["next_epoch"], loaded["windows"]
        self._epoch_began = loaded["total_step"] - loaded["step"]
        self._schedule(self.next_proportions, self._windows)

    # ---- life

    def replaced(self) -> None:
        """End every iterator; another run took the place of this one."""
        self._iterations = -1
        self.prefetcher.close()

    def close(self) -> None:
        """Stop the threads and free what was prefetched. Idempotent; batches stay valid."""
        self._closed = True
        if not self._guard.defer(self.prefetcher.close):  # from inside a call of this thread: when it ends
            self.prefetcher.close()

    @property
    def closed(self) -> bool:
        """Whether it is of no more use."""
        return self._closed

    def check_usable(self) -> None:
        """Raise RuntimeError where the loader is closed."""
        if self._closed:
            msg = "the loader is closed"
            raise RuntimeError(msg)


def _warn_of_workers() -> None:
    """Warn, once in a process, where a loader is used inside of a worker of a torch DataLoader."""
    torch = sys.modules.get("torch")
    global _warned_of_workers
    if torch is None or _warned_of_workers or torch.utils.data.get_worker_info() is None:
        return
    _warned_of_workers = True
    msg = (
        "a Loader runs in a worker process of a torch DataLoader: every worker repeats its whole epoch. Iterate over the "
        "Loader itself, whose threads take the place of workers"
    )
    warnings.warn(msg, RuntimeWarning, stacklevel=4)


_warned_of_workers = False
