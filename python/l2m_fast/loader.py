"""The loader: an iterable over batches whose class mix follows the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from l2m_fast import _core, state
from l2m_fast.arguments import (
    can_pin,
    choice,
    cuda_device,
    flag,
    row_ids,
    torch_from_dlpack,
    warn_of_ranks,
    whole,
)
from l2m_fast.class_loss import ClassLoss, class_array, device_classes, is_device_class_loss, is_on_device, loss_array
from l2m_fast.data import Format, fields_of, normalizing
from l2m_fast.labels import class_ids
from l2m_fast.mixing import MixingPolicy, Proportional, describe, follows_losses
from l2m_fast.progress import Course, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import torch
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

    from l2m_fast.mixing import Floats, Sizes

_MAX_THREADS = 1024


class Loader:
    """Iterates over batches whose class mix follows `proportions`.

    Every batch is a pure function of `(seed, epoch, step, proportions)` and the class cursors: it depends on neither
    `num_threads` nor `prefetch`. A batch is an ordinary tensor: it stays valid and unchanged while anything refers to
    it. Each `iter()` begins the next epoch; an epoch left unfinished ends where it was consumed.

    Not thread-safe: one consumer per loader. Close it, or use it as a context manager, to stop its threads early.

    Args:
        data: An array, or a tuple, list or dict (nested is fine) of arrays of one length N: torch tensors, numpy arrays,
            np.memmap, or `Normalized` arrays. Rows must be contiguous. Never copied; must not be resized while the
            loader lives. A batch has the same structure.
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
        pin_memory: Batches are in pinned memory, of torch's caching host allocator: it may be copied to a CUDA device
            without waiting, and let go of meanwhile. Without such a device, a warning.
        device: A CUDA device: `prefetch` batches are copied there ahead of time, on a stream of their own; a batch is
            there for whoever uses it on the stream that is current at `next()`. Data that are on the device already, or
            in pinned memory (`tensor.pin_memory()`), are gathered by the device itself, and of a batch only the row ids are
            sent. None: where the data are.
        rank: Of this process, in [0, world_size); None: 0 of 1. The environment is never read.
        world_size: Processes that share every global batch of batch_size * world_size rows; None: 1.
        all_reduce: Sums one float64 array over all ranks, in place. Needed where several ranks follow losses.
        format: "torch": batches of torch tensors. "numpy": of numpy arrays; torch is not needed.

    Raises:
        TypeError, ValueError, IndexError: An argument is not as described.
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
        device: torch.device | str | int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        all_reduce: Callable[[Floats], object] | None = None,
        format: Format = "torch",
    ) -> None:
        choice("format", format, ("torch", "numpy"))
        choice("order", order, ("shuffled", "grouped"))
        self._batch_size = whole("batch_size", batch_size, 1)
        self._seed = whole("seed", seed, 0, 2**64 - 1)
        self._world_size = 1 if world_size is None else whole("world_size", world_size, 1)
        if rank is None and self._world_size > 1:
            msg = f"rank must be an int in [0, {self._world_size - 1}] where world_size is given (got None)"
            raise TypeError(msg)
        self._rank = 0 if rank is None else whole("rank", rank, 0, self._world_size - 1)
        self._global_batch = whole("batch_size * world_size", self._batch_size * self._world_size, 1, 2**31 - 1)
        every = None if update_every is None else whole("update_every", update_every, 1, state.MOST)
        self._num_threads = (
            _core.usable_cpus() if num_threads is None else whole("num_threads", num_threads, 0, _MAX_THREADS)
        )
        self._prefetch = whole("prefetch", prefetch, 0, 2**16)
        self._shuffle, self._drop_last = flag("shuffle", shuffle), flag("drop_last", drop_last)
        self._grouped = order == "grouped"
        if rank is None and world_size is None:
            warn_of_ranks()
        self._from_dlpack = torch_from_dlpack() if format == "torch" else None

        mixing = Proportional() if mixing is None else mixing
        for method in ("initial", "update"):
            if isinstance(mixing, type) or not callable(getattr(mixing, method, None)):
                msg = f"mixing must be a policy with initial() and update(), such as Learn2Mix() (got {mixing!r})"
                raise TypeError(msg)
        if all_reduce is not None and not callable(all_reduce):
            msg = f"all_reduce must be a callable on one float64 array (got {all_reduce!r})"
            raise TypeError(msg)
        described = describe(mixing)
        shares_losses = follows_losses(mixing) and self._world_size > 1
        if shares_losses and all_reduce is None:
            msg = (
                f"{described} on {self._world_size} ranks needs all_reduce, a callable that sums one float64 "
                "array over all ranks in place (got None)"
            )
            raise ValueError(msg)

        self._fields, self._build = fields_of(data, format)
        self._device = cuda_device(device, {field.array.device for field in self._fields if field.on_cuda}, format)
        if self._device is None:
            self._build = normalizing(self._fields, self._build)
        pin_memory = flag("pin_memory", pin_memory)
        self._pin_memory = self._device is None and can_pin(pin_memory, format)
        num_rows = self._fields[0].num_rows
        ids, self._num_classes, self.class_labels = class_ids(classes, num_rows)
        threads = max(self._num_threads, 1)
        self._index = _core.ClassIndex(ids, self._num_classes, num_rows, row_ids(rows, num_rows), threads)
        self._class_sizes = self._index.class_sizes
        self._classless = classes is None
        self._epoch_is_pass = self._classless and steps_per_epoch is None
        steps, last_batch_rows = self._epoch_shape(steps_per_epoch)
        self._steps_per_epoch = None if steps_per_epoch is None else steps
        self._format: Format = format
        self._course = Course(
            steps,
            last_batch_rows,
            every,
            mixing,
            described,
            self._class_sizes,
            all_reduce if shares_losses else None,
        )
        self._progress = self._new_progress(self._seed)

    def _new_progress(self, seed: int) -> Progress:
        return Progress(self._course, lambda proportions: self._make_prefetcher(seed, proportions), self._build)

    def _make_prefetcher(self, seed: int, proportions: Floats) -> _core.Prefetcher:
        memory, outputs = [field.memory for field in self._fields], [field.output for field in self._fields]
        prefetch, lend, transfer = self._prefetch, None, None
        if self._device is not None:
            from l2m_fast.device_batches import DeviceBatches

            transfer = DeviceBatches(self._fields, self._device, self._batch_size, self._prefetch)
            memory, outputs, lend = transfer.memory, transfer.outputs, transfer.lend
            prefetch += transfer.ahead
        elif self._pin_memory:
            from l2m_fast.device_batches import pinned_memory

            lend = pinned_memory([(field.row_shape, field.torch_dtype) for field in self._fields], self._batch_size)
        return _core.Prefetcher(
            self._index,
            memory,
            self._fields,
            outputs,
            self._from_dlpack,
            lend,
            transfer,
            1 if transfer is None else transfer.ahead,
            1 if transfer is None else transfer.refill,
            proportions,
            seed=seed,
            global_batch=self._global_batch,
            rank=self._rank,
            world_size=self._world_size,
            shuffle=self._shuffle,
            grouped=self._grouped,
            epoch_is_pass=self._epoch_is_pass,
            prefetch=prefetch,
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

    # ---- iteration

    def __len__(self) -> int:
        """Batches per epoch; the same on all ranks."""
        return self._course.steps

    def __iter__(self) -> Iterator[Any]:
        """Begins the next epoch, or goes on with the one that a loaded state was in the middle of."""
        self._progress.check_usable()
        return self._progress.begin()

    # ---- losses

    def record(
        self, losses: torch.Tensor | ArrayLike | ClassLoss, classes: torch.Tensor | ArrayLike | None = None
    ) -> None:
        """Adds per-sample losses to the current window. Works with every mixing; two calls a batch add up.

        Args:
            losses: Loss of each row of the last batch yielded, shape `[batch_size]`; float16, bfloat16, float32 or
                float64; detached. On a CUDA device they are summed there, and nothing waits for it before the sums are
                needed: half a window after the window's end, or at its end where `all_reduce` is called then. Losses that are
                not finite are left out, with one warning. Or what `class_loss()` or `cross_entropy()` made of all classes.
            classes: Class of each loss, same length, integers, on the CPU or where the losses are; default: those of the
                last batch. With it the length is free.

        Raises:
            RuntimeError: No batch has been yielded, another thread is iterating, or the loader was closed.
            TypeError: Losses are not floats or classes are not integers; nothing was added.
            ValueError: Wrong length or shape, or a class out of range; nothing was added. Classes on a device are looked at
                there: one out of range is left out, and raises where the sums are next needed.
        """
        self._progress.check_usable()
        window = self._progress.window
        if isinstance(losses, ClassLoss) or is_device_class_loss(losses):
            if classes is not None:
                msg = "a ClassLoss has its classes: classes must be None"
                raise ValueError(msg)
            window.add_sums(losses)
            return
        if is_on_device(losses):
            ids = device_classes(losses, self._last_classes() if classes is None else classes)
            on_device = window.on_device(losses.device)
            if classes is None and self._grouped:
                on_device.add_grouped(losses, ids.numpy())
            else:
                on_device.add(losses, ids)
            return
        values = loss_array(losses)
        if classes is not None:
            window.add(values, class_array(classes), self._num_threads)
            return
        of_batch = self._last_classes()
        if len(values) != len(of_batch):
            msg = (
                f"losses must have one value for each of the {len(of_batch)} rows of the last batch (got {len(values)})"
            )
            raise ValueError(msg)
        window.add(values, of_batch, self._num_threads)

    def update(self) -> None:
        """Closes the window now; acts from the next epoch to begin. Called by itself at the end of an epoch with losses.

        Raises:
            RuntimeError: The loader updates every `update_every` steps by itself, or was closed.
        """
        self._progress.check_usable()
        if self._course.update_every is not None:
            msg = f"update() works with update_every=None: this loader updates every {self._course.update_every} steps by itself"
            raise RuntimeError(msg)
        self._progress.update()

    # ---- what there is to see

    @property
    def proportions(self) -> Floats:
        """Proportions of the next batch to be yielded, float64, shape `[num_classes]`, sum 1."""
        return self._progress.prefetcher.proportions

    @property
    def class_losses(self) -> Floats:
        """Last known mean loss of each class, float64, shape `[num_classes]`; NaN where there was none yet."""
        return self._progress.class_losses

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
        return self._progress.epoch

    @property
    def step(self) -> int:
        """Batches of this epoch that were yielded."""
        return self._progress.step

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an update, the newest 64 MB of them.

        Each has `epoch` and `total_step` (when the update was made, in batches since the beginning of training),
        `proportions` (the new ones), `class_losses` (with which they were made) and `counts` (losses recorded).
        """
        return self._progress.history

    @property
    def batch_rows(self) -> NDArray[np.int64] | torch.Tensor:
        """Row ids of the last batch yielded, int64, shape `[batch_size]`, in the order of its rows.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        self._last_classes()
        return self._as_batch(self._progress.prefetcher.rows)

    @property
    def batch_classes(self) -> NDArray[np.int64] | torch.Tensor:
        """Class of each row of the last batch yielded, int64, shape `[batch_size]`.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._last_classes().astype(np.int64))

    def _last_classes(self) -> NDArray[np.int32]:
        classes = self._progress.prefetcher.classes
        if len(classes) == 0:
            msg = "no batch has been yielded since the loader was made or its state loaded: iterate over the loader first, or pass classes"
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
        self._progress.check_usable()
        return {
            "version": state.VERSION,
            "seed": self._seed,
            "fingerprint": self._fingerprint(),
            "rank": self._rank,
            "world_size": self._world_size,
            **self._progress.state(),
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
        self._progress.check_usable()
        loaded = state.merged(state_dict, self._fingerprint(), self._rank, self._world_size, self._num_classes)
        progress = self._new_progress(loaded["seed"])
        progress.load(loaded)
        before = self._progress
        self._progress, self._seed = progress, loaded["seed"]  # at once: a Ctrl-C leaves nothing half loaded
        before.replaced()

    def set_epoch(self, epoch: int) -> None:
        """Makes the next `iter()` epoch `epoch`.

        Nothing else changes if it would have been anyway; otherwise every class starts a fresh pass addressed by
        `epoch`.
        """
        self._progress.check_usable()
        self._progress.request(whole("epoch", epoch, 0, state.MOST))

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
            "update_every": self._course.update_every,
            "mixing": self._course.described,
        }

    # ---- life

    def close(self) -> None:
        """Stops this loader's threads and frees what it prefetched. Idempotent; batches stay valid."""
        self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
