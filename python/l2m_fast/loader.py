"""The loader: an iterable over batches whose class mix follows the losses."""

from __future__ import annotations

import atexit
import copy
import multiprocessing.context
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from l2m_fast import state
from l2m_fast._checks import shortened, warn, whole
from l2m_fast.arguments import checked_mixing, checked_seed, draw_seed, refuse_unknown, warn_of_epochs
from l2m_fast.batch_source import batch_source
from l2m_fast.data.fields import DataView, Format
from l2m_fast.distributed import shared_state, summed_over_ranks
from l2m_fast.fingerprint import by_value
from l2m_fast.history import Recorder
from l2m_fast.losses.arrays import class_array, device_classes, is_on_device, loss_array
from l2m_fast.losses.class_loss import is_device_class_loss
from l2m_fast.losses.sums import MAX_COUNT, ClassLoss, checked_sums
from l2m_fast.mixing import MixingPolicy, in_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import SupportsIndex

    import torch
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Never, Self

    from l2m_fast import _core
    from l2m_fast.history import History
    from l2m_fast.losses.device import DeviceClassLoss
    from l2m_fast.losses.sums import ClassSums
    from l2m_fast.mixing import Floats, Sizes

_HISTORY_BYTES = 64 << 20

_open: weakref.WeakSet[_core.Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads must not read arrays that the interpreter is about to free.
    for core in list(_open):
        core.close()


class Loader:
    """Iterates over batches whose class mix follows `proportions`.

    Every batch is a pure function of `(seed, epoch, step, proportions)` and the class cursors: it depends on neither
    `num_threads` nor `prefetch`. A batch is an ordinary tensor: it stays valid and unchanged while anything refers to
    it. The first `next()` of an iterator begins the next epoch; an epoch left unfinished then ends where it was consumed.

    The data must not change while an epoch runs: up to `prefetch` batches ahead are copied already. Change values between
    epochs. Classes are read once, when the loader is made; after relabeling, make a new loader. A memory-mapped file that is
    truncated while it is used ends the process with a bus error, as in every program that maps it; replace files rather than
    overwrite them.

    Memory must stay where it is. `share_memory_()`, which a torch DataLoader with spawned workers also calls on the tensors of
    its dataset, moves a tensor and frees the old memory. Between batches that is noticed, and an error; while the loader's
    threads read ahead it can crash the process, and no reader can prevent it. Call it before the loader is made: tensors
    that are shared already do not move again.

    One consumer at a time. Close the loader, or use it as a context manager, to stop its threads early.

    Args:
        data: An array, or a tuple, list or dict (nested is fine) of arrays of one length N: torch tensors, numpy arrays,
            np.memmap, or `Normalized` arrays. Rows must be contiguous. Never copied; must not be resized or moved in memory
            while the loader lives, which is an error at the next batch where it can be noticed.
        batch_size: Rows per batch and rank.
        classes: Class of each row, shape `[N]`. Integers (also of pandas, nullable without missing values, or Python objects)
            are their own ids, K = max + 1. Strings (lists, NumPy "U", StringDType or object arrays, columns of pandas and
            pyarrow, categoricals) and UTF-8 bytes are labels: they are sorted by code point and numbered, see `class_labels`;
            a category without rows gets no number. Missing labels are an error. None: one class, a plain loader.
        mixing: How the proportions evolve, see `l2m_fast.mixing`. None: `Proportional()`, classical training.
        rows: Ids of the rows to draw from, shape `[n]`, without repeats, or a mask of N bools. None: all. With `shuffle=False`
            and `classes=None` they come in the given order; elsewhere the order does not matter.
        shuffle: A fresh random order of each class in every pass. False: rows ascend within a class, grouped by class;
            with `classes=None` that is the order of the data from row 0 in each epoch, and over several ranks every row comes
            exactly once. For validation data use `shuffle=False` with `classes=None`.
        order: "shuffled" or "grouped" (by class) rows inside a batch.
        drop_last: Without classes: leave out the last batch where it would be short. No effect with classes.
        steps_per_epoch: Batches per epoch, all full. None: N // (batch_size * world_size), at least one; without
            classes also the short last one.
        update_every: Steps per window of losses, counted across epochs; window w takes effect from the first batch of window
            w + 2. None: the window is the epoch, and takes effect from the next.
        total_steps: Batches of the whole training, for policies that want to know.
        lookahead: Batches that may have been taken beyond the one whose losses are recorded, in [0, update_every]: for
            loops that record late, such as a pipeline of several batches. A window then closes that many batches later, and
            `record(step=)` says which batch the losses belong to. With `update_every=None` an epoch's window closes when the
            next epoch begins. A state describes the run just after the last batch with losses.
        include: What a batch has besides its arrays, any of "rows" (int64 ids), "classes" (int64) and "step" (an int, batches
            since the beginning of training), on the CPU: appended to a tuple or list, keys of a dict; an array becomes a tuple.
        seed: In [0, 2^64). The same seed gives the same batches, and two loaders of equal seed and length pair their rows alike
            in every epoch: give them seeds of their own. None: drawn at the first batch, from torch's default generator
            (so that `torch.manual_seed` governs it) or, with `format="numpy"`, from the operating system; `state_dict()` has it.
            Several ranks need an explicit seed.
        num_threads: Threads used at most; 0: none, everything happens in `next()`. None: the CPUs that this process may use,
            affinity and the quota of its control group included.
        prefetch: Batches prepared ahead.
        pin_memory: Batches are in pinned memory, of torch's caching host allocator: it may be copied to a CUDA device
            without waiting, and let go of meanwhile. Without such a device, a warning.
        device: A CUDA device: `prefetch` batches are copied there ahead of time, on a stream of their own; a batch is
            ready on the stream that is current at `next()`. Data that are on the device already, or
            in pinned memory (`tensor.pin_memory()`), are gathered by the device itself, and of a batch only the row ids are
            sent. None: where the data are.
        rank: Of this process, in [0, world_size); None: 0 of 1. The environment is never read.
        world_size: Processes that share every global batch of batch_size * world_size rows; None: 1.
        all_reduce: Sums one float64 array over all ranks, in place or into an array that it returns. Needed where several
            ranks follow losses. With torch.distributed:

                def all_reduce(sums):
                    torch.distributed.all_reduce(torch.from_numpy(sums))
                    return sums
        format: "torch": batches of torch tensors. "numpy": of numpy arrays; torch is not needed.

    Raises:
        TypeError, ValueError, IndexError: An argument is not as described.
        ImportError: `format="torch"` without torch.
        RuntimeError: No thread can be started and `num_threads` is not 0.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_class_sizes",
        "_core",
        "_data",
        "_fingerprint_of_data",
        "_fingerprint_of_mixing",
        "_labels",
        "_mixing",
        "_recorder",
        "_source",
    )

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
        total_steps: int | None = None,
        update_every: int | None = None,
        lookahead: int = 0,
        include: Sequence[Literal["rows", "classes", "step"]] = (),
        seed: int | None = None,
        num_threads: int | None = None,
        prefetch: int = 4,
        pin_memory: bool = False,
        device: torch.device | str | int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        all_reduce: Callable[[Floats], object] | None = None,
        format: Format = "torch",
        **unknown: Never,
    ) -> None:
        refuse_unknown(unknown)
        self._arguments: dict[str, Any] = {
            "batch_size": batch_size, "classes": classes, "mixing": mixing, "rows": rows, "shuffle": shuffle, "order": order,
            "drop_last": drop_last, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "update_every": update_every,
            "lookahead": lookahead, "include": include, "seed": seed, "num_threads": num_threads, "prefetch": prefetch, "pin_memory": pin_memory, "device": device, "rank": rank,
            "world_size": world_size, "all_reduce": all_reduce, "format": format,
        }  # fmt: skip
        self._data = data
        self._source, self._labels = batch_source(data, self._arguments)
        self._class_sizes = self._source.index.class_sizes
        warn_of_epochs(self._source)
        self._mixing = checked_mixing(mixing, all_reduce, self._source)
        self._fingerprint_of_mixing = by_value(self._mixing)
        # Made when it is asked for: it takes a look at every row.
        self._fingerprint_of_data: dict[str, Any] | None = None
        self._core = self._new_core(checked_seed(seed, self._source), all_reduce)

    def _new_core(self, seed: int | None, all_reduce: Callable[[Floats], object] | None) -> _core.Loader:
        source, num_classes = self._source, len(self._class_sizes)
        self._recorder = Recorder(num_classes, _HISTORY_BYTES)
        reduced = None
        if all_reduce is not None:
            reduced = partial(
                summed_over_ranks, all_reduce=all_reduce, world_size=source.world_size, num_counts=num_classes
            )
        core = source.loader(
            policy=in_core(self._mixing, num_classes),
            policy_name=shortened(self._mixing),
            all_reduce=reduced,
            draw_seed=partial(draw_seed, source.format),
            warn=warn,
            check=partial(_check_epoch, source.fields),
            observe=self._recorder.append,
            seed=seed,
        )
        _open.add(core)
        return core

    # ---- iteration

    def __len__(self) -> int:
        """Batches per epoch.

        The same on all ranks, but for dataset order, in which ranks that get no row of the last batch have one less.
        """
        return len(self._core)

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the next epoch, or over the rest of the one that a loaded state was in the middle of.

        The epoch begins at the iterator's first `next()`; an iterator that is never advanced changes nothing.
        """
        return self._core.iterate(forever=False)

    def forever(self) -> Iterator[Any]:
        """Return an iterator over this and all later epochs, without end.

        Raises:
            ValueError: Windows are epochs and `lookahead` is above 0: give `update_every`. Or this rank gets no rows.
        """
        return self._core.iterate(forever=True)

    # ---- losses

    def record(
        self,
        losses: torch.Tensor | ArrayLike | ClassSums,
        classes: torch.Tensor | ArrayLike | None = None,
        *,
        step: int | None = None,
    ) -> None:
        """Add per-sample losses to the window of their batch. Works with every mixing; two calls for a batch add up.

        Args:
            losses: Loss of each row of the batch, shape `[batch_size]`; float16, bfloat16, float32 or
                float64; detached. On a CUDA device they are summed there, and nothing waits for it before the sums are
                needed: half a window after the window's end, or at its end where `all_reduce` is called then. Losses that are
                not finite are left out, with one warning. Or what `class_loss()` or `cross_entropy()` made of all classes.
            classes: Class of each loss, same length, integers, on the CPU or where the losses are; default: those of the
                batch. With it the length is free.
            step: Of the batch, as `include=("step",)` tells it; one of the last `lookahead + 1` yielded. None: the last one
                yielded.

        Raises:
            RuntimeError: No batch has been yielded, `step` is not of the last ones or its window is closed, another thread is
                iterating, or the loader was closed.
            TypeError: Losses are not floats or classes are not integers; nothing was added.
            ValueError: Wrong length or shape, or a class out of range; nothing was added. Classes on a device are looked at
                there: one out of range is left out, and raises where the sums are next needed.
        """
        core = self._core
        if step is not None:
            step = whole("step", step, 0, MAX_COUNT)
        if isinstance(losses, ClassLoss) or is_device_class_loss(losses):
            self._record_sums(losses, classes, step)
        elif is_on_device(losses):
            self._record_on_device(losses, classes, step)
        else:
            core.record(loss_array(losses), None if classes is None else class_array(classes), step)

    def _record_sums(self, losses: ClassLoss | DeviceClassLoss, classes: object, step: int | None) -> None:
        if classes is not None:
            msg = "a ClassLoss has its classes: classes must be None"
            raise ValueError(msg)
        if isinstance(losses, ClassLoss):
            self._core.record_sums(*checked_sums(losses, self.num_classes), step)
            return
        if losses.num_classes != self.num_classes:
            msg = f"the sums of losses must be of {self.num_classes} classes (got {losses.num_classes})"
            raise ValueError(msg)
        self._add_on_device(lambda sums: sums.add_sums(losses), losses.device, step)

    def _record_on_device(self, losses: torch.Tensor, classes: Any, step: int | None) -> None:
        of_batch = self._core.classes_to_record(step, len(losses)) if classes is None else None
        ids = device_classes(losses, of_batch if classes is None else classes)
        if of_batch is not None and self._source.grouped:
            self._add_on_device(lambda sums: sums.add_grouped(losses, of_batch), losses.device, step)
        else:
            self._add_on_device(lambda sums: sums.add(losses, ids), losses.device, step)

    def _add_on_device(self, add: Callable[[DeviceClassLoss], None], device: torch.device, step: int | None) -> None:
        from l2m_fast.losses.device import DeviceClassLoss

        self._core.record_on_device(add, device, partial(DeviceClassLoss, self.num_classes, device), step)

    def update(self) -> None:
        """Close the window now; it takes effect from the next epoch. Called automatically at the end of an epoch with losses.

        Losses that are recorded after the loop over an epoch, as the authors of Learn2Mix do, belong to the window of the
        next epoch: call `update()` after them to make them take effect in it. An epoch whose window was closed while it ran
        is not closed again at its end.

        Raises:
            RuntimeError: The loader updates every `update_every` steps, or was closed.
        """
        self._core.update()

    # ---- what there is to see

    @property
    def batch_size(self) -> int:
        """Rows per batch and rank."""
        return self._source.batch_size

    @property
    def drop_last(self) -> bool:
        """True where a short last batch is left out."""
        return self._source.drop_last

    @property
    def dataset(self) -> DataView:
        """Something of length N, for code that asks for the length of the data."""
        return DataView(self._source.fields[0].num_rows)

    @property
    def proportions(self) -> Floats:
        """Proportions of the next batch to be yielded, float64, shape `[num_classes]`, sum 1."""
        return self._core.proportions

    @property
    def class_losses(self) -> Floats:
        """Last known mean loss of each class, float64, shape `[num_classes]`; NaN where there was none yet."""
        self._core.apply_pending()
        return self._core.class_losses

    @property
    def class_sizes(self) -> Sizes:
        """Rows of each class, int64, shape `[num_classes]`."""
        return self._class_sizes.copy()

    @property
    def class_labels(self) -> list[str] | None:
        """Labels in the order of the class ids, where classes were given as strings; None: they were ids already."""
        return None if self._labels is None else list(self._labels)

    @property
    def num_classes(self) -> int:
        """K: the largest class id + 1."""
        return len(self._class_sizes)

    @property
    def epoch(self) -> int:
        """Epoch of the next batch to be yielded."""
        return self._core.epoch

    @property
    def step(self) -> int:
        """Batches of this epoch that were yielded."""
        return self._core.step

    @property
    def total_step(self) -> int:
        """Batches since the beginning of training."""
        return self._core.total_step

    @property
    def history(self) -> History:
        """Records of the updates of the proportions, oldest first; the newest 64 MB of them.

        A sequence of dicts with `epoch` and `total_step` (when the update was made, in batches since the beginning of
        training), `proportions` (the new ones), `class_losses` (with which they were made) and `counts` (losses recorded).
        """
        self._core.apply_pending()
        return self._recorder.snapshot()

    @property
    def batch_rows(self) -> NDArray[np.int64] | torch.Tensor:
        """Row ids of the last batch yielded, int64, shape `[batch_size]`, in the order of its rows.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._core.rows)

    @property
    def batch_classes(self) -> NDArray[np.int64] | torch.Tensor:
        """Class of each row of the last batch yielded, int64, shape `[batch_size]`.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._core.classes)

    def _as_batch(self, array: NDArray[np.int64]) -> NDArray[np.int64] | torch.Tensor:
        if self._source.format == "numpy":
            return array
        import torch

        return torch.from_numpy(array)

    def __repr__(self) -> str:
        source = self._source
        parts = [f"{source.fields[0].num_rows} rows", f"batch_size={source.batch_size}"]
        if not source.classless:
            parts += [f"{self.num_classes} classes", f"mixing={shortened(self._mixing)}"]
        if source.world_size > 1:
            parts.append(f"rank {source.rank} of {source.world_size}")
        return f"<Loader of {', '.join(parts)}, seed={self._core.seed}, at epoch {self.epoch}, step {self.step}>"

    # ---- state

    def state_dict(self, *, shared: bool = False, step: int | None = None) -> dict[str, Any]:
        """Return what was consumed so far, O(num_classes + held rows): ints, floats, strings, bools, None, lists and dicts.

        json, pickle and torch.load(weights_only=True) all take it. Loading it into a loader of the same data and
        settings repeats the rest of the run exactly, losses recorded since the last update included. Draws the seed where it
        is still to be drawn.

        Args:
            shared: Several ranks: all of them call this at the same batch, and each gets the same complete state, with the
                losses of all. For checkpoints that keep one rank's only. Needs `all_reduce`.
            step: With `lookahead`: the batch after which the run is described; at most `lookahead` before the last one yielded.
                None: the last one whose losses were recorded. Batches beyond it are delivered again.

        Raises:
            ValueError: The state after `step` is not known, or `shared` without `all_reduce` on several ranks.
            RuntimeError: `all_reduce` does not sum, the shared states are of different steps, or the loader was closed.
        """
        if step is not None:
            step = whole("step", step, 0, MAX_COUNT)
        described = {
            "version": state.VERSION,
            "fingerprint": self._fingerprint(),
            **self._core.state(step),
        }
        source = self._source
        if not shared or source.world_size == 1:
            return described
        return shared_state(described, self._arguments["all_reduce"], source.rank, source.world_size)

    def load_state_dict(self, state_dict: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Go on from a saved state at the next iteration: in the middle of its epoch, or with the next one.

        The seed is taken over. Prefetched batches and the history are dropped. A state is checked in full before it is
        loaded, and where it comes from does not matter: it is data, and nothing in it is executed.

        Args:
            state_dict: What `state_dict()` returned, or the list of what it returned on all ranks, whose pending losses
                add up. Any number of ranks may go on that keeps batch_size * world_size.

        Raises:
            TypeError: Not a state.
            ValueError: Of another version, or of a loader of other data or settings, named in the message. The loader
                goes on as it was.
        """
        read = partial(state.checked, state_dict, self._fingerprint())
        self._core.load(read, self._source.rank, self._source.world_size)
        self._recorder.clear()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`.

        Nothing else changes if it would have been anyway; otherwise every class starts a fresh pass addressed by
        `epoch`.
        """
        self._core.set_epoch(whole("epoch", epoch, 0, state.MAX_EPOCH))

    def _fingerprint(self) -> dict[str, Any]:
        if self._fingerprint_of_data is None:
            self._fingerprint_of_data = self._source.describe()
        return copy.deepcopy(
            {
                **self._fingerprint_of_data,
                "mixing": self._fingerprint_of_mixing,
            }
        )

    # ---- copies

    def __copy__(self) -> NoReturn:
        """Refuse: both copies would share one run."""
        msg = "a Loader cannot be copied by copy.copy(): use copy.deepcopy(loader), which shares the arrays"
        raise TypeError(msg)

    def __deepcopy__(self, memo: dict[int, Any]) -> Loader:
        """Return a loader of the same arrays at the same place in the same run, which goes on by itself."""
        copied = Loader(self._data, **self._arguments)
        consumed = self._core.total_step
        copied.load_state_dict(self.state_dict(step=consumed - 1 if consumed > 0 else None))
        return copied

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse before any tensor is touched: a process that is spawned would move them to shared memory."""
        if multiprocessing.context.get_spawning_popen() is not None:
            msg = "a Loader cannot be sent to another process, since its threads and memory are here: make it there"
        else:
            msg = "a Loader cannot be pickled: save loader.state_dict(), and load it into a Loader of the same data"
        raise TypeError(msg)

    # ---- life

    def close(self) -> None:
        """Stop this loader's threads and free what it prefetched. Idempotent; batches stay valid.

        From inside one of its own calls, such as a signal handler during `next()`, it takes effect when that call ends.
        """
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_epoch(fields: list[Any]) -> None:
    """Check what may have changed since the last epoch."""
    for one in fields:
        one.check_shape()
    torch = sys.modules.get("torch")
    global _warned_of_workers
    if torch is None or _warned_of_workers or torch.utils.data.get_worker_info() is None:
        return
    _warned_of_workers = True  # once in a process
    warn(
        "a Loader runs in a worker process of a torch DataLoader: every worker repeats its whole epoch. Iterate over the "
        "Loader itself, whose threads take the place of workers"
    )


_warned_of_workers = False
