"""`Run`: the part of a loader that is not about its batches: the class mix, the losses that it follows, and its end."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing.context
import sys
import weakref
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from l2m_fast._checks import checked_bool, checked_int, shortened, warn
from l2m_fast.arguments import checked_mixing, checked_seed, draw_seed, warn_about_classes
from l2m_fast.batch_source import batch_source
from l2m_fast.correction import target_proportions
from l2m_fast.distributed import shared_state, summed_over_ranks
from l2m_fast.history import Recorder
from l2m_fast.losses.arrays import class_array, device_classes, is_on_device, loss_array
from l2m_fast.losses.class_loss import is_class_loss
from l2m_fast.losses.sums import MAX_COUNT, ClassLoss, HostClassLoss, checked_sums
from l2m_fast.mixing import core_policy
from l2m_fast.rank_group import group_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import SupportsIndex

    import torch
    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from l2m_fast import _core
    from l2m_fast.correction import Float32s, Target
    from l2m_fast.distributed import AllReduce
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


class Run:
    """Run of batches whose class mix follows `proportions`: the base of `Loader` and of the samplers.

    Args:
        data: Data of a `Loader`.
        arguments: All its other arguments.
    """

    __slots__ = (
        "__weakref__",
        "_all_reduce",
        "_arguments",
        "_class_sizes",
        "_core",
        "_data",
        "_group",
        "_labels",
        "_mixing",
        "_rank",
        "_recorder",
        "_source",
    )

    def __init__(self, data: object, arguments: dict[str, Any]) -> None:
        self._data, self._arguments = data, arguments
        self._group = group_of(arguments)
        if self._group is not None:
            ranks = {"rank": self._group.rank, "world_size": self._group.world_size}
            arguments = {**arguments, **ranks, "all_reduce": self._group.all_reduce}
        self._all_reduce: AllReduce | None = arguments["all_reduce"]
        listing_rank, arguments = self._planned_ranks(arguments)
        self._source, self._labels = batch_source(data, arguments)
        self._rank = self._source.rank if listing_rank is None else listing_rank
        self._class_sizes = self._source.index.class_sizes
        self._mixing = checked_mixing(arguments["mixing"], self._all_reduce, self._source)
        if self._group is not None:
            self._group.check_equal(self._options_of_the_run())
        self._core = self._new_core(checked_seed(arguments["seed"], self._source, self._group is not None))
        warn_about_classes(self._source, self._mixing)

    def _planned_ranks(self, arguments: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
        """Return the arguments of the batches to plan. If they list several ranks, also return that of this process."""
        return None, arguments

    def _options_of_the_run(self) -> dict[str, object]:
        """Return what must be the same on all ranks, by the names of the arguments."""
        source = self._source
        return {
            "batch_size": source.batch_size,
            "the number of rows": source.index.num_rows,
            "the number of rows of each class": hashlib.sha256(self._class_sizes.tobytes()).hexdigest(),
            "mixing": self._mixing if is_dataclass(self._mixing) else type(self._mixing),  # whose repr has no address
            "update_every": source.update_every,
            "lookahead": source.lookahead,
            "steps_per_epoch": source.steps_per_epoch,
            "total_steps": source.total_steps,
            "shuffle": source.shuffle,
            "drop_last": source.drop_last,
            "seed": self._arguments["seed"],
        }

    def _new_core(self, seed: int | None) -> _core.Loader:
        source, num_classes = self._source, len(self._class_sizes)
        self._recorder = Recorder(num_classes, _HISTORY_BYTES)
        all_reduce = start_all_reduce = None
        draw = draw_seed
        if self._group is not None:
            all_reduce, start_all_reduce, draw = self._group.finish, self._group.start, self._group.draw_seed
        elif self._all_reduce is not None:
            all_reduce = partial(summed_over_ranks, all_reduce=self._all_reduce, world_size=source.num_ranks)
        core = source.core_loader(
            policy=core_policy(self._mixing, num_classes),
            policy_name=shortened(self._mixing),
            all_reduce=all_reduce,
            start_all_reduce=start_all_reduce,
            draw_seed=partial(draw, source.format),
            warn=warn,
            check=partial(_check_epoch, source.fields),
            observe=self._recorder.append,
            seed=seed,
        )
        _open.add(core)
        return core

    def __len__(self) -> int:
        """Return the number of batches per epoch.

        It is the same on all ranks, except in dataset order: a rank that gets no rows of the last batch has one batch
        fewer.
        """
        return len(self._core)

    # ---- losses

    def _record(
        self,
        losses: torch.Tensor | ArrayLike | ClassSums,
        classes: torch.Tensor | ArrayLike | None,
        step: int | None,
    ) -> None:
        if step is not None:
            step = checked_int("step", step, 0, MAX_COUNT)
        if is_class_loss(losses):
            self._record_sums(losses, classes, step)
        elif is_on_device(losses):
            self._record_on_device(losses, classes, step)
        else:
            self._core.record(loss_array(losses), None if classes is None else class_array(classes), step)

    def _record_sums(
        self, losses: ClassLoss | HostClassLoss | DeviceClassLoss, classes: object, step: int | None
    ) -> None:
        if classes is not None:
            msg = f"classes must be None with a ClassLoss, which has its own classes (got {shortened(classes)})"
            raise ValueError(msg)
        if isinstance(losses, ClassLoss):
            self._core.record_sums(*checked_sums(losses, self.num_classes), step)
        elif isinstance(losses, HostClassLoss):
            self._core.record_words(losses.words, step)
        else:
            if losses.num_classes != self.num_classes:
                msg = f"losses must be sums over {self.num_classes} classes (got {losses.num_classes})"
                raise ValueError(msg)
            self._add_on_device(lambda sums: sums.add_sums(losses), losses.device, step)

    def _record_on_device(self, losses: torch.Tensor, classes: Any, step: int | None) -> None:
        ids = device_classes(losses, self._core.classes_to_record(step, len(losses)) if classes is None else classes)
        self._add_on_device(lambda sums: sums.add(losses, ids), losses.device, step)

    def _add_on_device(self, add: Callable[[DeviceClassLoss], None], device: torch.device, step: int | None) -> None:
        from l2m_fast.losses.device import DeviceClassLoss

        self._core.record_on_device(add, device, partial(DeviceClassLoss, self.num_classes, device), step)

    def update(self) -> None:
        """Close the loss window now, so that it takes effect from the next epoch.

        Called automatically at the end of every epoch. Losses recorded after the loop over an epoch, as in the
        reference implementation of Learn2Mix, belong to the window of the next epoch; call `update()` after recording
        them to make them take effect in that epoch. If a window is closed while its epoch runs, the end of
        the epoch does not close another one.

        Raises:
            RuntimeError: The loader has `update_every`, or is closed.
        """
        self._core.update()

    def end_epoch(self) -> None:
        """End the epoch after the last batch consumed, and close its loss window.

        Between epochs, only a loss window that is still open is closed: with `lookahead` and `update_every=None`, that of
        the last epoch.

        The next iteration would do so too. Call it before saving a state where a loop leaves an epoch early, or counts
        batches and leaves the iterator unfinished: the state would resume in the middle of the epoch. Iterators of the
        epoch end.
        """
        self._core.end_epoch()

    # ---- attributes

    @property
    def proportions(self) -> Floats:
        """Proportions of the next batch to be yielded, a NumPy array, float64, shape `[num_classes]`, sum 1.

        With `lookahead` and `update_every=None`, the losses of an epoch take effect at the first batch of the next one:
        between two epochs, these are still those of the last batch, unless `update()` has been called.
        """
        return self._core.proportions

    @property
    def class_losses(self) -> Floats:
        """Last known mean loss of each class, a NumPy array, float64, shape `[num_classes]`; NaN if it had no loss yet."""
        self._core.apply_pending()
        return self._core.class_losses

    @property
    def class_sizes(self) -> Sizes:
        """Number of rows of each class, a NumPy array, int64, shape `[num_classes]`."""
        return self._class_sizes.copy()

    @property
    def class_labels(self) -> list[str] | None:
        """Labels in the order of the class ids; None if the classes were given as ids."""
        return None if self._labels is None else list(self._labels)

    @property
    def num_classes(self) -> int:
        """Number of classes K, the largest class id + 1."""
        return len(self._class_sizes)

    @property
    def epoch(self) -> int:
        """Epoch of the last batch yielded; before the first batch, and after the end of an epoch, that of the next one."""
        return self._core.epoch

    @property
    def step(self) -> int:
        """Number of batches yielded in this epoch."""
        return self._core.step

    @property
    def total_step(self) -> int:
        """Number of batches yielded since the beginning of training."""
        return self._core.total_step

    @property
    def history(self) -> History:
        """Records of the updates of the proportions, oldest first, limited to the newest 64 MB.

        A sequence of dicts with `epoch` and `total_step` (time of the update, in batches since the beginning of
        training), `proportions` (the new ones), `class_losses` (the losses used) and `counts` (number of losses
        recorded per class).
        """
        self._core.apply_pending()
        return self._recorder.snapshot()

    # ---- correction

    def _correction(self, of: Callable[[Floats, Floats], Float32s], target: Target, step: int | None) -> Any:
        """Return a correction in the format of batches and on their device, without waiting for the device."""
        step = None if step is None else checked_int("step", step, 0, MAX_COUNT)
        array = of(self._core.batch_proportions(step), target_proportions(target, self._class_sizes))
        if self._source.format == "numpy":
            return array
        import torch

        tensor = torch.from_numpy(array)
        if self._source.device is None:
            return tensor
        from l2m_fast.losses.device import to_device

        return to_device(tensor, self._source.device)

    # ---- state

    def _state(self, shared: bool | None, step: int | None) -> dict[str, Any]:
        shared = self._group is not None if shared is None else checked_bool("shared", shared)
        own = self._core.state(step)
        source = self._source
        if not shared or source.num_ranks == 1:
            return own
        return shared_state(own, self._all_reduce, self._rank, source.num_ranks)

    def load_state_dict(self, state_dict: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Restore a saved state, so that the next iteration resumes in the middle of its epoch or begins the next one.

        The seed is restored too. Prefetched batches and the history are dropped. The state is checked completely before
        anything changes. States from untrusted sources are safe to load, because nothing in them is executed.

        Args:
            state_dict: State from `state_dict()`, or the list of the states of all ranks, whose pending losses add up.
                The number of ranks may change if batch_size * world_size stays the same.

        Raises:
            TypeError: `state_dict` is not a state.
            ValueError: The state is invalid, has another version, or was saved by a loader with other data or options,
                which the message names. The loader is unchanged.
        """
        self._core.load(state_dict)
        self._recorder.clear()

    # ---- copies

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError before any tensor is pickled, because torch would move it to shared memory."""
        name = type(self).__name__
        if multiprocessing.context.get_spawning_popen() is not None:
            msg = f"a {name} cannot be sent to another process, because it owns threads and memory: create it there"
        else:
            what = "pickled" if hasattr(self, "__deepcopy__") else "pickled or copied"
            msg = f"a {name} cannot be {what}: save its state_dict(), and load it into a {name} of the same data"
        raise TypeError(msg)

    # ---- closing

    def close(self) -> None:
        """Stop the threads of this loader and free its prefetched batches. Idempotent.

        Batches already yielded stay valid. If called during another call of the same loader, such as `next()` in another
        thread or around a signal handler, it takes effect when that call ends.
        """
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_epoch(fields: list[Any]) -> None:
    """Check the arrays, which may have changed since the last epoch, and warn in a DataLoader worker."""
    for field in fields:
        field.check_shape()
    torch = sys.modules.get("torch")
    global _warned_of_workers
    if torch is None or _warned_of_workers or torch.utils.data.get_worker_info() is None:
        return
    _warned_of_workers = True  # once in a process
    warn(
        "a Loader runs in a worker process of a torch DataLoader, so every worker repeats the whole epoch. Iterate over "
        "the Loader directly: its threads replace the workers"
    )


_warned_of_workers = False
