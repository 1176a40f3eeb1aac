"""The loader: an iterable over batches whose class mix follows the losses."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from l2m_fast import _core, state
from l2m_fast.arguments import choice, class_ids, flag, row_ids, torch_from_dlpack, warn_of_ranks, whole
from l2m_fast.class_loss import ClassLoss, LossWindow, class_array, loss_array
from l2m_fast.data import Format, fields_of
from l2m_fast.mixing import MixingPolicy, Proportional, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import torch
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

    from l2m_fast.mixing import Floats, Sizes

_ALL_STEPS = 2**63  # plan as far as you like
_HISTORY_BYTES = 64 << 20
_MAX_THREADS = 1024

_open_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads must not read arrays that the interpreter is about to free.
    for loader in list(_open_loaders):
        loader.close()


class Loader:
    """Iterates over batches whose class mix follows `proportions`.

    Every batch is a pure function of `(seed, epoch, step, proportions)` and the class cursors: it depends on neither
    `num_threads` nor `prefetch`. A batch is an ordinary tensor: it stays valid and unchanged while anything refers to
    it. Each `iter()` begins the next epoch; an epoch left unfinished ends where it was consumed.

    Not thread-safe: one consumer per loader. Close it, or use it as a context manager, to stop its threads early.

    Args:
        data: An array, or a tuple, list or dict (nested is fine) of arrays of one length N: torch tensors, numpy arrays,
            np.memmap. Rows must be contiguous. Never copied; must not be resized while the loader lives. A batch has
            the same structure.
        batch_size: Rows per batch and rank.
        classes: Class of each row, shape `[N]`. Integers are their own ids, K = max + 1; strings are sorted and
            numbered, see `class_labels`. None: one class, a plain loader.
        mixing: How the proportions evolve, see `l2m_fast.mixing`. None: `Proportional()`, classical training.
        rows: Ids of the rows to draw from, shape `[n]`, without repeats, in any order, or a mask of N bools. None: all.
        shuffle: A fresh random order of each class in every pass. False: rows ascend within a class, grouped by class;
            with `classes=None` that is the order of the data from row 0 in each epoch.
        order: "shuffled" or "grouped" (by class) rows inside a batch.
        drop_last: Without classes: leave out the last batch where it would be short. No effect with classes.
        steps_per_epoch: Batches per epoch, all full. None: N // (batch_size * world_size), at least one; without
            classes also the short last one.
        update_every: Steps per window of losses, counted across epochs; window w acts from the first batch of window
            w + 2. None: the window is the epoch, and acts from the next.
        seed: In [0, 2^64). The same seed gives the same batches.
        num_threads: Threads used at most; 0: none, everything happens in `next()`. None: the CPUs of this process.
        prefetch: Batches prepared ahead.
        pin_memory: Not supported yet.
        device: Not supported yet.
        rank: Of this process, in [0, world_size); None: 0. The environment is never read.
        world_size: Processes that share every global batch of batch_size * world_size rows; None: 1.
        all_reduce: Sums one float64 array over all ranks, in place. Needed where several ranks follow losses.
        format: "torch": batches of torch tensors. "numpy": of numpy arrays; torch is not needed.

    Raises:
        TypeError, ValueError, IndexError: An argument is not as described.
        NotImplementedError: `pin_memory`, `device`, or data on a device.
        ImportError: `format="torch"` without torch.
    """

    def __init__(
        self,
        data: object,
        *,
        batch_size: int,
        classes: torch.Tensor | ArrayLike | None = None,
        mixing: MixingPolicy | None = None,
        rows: torch.Tensor | ArrayLike | None = None,
        shuffle: bool = True,
        order: Literal["shuffled", "grouped"] = "shuffled",
        drop_last: bool = False,
        steps_per_epoch: int | None = None,
        update_every: int | None = None,
        seed: int = 0,
        num_threads: int | None = None,
        prefetch: int = 4,
        pin_memory: bool = False,
        device: object = None,
        rank: int | None = None,
        world_size: int | None = None,
        all_reduce: Callable[[Floats], object] | None = None,
        format: Format = "torch",
    ) -> None:
        choice("format", format, ("torch", "numpy"))
        choice("order", order, ("shuffled", "grouped"))
        for name, wanted in (
            ("pin_memory=True", flag("pin_memory", pin_memory)),
            (f"device={device!r}", device is not None),
        ):
            if wanted:
                msg = f"{name} is not supported yet: batches are in pageable CPU memory"
                raise NotImplementedError(msg)
        self._batch_size = whole("batch_size", batch_size, 1)
        self._seed = whole("seed", seed, 0, 2**64 - 1)
        self._world_size = 1 if world_size is None else whole("world_size", world_size, 1)
        self._rank = 0 if rank is None else whole("rank", rank, 0, self._world_size - 1)
        self._global_batch = whole("batch_size * world_size", self._batch_size * self._world_size, 1, 2**31 - 1)
        self._update_every = None if update_every is None else whole("update_every", update_every, 1, state.MOST)
        self._num_threads = (
            _core.usable_cpus() if num_threads is None else whole("num_threads", num_threads, 0, _MAX_THREADS)
        )
        self._prefetch = whole("prefetch", prefetch, 0, 2**16)
        self._shuffle, self._drop_last = flag("shuffle", shuffle), flag("drop_last", drop_last)
        self._grouped = order == "grouped"
        if rank is None and world_size is None:
            warn_of_ranks()
        self._from_dlpack = torch_from_dlpack() if format == "torch" else None

        self._mixing: MixingPolicy = Proportional() if mixing is None else mixing
        for method in ("initial", "update"):
            if isinstance(mixing, type) or not callable(getattr(self._mixing, method, None)):
                msg = f"mixing must be a policy with initial() and update(), such as Learn2Mix() (got {mixing!r})"
                raise TypeError(msg)
        self._follows_losses = not getattr(self._mixing, "fixed", False)
        if all_reduce is not None and not callable(all_reduce):
            msg = f"all_reduce must be a callable on one float64 array (got {all_reduce!r})"
            raise TypeError(msg)
        if self._follows_losses and self._world_size > 1 and all_reduce is None:
            msg = (
                f"{describe(self._mixing)} on {self._world_size} ranks needs all_reduce, a callable that sums one float64 "
                "array over all ranks in place (got None)"
            )
            raise ValueError(msg)
        self._all_reduce = all_reduce if self._follows_losses and self._world_size > 1 else None

        self._fields, self._build = fields_of(data, format)
        num_rows = self._fields[0].num_rows
        ids, self._num_classes, self.class_labels = class_ids(classes, num_rows)
        threads = max(self._num_threads, 1)
        self._index = _core.ClassIndex(ids, self._num_classes, num_rows, row_ids(rows, num_rows), threads)
        self._class_sizes = self._index.class_sizes
        self._classless = classes is None
        self._steps, self._last_batch_rows = self._epoch_shape(steps_per_epoch)
        self._epoch_is_pass = self._classless and steps_per_epoch is None
        self._steps_per_epoch = None if steps_per_epoch is None else self._steps

        self._window = LossWindow(self._class_sizes)
        self._next_proportions = self._checked(self._mixing.initial(self._class_sizes.copy()))
        self._history: deque[dict[str, Any]] = deque()
        self._history_bytes = 0
        self._epoch = self._epoch_began = self._windows = 0
        self._requested_epoch: int | None = None
        self._iteration = 0  # of the newest iter()
        self._iterating = False
        self._consumer: int | None = None
        self._format: Format = format
        self._prefetcher = self._make_prefetcher(self._seed)
        self._closed = False
        _open_loaders.add(self)

    def _make_prefetcher(self, seed: int) -> _core.Prefetcher:
        return _core.Prefetcher(
            self._index,
            [field.memory for field in self._fields],
            self._fields,
            [field.output for field in self._fields],
            self._from_dlpack,
            self._next_proportions,
            seed=seed,
            global_batch=self._global_batch,
            rank=self._rank,
            world_size=self._world_size,
            shuffle=self._shuffle,
            grouped=self._grouped,
            epoch_is_pass=self._epoch_is_pass,
            prefetch=self._prefetch,
            num_threads=self._num_threads,
        )

    def _epoch_shape(self, steps_per_epoch: int | None) -> tuple[int, int]:
        """Steps of an epoch, and rows of its last batch over all ranks."""
        if steps_per_epoch is not None:
            return whole("steps_per_epoch", steps_per_epoch, 1, state.MOST), self._global_batch
        full, short = divmod(self._index.num_rows, self._global_batch)
        if not self._classless:
            return max(full, 1), self._global_batch
        if short >= self._world_size and not self._drop_last:
            return full + 1, short
        if full == 0:
            need = "batch_size * world_size must be at most" if self._drop_last else "world_size must be at most"
            msg = f"{need} the number of rows, {self._index.num_rows} (got {self._batch_size} * {self._world_size})"
            raise ValueError(msg)
        return full, self._global_batch

    def _checked(self, proportions: object) -> Floats:
        """What a policy returned, as normalised proportions."""
        array = np.ascontiguousarray(proportions, np.float64)
        if array.ndim != 1:
            msg = (
                f"proportions must have shape ({self._num_classes},) (got {array.shape} from {describe(self._mixing)})"
            )
            raise ValueError(msg)
        return _core.normalise(array, self._class_sizes)

    # ---- iteration

    def __len__(self) -> int:
        """Batches per epoch; the same on all ranks."""
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        """Begins the next epoch, or goes on with the one that a loaded state was in the middle of."""
        self._check_usable()
        if self._iterating or self._step == self._steps:
            self._finish_epoch()
        if self._requested_epoch is not None:
            self._go_to(self._requested_epoch)
            self._requested_epoch = None
        self._iterating = True
        self._iteration += 1
        self._consumer = None
        self._prefetcher.begin(
            self._epoch, self._step, self._steps, self._last_batch_rows, self._plan_until(self._windows)
        )
        return _core.Iteration(self._prefetcher, self._iteration, self._turn, self._build)

    def _turn(self, iteration: int) -> None:
        """Sees to what is due before the next batch, and says how many may follow without asking.

        Raises:
            StopIteration: The epoch has ended.
            RuntimeError: The iteration must not go on.
        """
        self._check_usable()
        if iteration != self._iteration:
            msg = "this iterator has ended: a later iter() or load_state_dict() took its place"
            raise RuntimeError(msg)
        self._consumer = threading.get_ident()
        if self._iterating and self._step == self._steps:
            self._finish_epoch()
        if not self._iterating:
            raise StopIteration
        until = self._epoch_began + self._steps
        if self._update_every is not None:
            self._close_window_if_full(self._update_every)
            until = min(until, (self._windows + 1) * self._update_every)
        self._prefetcher.run(iteration, until)

    def _finish_epoch(self) -> None:
        if self._update_every is None:
            if self._all_reduce is not None or self._window.pending.count.any():
                self._close_window()
            self._adopt_next_proportions()
        self._iterating = False
        self._epoch += 1
        self._epoch_began = self._prefetcher.total_step

    @property
    def _step(self) -> int:
        """Batches consumed since the epoch began; counted by the core alone, so that nothing can fall between."""
        return self._prefetcher.total_step - self._epoch_began

    def _adopt_next_proportions(self) -> None:
        self._prefetcher.schedule(self._prefetcher.total_step, self._next_proportions, _ALL_STEPS)

    def _go_to(self, epoch: int) -> None:
        """Makes `epoch` the next one; unless it is anyway, every class starts a fresh pass addressed by it."""
        if epoch == self._epoch:
            return
        if self._step > 0:  # a loaded state was in the middle of another epoch
            self._finish_epoch()
        self._epoch = epoch
        sampler = self._prefetcher.state()
        sampler.update(passes=[epoch] * self._num_classes, positions=[0] * self._num_classes, held=[])
        self._prefetcher.set_state(sampler)
        self._schedule_next_window(self._windows)

    def _schedule_next_window(self, windows: int) -> None:
        """Says what acts from the window after this one, where that is not in force yet."""
        if self._update_every is None or not self._follows_losses:
            return
        acts_from = (windows + 1) * self._update_every
        if self._prefetcher.total_step < acts_from:
            self._prefetcher.schedule(acts_from, self._next_proportions, self._plan_until(windows))

    def _plan_until(self, windows: int) -> int:
        """The total_step whose proportions are not known yet."""
        if self._update_every is None or not self._follows_losses:
            return _ALL_STEPS
        return (windows + 2) * self._update_every

    # ---- losses

    def record(
        self, losses: torch.Tensor | ArrayLike | ClassLoss, classes: torch.Tensor | ArrayLike | None = None
    ) -> None:
        """Adds per-sample losses to the current window. Works with every mixing; two calls a batch add up.

        Args:
            losses: Loss of each row of the last batch yielded, shape `[batch_size]`; float16, bfloat16, float32 or
                float64, on the CPU; detached. Losses that are not finite are left out, with one warning. Or a
                `ClassLoss` of all classes.
            classes: Class of each loss, same length, integers; default: those of the last batch. With it the length is
                free.

        Raises:
            RuntimeError: No batch has been yielded, another thread is iterating, or the loader was closed.
            TypeError: Losses are not floats or classes are not integers; nothing was added.
            ValueError: Wrong length or shape, or a class out of range; nothing was added.
            NotImplementedError: Losses on a device.
        """
        self._check_usable()
        if isinstance(losses, ClassLoss):
            if classes is not None:
                msg = "a ClassLoss has its classes: classes must be None"
                raise ValueError(msg)
            self._window.add_sums(losses)
            return
        values = loss_array(losses)
        if classes is not None:
            self._window.add(values, class_array(classes), self._num_threads)
            return
        of_batch = self._last_classes()
        if len(values) != len(of_batch):
            msg = (
                f"losses must have one value for each of the {len(of_batch)} rows of the last batch (got {len(values)})"
            )
            raise ValueError(msg)
        self._window.add(values, of_batch, self._num_threads)

    def update(self) -> None:
        """Closes the window now; acts from the next epoch to begin. Called by itself at the end of an epoch with losses.

        Raises:
            RuntimeError: The loader updates every `update_every` steps by itself, or was closed.
        """
        self._check_usable()
        if self._update_every is not None:
            msg = (
                f"update() works with update_every=None: this loader updates every {self._update_every} steps by itself"
            )
            raise RuntimeError(msg)
        self._close_window()
        if not self._iterating and self._step == 0:  # between epochs
            self._adopt_next_proportions()

    def _close_window_if_full(self, update_every: int) -> None:
        """Before the first batch of a window: ends the one before it. What follows acts one window later."""
        if self._prefetcher.total_step != (self._windows + 1) * update_every:
            return
        self._close_window()
        self._schedule_next_window(self._windows + 1)  # before it counts, so that a Ctrl-C cannot skip it
        self._windows += 1

    def _close_window(self) -> None:
        recorded, class_losses = self._window.totals(self._all_reduce)
        proportions = self._next_proportions
        if recorded is not None and self._follows_losses:
            losses = self._window.filled(class_losses)
            try:
                updated = self._mixing.update(proportions.copy(), losses.copy(), self._class_sizes.copy())
            except StopIteration as error:  # which would pass for the end of the epoch
                msg = f"update() of {describe(self._mixing)} raised StopIteration"
                raise RuntimeError(msg) from error
            proportions = self._checked(updated)
            self._remember(proportions, losses, recorded.count)
        window = self._window.successor(class_losses)
        # At once: what is raised above, Ctrl-C too, leaves the window to be closed again.
        self._next_proportions, self._window = proportions, window

    def _remember(self, proportions: Floats, losses: Floats, counts: Sizes) -> None:
        arrays = {"proportions": proportions, "class_losses": losses, "counts": counts}
        self._history.append({"epoch": self._epoch, "total_step": self._prefetcher.total_step, **arrays})
        size = sum(array.nbytes for array in arrays.values())
        self._history_bytes += size
        while self._history_bytes > _HISTORY_BYTES and len(self._history) > 1:
            self._history.popleft()
            self._history_bytes -= size

    # ---- what there is to see

    @property
    def proportions(self) -> Floats:
        """Proportions of the next batch to be yielded, float64, shape `[num_classes]`, sum 1."""
        return self._prefetcher.proportions

    @property
    def class_losses(self) -> Floats:
        """Last known mean loss of each class, float64, shape `[num_classes]`; NaN where there was none yet."""
        return self._window.class_losses.copy()

    @property
    def class_sizes(self) -> Sizes:
        """Rows of each class, int64, shape `[num_classes]`."""
        return self._class_sizes.copy()

    @property
    def num_classes(self) -> int:
        """K: the largest class id + 1."""
        return self._num_classes

    @property
    def epoch(self) -> int:
        """The epoch of the next batch to be yielded."""
        ended = not self._iterating and self._step == self._steps  # a loaded state
        return self._epoch + 1 if ended else self._epoch

    @property
    def step(self) -> int:
        """Batches of this epoch that were yielded."""
        return 0 if self.epoch > self._epoch else self._step

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an update, the newest 64 MB of them.

        Each has `epoch` and `total_step` (when the update was made, in batches since the beginning of training),
        `proportions` (the new ones), `class_losses` (with which they were made) and `counts` (losses recorded).
        """
        return list(self._history)

    @property
    def batch_rows(self) -> NDArray[np.int64] | torch.Tensor:
        """Row ids of the last batch yielded, int64, shape `[batch_size]`, in the order of its rows.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        self._last_classes()
        return self._as_batch(self._prefetcher.rows)

    @property
    def batch_classes(self) -> NDArray[np.int64] | torch.Tensor:
        """Class of each row of the last batch yielded, int64, shape `[batch_size]`.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._last_classes().astype(np.int64))

    def _last_classes(self) -> NDArray[np.int32]:
        classes = self._prefetcher.classes
        if len(classes) == 0:
            msg = "no batch has been yielded yet: iterate over the loader first, or pass classes"
            raise RuntimeError(msg)
        return classes

    def _as_batch(self, array: NDArray[np.int64]) -> NDArray[np.int64] | torch.Tensor:
        if self._format == "numpy":
            return array
        import torch

        return torch.from_numpy(array)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What was consumed so far, O(num_classes + held rows): ints, floats, strings, bools, None, lists, dicts of them.

        json, pickle and torch.load(weights_only=True) all take it. Loading it into a loader of the same data and
        settings repeats the rest of the run exactly, losses recorded since the last update included.
        """
        self._check_usable()
        losses = self._window.class_losses
        return {
            "version": state.VERSION,
            "seed": self._seed,
            "fingerprint": self._fingerprint(),
            "rank": self._rank,
            "world_size": self._world_size,
            "epoch": self._epoch,
            "step": self._step,
            "windows": self._windows,
            **self._prefetcher.state(),
            "next_proportions": self._next_proportions.tolist(),
            "class_losses": [None if np.isnan(loss) else loss for loss in losses.tolist()],
            "window_sum": self._window.pending.sum.tolist(),
            "window_count": self._window.pending.count.tolist(),
        }

    def load_state_dict(self, state_dict: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Goes on from a saved state at the next `iter()`: in the middle of its epoch, or with the next one.

        The seed is taken over. Prefetched batches and the history are dropped.

        Args:
            state_dict: What `state_dict()` returned, or the list of what it returned on all ranks, whose pending losses
                add up. Any number of ranks may go on that keeps batch_size * world_size.

        Raises:
            TypeError: Not a state.
            ValueError: Of another version, or of a loader of other data or settings, named in the message. The loader
                goes on as it was.
        """
        self._check_usable()
        loaded = state.merged(state_dict, self._fingerprint(), self._rank, self._world_size, self._num_classes)
        state.check_steps(loaded, self._steps, self._update_every)
        losses = np.array([np.nan if loss is None else loss for loss in loaded["class_losses"]], np.float64)
        next_proportions = np.array(loaded["next_proportions"], np.float64)
        _core.normalise(next_proportions, self._class_sizes)  # only to check them: they are to stay as they are
        if abs(_core.compensated_sum(next_proportions) - 1) > 1e-12:
            msg = f"next_proportions of the state must sum to 1 within 1e-12 (got {sum(next_proportions)})"
            raise ValueError(msg)
        window = LossWindow(self._class_sizes)
        window.class_losses = losses
        window.add_sums(
            ClassLoss(np.array(loaded["window_sum"], np.float64), np.array(loaded["window_count"], np.int64))
        )
        prefetcher = self._prefetcher if loaded["seed"] == self._seed else self._make_prefetcher(loaded["seed"])
        prefetcher.set_state(loaded)  # raises before it changes anything
        if prefetcher is not self._prefetcher:
            self._prefetcher.close()
            self._prefetcher, self._seed = prefetcher, loaded["seed"]
        self._next_proportions = next_proportions
        self._epoch, self._windows = loaded["epoch"], loaded["windows"]
        self._epoch_began = loaded["total_step"] - loaded["step"]
        self._schedule_next_window(self._windows)
        self._window = window
        self._requested_epoch = None
        self._iterating = False
        self._iteration += 1
        self._history.clear()
        self._history_bytes = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next `iter()` epoch `epoch`.

        Nothing else changes if it would have been anyway; otherwise every class starts a fresh pass addressed by
        `epoch`.
        """
        self._check_usable()
        self._requested_epoch = whole("epoch", epoch, 0, state.MOST)

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "rows": self._index.num_rows,
            "num_classes": self._num_classes,
            "classes": f"{self._index.fingerprint(max(self._num_threads, 1)):016x}",
            "fields": [field.describe() for field in self._fields],
            "global_batch": self._global_batch,
            "order": "grouped" if self._grouped else "shuffled",
            "shuffle": self._shuffle,
            "drop_last": self._drop_last,
            "steps_per_epoch": self._steps_per_epoch,
            "update_every": self._update_every,
            "mixing": describe(self._mixing),
        }

    # ---- life

    def close(self) -> None:
        """Stops this loader's threads and frees what it prefetched. Idempotent; batches stay valid."""
        self._closed = True
        self._prefetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._closed:
            msg = "the loader is closed"
            raise RuntimeError(msg)
        if self._iterating and self._consumer not in (None, threading.get_ident()):
            if any(thread.ident == self._consumer for thread in threading.enumerate()):
                msg = "a loader has one consumer: another thread is iterating over it"
                raise RuntimeError(msg)
            self._consumer = None  # it has ended
