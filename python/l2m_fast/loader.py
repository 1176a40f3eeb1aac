"""`Loader`, an iterable over batches whose class mix follows the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

from l2m_fast._checks import checked_int, shortened
from l2m_fast.arguments import REPLACEMENTS, refuse_unknown
from l2m_fast.correction import class_offsets, class_weights
from l2m_fast.data.fields import DataView
from l2m_fast.dataloader import loader_arguments
from l2m_fast.losses.sums import MAX_COUNT
from l2m_fast.run import Run
from l2m_fast.state import MAX_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import ArrayLike, NDArray
    from torch.distributed import ProcessGroup
    from torch.utils.data import DataLoader
    from typing_extensions import Never, Self

    from l2m_fast.correction import Float32s, Target
    from l2m_fast.data.fields import Format
    from l2m_fast.losses.sums import ClassSums
    from l2m_fast.mixing import Floats, MixingPolicy


class Loader(Run):
    """Iterable over batches whose class mix follows `proportions`.

    Every batch is a pure function of `(seed, epoch, step, proportions)` and the position within each class; it depends
    on neither `num_threads` nor `prefetch`. Each batch is an ordinary tensor: keep it as long as you like. The first
    `next()` of an iterator begins the next epoch; an unfinished epoch then ends after the last batch that it yielded.

    Do not change the data while an epoch runs, because up to `prefetch` batches have already been copied, or up to 16
    from data on a CUDA device. Change it between epochs. Classes are read once, when the loader is created; after
    relabeling, create a new loader. Truncating a memory-mapped file while it is in use ends the process with a bus
    error, as in any program; replace such a file instead of overwriting it.

    The data must stay at the same memory address. `share_memory_()`, which a torch DataLoader with spawned workers
    also calls on the tensors of its dataset, moves a tensor and frees the old memory. Between batches, the loader
    detects this and raises an error. A move while its threads read ahead can crash the process, which no reader can
    prevent. Call `share_memory_()` before creating the loader: a shared tensor does not move again.

    Only one consumer may iterate at a time. To stop the threads early, close the loader or use it as a context manager.

    Args:
        data: Array, or tuple, list or dict (may be nested) of arrays of the same length N: torch tensors, NumPy
            arrays, np.memmap or `Normalized` arrays. Each row must be contiguous. The data is never copied. It must
            not be resized or moved in memory while the loader exists; if this is detected, the next batch raises an
            error.
        batch_size: Number of rows per batch on each rank.
        classes: Class of each row, shape `[N]`. Integers (including pandas columns, nullable ones without missing
            values, and Python objects) are class ids, and K = max + 1. Strings (lists, NumPy "U", StringDType or
            object arrays, pandas and pyarrow columns, categoricals) and UTF-8 bytes are labels, sorted by code point
            and numbered, see `class_labels`; a category without rows gets no number. Missing labels are an error.
            None: a plain loader with a single class.
        mixing: Policy that updates the proportions, see `l2m_fast.mixing`. None: `Proportional()`, classical training.
            Without classes, a policy that follows losses is an error, and any other policy of this package has no effect
            and issues a warning.
        rows: Ids of the rows to draw from, shape `[n]`, without duplicates, or a mask of N bools. None: all rows. With
            `shuffle=False` and `classes=None`, rows are delivered in the given order; otherwise the order has no
            effect.
        shuffle: If True, every pass over a class has a new random order. If False, rows ascend within a class and are
            grouped by class; with `classes=None`, each epoch delivers the rows in order from the first, each of them
            exactly once across all ranks. For validation data, use `shuffle=False` with `classes=None`.
        order: Order of the rows inside a batch: "shuffled" or "grouped" (by class).
        drop_last: If True, drop the last batch if it is short. Has no effect with `classes`, where all batches are
            full.
        steps_per_epoch: Number of batches per epoch, all of them full. None: n // (batch_size * world_size) for n rows
            to draw from, at least one, plus the short last batch if there are no classes.
        update_every: Number of steps per loss window, counted across epochs. Window w takes effect from the first
            batch of window w + 2. None: each epoch is a window and takes effect from the next epoch.
        total_steps: Number of batches in the whole training, for policies that depend on it.
        lookahead: Number of batches, in [0, update_every], that may be taken beyond the one whose losses are recorded.
            For loops that record losses late, such as a pipeline over several batches. Each window closes that many
            batches later, and `record(step=)` names the batch that the losses belong to. With `update_every=None`, the
            window of an epoch closes when the next epoch begins. A saved state describes the run just after the last
            batch with losses.
        include: Extra entries of each batch, any of "rows" (int64 row ids), "classes" (int64) and "step" (int, batches
            since the beginning of training), on the CPU. They are appended to a tuple or list and become keys of a
            dict; a bare array becomes a tuple.
        seed: Integer in [0, 2^64). The same seed gives the same batches. Two loaders with the same seed and length
            also pair their rows in the same way in every epoch, so give each loader a different seed. None: the seed
            is drawn at the first batch, from torch's default generator (controlled by `torch.manual_seed`) or, with
            `format="numpy"`, from the operating system, and stored in `state_dict()`. Several ranks need an explicit
            seed.
        num_threads: Maximum number of threads. 0: no threads, all work happens in `next()`. None: the number of CPUs
            available to this process, according to its affinity and cgroup quota. The caller works too while it waits
            for a batch, in place of a thread if there is one for each CPU.
        prefetch: Number of batches prepared ahead. 0: each batch is copied in `next()`, and one of at least 64 KB by
            the OpenMP threads of torch, if there are at most `num_threads` of them. None: 0 if batches are large and
            a model on the CPU probably uses all CPUs (tensors of at least 128 KB in pageable memory, no CUDA device,
            at least 2 OpenMP threads and between `num_threads / 2` and `num_threads` of them, no memory map of a
            file); 16 if they are small (at most 8 KB of the data, in pageable memory); otherwise 4.
        pin_memory: If True, batches are in pinned memory of torch's caching host allocator: they can be copied to a
            CUDA device asynchronously, and released before the copy has finished. Issues a warning if there is no CUDA
            device.
        device: CUDA device of the batches. `prefetch` batches are copied there ahead of time on a separate stream;
            each batch is ready on the stream that is current at `next()`. Data that is already on the device, or in
            pinned memory (`tensor.pin_memory()`), is gathered by the device itself, and only row ids are copied. From
            data on the device, up to 16 batches of at most 32 MB in all are gathered together, unless `prefetch` is 0.
            None: the device of the data.
        rank: Rank of this process, in [0, world_size). None: rank 0 of 1. Environment variables are never read.
        world_size: Number of processes that share each global batch of batch_size * world_size rows. None: 1.
        all_reduce: Function that sums a float64 array of integers over all ranks, in place or into an array that it
            returns. Required if several ranks use a policy that follows losses. With torch.distributed::

                def all_reduce(sums):
                    torch.distributed.all_reduce(torch.from_numpy(sums))
                    return sums
        group: Process group of torch.distributed, or True for the default one, in place of `rank`, `world_size` and
            `all_reduce`. Its processes also agree on a seed if none is given. All of them must create the loader, at
            the same place of the program, and use several loaders in the same order. Losses are summed over a group of
            gloo, with the timeout of the given one.
        format: Type of the arrays in a batch: "torch" or "numpy", which does not need torch.

    Raises:
        TypeError, ValueError, IndexError: An argument is invalid.
        ImportError: `format="torch"`, but torch is not installed.
        RuntimeError: No thread can be started, and `num_threads` is not 0.
    """

    __slots__ = ()

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
        prefetch: int | None = None,
        pin_memory: bool = False,
        device: torch.device | str | int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        all_reduce: Callable[[Floats], object] | None = None,
        group: ProcessGroup | Literal[True] | None = None,
        format: Format = "torch",
        **unknown: Never,
    ) -> None:
        refuse_unknown("Loader", unknown, REPLACEMENTS)
        super().__init__(data, {
            "batch_size": batch_size, "classes": classes, "mixing": mixing, "rows": rows, "shuffle": shuffle, "order": order,
            "drop_last": drop_last, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "update_every": update_every,
            "lookahead": lookahead, "include": include, "seed": seed, "num_threads": num_threads, "prefetch": prefetch, "pin_memory": pin_memory, "device": device, "rank": rank,
            "world_size": world_size, "all_reduce": all_reduce, "group": group, "format": format,
        })  # fmt: skip

    @classmethod
    def from_dataloader(cls, dataloader: DataLoader[Any], **options: Any) -> Self:
        """Return a loader that replaces a DataLoader of torch over tensors in memory, which are not copied.

        Its dataset is a TensorDataset, a StackDataset of tensors, a Subset of one, or a tensor. Batch size, order,
        `drop_last` and `pin_memory` are those of the DataLoader; its workers are replaced by threads. Fields come as a
        tuple where the DataLoader makes a list.

        Args:
            dataloader: DataLoader without `collate_fn`, `worker_init_fn`, `generator`, `batch_sampler` or `sampler`,
                except a SubsetRandomSampler.
            **options: Further arguments of the loader, such as `classes` and `mixing`, and replacements of those that
                come from the DataLoader. `classes` are those of all rows of the data, also with a Subset.

        Raises:
            TypeError: `dataloader` is not a DataLoader.
            ValueError: A loader cannot replace it; the message says why. Or `rows` is given, and the DataLoader selects
                rows too.
        """
        data, arguments = loader_arguments(dataloader, options)
        return cls(data, **arguments)

    # ---- iteration

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the next epoch, or over the rest of an epoch restored by `load_state_dict()`.

        The epoch begins at the first `next()` of the iterator; an iterator that is never advanced changes nothing.
        """
        return self._core.iterate(forever=False)

    def forever(self) -> Iterator[Any]:
        """Return an iterator over this and all later epochs, without end.

        Raises:
            ValueError: `lookahead` is above 0 without `update_every`, or this rank gets no rows.
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
        """Add per-sample losses to the loss window of their batch.

        Works with every policy. Several calls for the same batch add up.

        Args:
            losses: Loss of each row of the batch, shape `[batch_size]`; float16, bfloat16, float32 or float64.
                Gradients are ignored. Non-finite losses are skipped, with one warning. CUDA losses are summed on their
                device without blocking the host; the host waits for the sums half a window after the window ends, or
                at its end with `all_reduce` or a policy written in Python. The result of `class_loss()` or
                `cross_entropy()` over all classes is also accepted.
            classes: Class of each loss, integers, shape `[n]`, on the CPU or on the device of the losses. If given,
                `losses` may have any length n. None: the classes of the batch.
            step: Step of the batch, as delivered by `include=("step",)`: one of the last `lookahead + 1` batches
                yielded. None: the last batch yielded.

        Raises:
            RuntimeError: No batch has been yielded, `step` is too old or its window is closed, another thread is
                iterating, or the loader is closed.
            TypeError: Losses are not floats or classes are not integers. Nothing is added.
            ValueError: The length or shape is wrong, or a class is out of range. Nothing is added. Classes on a device
                are checked there: losses whose class is out of range are skipped, and the error is raised when the
                sums are next needed.
        """
        self._record(losses, classes, step)

    # ---- correction

    def class_weights(self, target: Target, *, step: int | None = None) -> Float32s | torch.Tensor:
        """Return target / proportions of each class, for the proportions with which a batch was drawn.

        With these weights, the mean loss of a batch is that of rows drawn from the target distribution, whatever the
        proportions are: `(weights[classes] * losses).mean()`. For classes that are groups of rows, and for losses other
        than the cross entropy of the classes, for which `class_offsets()` trains better.

        Args:
            target: Class proportions of the target distribution: "balanced" (equal shares of the classes that have
                rows), "proportional" (shares of the rows), or an array of shape `[num_classes]`, finite, >= 0, with sum
                1. A class with target 0 has weight 0.
            step: Step of the batch, as for `record()`. None: the last batch yielded.

        Returns:
            float32, shape `[num_classes]`, in the format and on the device of the batches.

        Raises:
            RuntimeError: No batch has been yielded, or `step` is too old.
            TypeError, ValueError: `target` is invalid, or has a share of a class whose proportion is 0.
        """
        weights: Float32s | torch.Tensor = self._correction(class_weights, target, step)
        return weights

    def class_offsets(self, target: Target, *, step: int | None = None) -> Float32s | torch.Tensor:
        """Return log(proportions / target) of each class, to be added to the logits of a classifier in training.

        The classes must be the labels. A classifier that is trained with `cross_entropy(logits + offsets, labels)` on
        batches of any proportions, and used without offsets, is that of the target distribution (logit adjustment, Menon
        et al. 2021, arXiv 2007.07314; Balanced Softmax, Ren et al. 2020, arXiv 2007.10740).

        Args:
            target: As for `class_weights()`, but > 0 for each class whose proportion is > 0.
            step: Step of the batch, as for `record()`. None: the last batch yielded.

        Returns:
            float32, shape `[num_classes]`, in the format and on the device of the batches. 0 for a class without rows.

        Raises:
            RuntimeError: No batch has been yielded, or `step` is too old.
            TypeError, ValueError: `target` is invalid, or one of target and proportion of a class is 0.
        """
        offsets: Float32s | torch.Tensor = self._correction(class_offsets, target, step)
        return offsets

    # ---- attributes

    @property
    def batch_size(self) -> int:
        """Number of rows per batch on each rank."""
        return self._source.batch_size

    @property
    def drop_last(self) -> bool:
        """True if a short last batch is dropped."""
        return self._source.drop_last

    @property
    def dataset(self) -> DataView:
        """View of the data with length N, for code that reads `len(loader.dataset)`."""
        return DataView(self._source.fields[0].num_rows)

    @property
    def batch_rows(self) -> NDArray[np.int64] | torch.Tensor:
        """Row ids of the last batch yielded, int64, shape `[batch_size]`, in the order and the format of the batch.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._core.rows)

    @property
    def batch_classes(self) -> NDArray[np.int64] | torch.Tensor:
        """Class of each row of the last batch yielded, int64, shape `[batch_size]`, in the format of the batch.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._as_batch(self._core.classes)

    @property
    def batch_proportions(self) -> Floats:
        """Proportions with which the last batch yielded was drawn, a NumPy array, float64, shape `[num_classes]`, sum 1.

        Raises:
            RuntimeError: No batch has been yielded.
        """
        return self._core.batch_proportions(None)

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

    def state_dict(self, *, shared: bool | None = None, step: int | None = None) -> dict[str, Any]:
        """Return the state after the batches consumed so far, a dict of size O(num_classes + held rows).

        The dict contains only ints, floats, strings, bools, None, lists and dicts, so that json, pickle and
        torch.load(weights_only=True) accept it. Loading it into a loader with the same data and options repeats the
        rest of the run exactly, including losses recorded since the last update. Draws the seed if it has not been
        drawn yet.

        Args:
            shared: If True, return the same complete state on every rank, including the losses of all ranks, for
                checkpoints that store the state of a single rank. All ranks must call this at the same batch. Needs
                `all_reduce` or `group`. None: True with `group`.
            step: With `lookahead`, the batch whose state is returned, at most `lookahead` before the last one yielded.
                Batches beyond it are delivered again. None: the last batch whose losses were recorded.

        Raises:
            ValueError: The state after `step` is not available, or `shared=True` without `all_reduce` on several ranks.
            RuntimeError: `all_reduce` does not sum, rank states were taken at different steps, or the loader is closed.
        """
        if step is not None:
            step = checked_int("step", step, 0, MAX_COUNT)
        return self._state(shared, step)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at epoch `epoch`.

        If that is the next epoch anyway, or the one that a loaded state resumes, nothing changes, so that a loop may call
        it before every epoch. Otherwise every class begins a new pass that depends on `epoch`: without `classes` and
        `steps_per_epoch` this is the epoch of an uninterrupted run, with them it is not.
        """
        self._core.set_epoch(checked_int("epoch", epoch, 0, MAX_EPOCH))

    # ---- copies

    def __copy__(self) -> NoReturn:
        """Raise TypeError, because both copies would share one run."""
        msg = "a Loader cannot be copied by copy.copy(): use copy.deepcopy(loader), which shares the arrays"
        raise TypeError(msg)

    def __deepcopy__(self, memo: dict[int, Any]) -> Loader:
        """Return an independent loader of the same arrays, at the same point of the run, with an empty history."""
        copied = Loader(self._data, **self._arguments)
        consumed = self._core.total_step
        copied.load_state_dict(self.state_dict(step=consumed - 1 if consumed > 0 else None))
        return copied
