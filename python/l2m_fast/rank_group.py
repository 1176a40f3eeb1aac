"""`RankGroup`: ranks, seed and reduction of a loader from torch.distributed."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import hashlib
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened
from l2m_fast.arguments import draw_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from l2m_fast.mixing import Floats

_SIGNALS_EVERY = dt.timedelta(seconds=0.1)  # a wait for other processes ends this often, for Ctrl-C

# One group of gloo per process group, because connecting takes long and needs all processes. And per default group the
# number of those created, which names the next one.
_gloo: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_num_loaders: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_num_created: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], int]] = weakref.WeakKeyDictionary()

# Tensors that a thread of gloo may still hold, by their ids, and the objects that started collectives with them.
_tensors: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_rank_groups: weakref.WeakSet[RankGroup] = weakref.WeakSet()


class RankGroup:
    """Processes that share the batches of a loader. Its collectives go through a group of gloo, and work for any backend.

    Creating it is a collective operation of these processes, and so are its methods.

    Args:
        given: Process group of torch.distributed; True: the default one.

    Attributes:
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        TypeError: `given` is not a process group.
        RuntimeError: torch.distributed is not initialized.
        ValueError: This process is not in the group.
    """

    def __init__(self, given: Any) -> None:
        import torch.distributed as dist

        available = dist.is_available()
        if available and given is dist.GroupMember.NON_GROUP_MEMBER:
            msg = "group must contain this process (got a group of other processes)"
            raise ValueError(msg)
        if given is not True and not (available and isinstance(given, dist.ProcessGroup)):
            msg = f"group must be a process group of torch.distributed, or True (got {shortened(given)})"
            raise TypeError(msg)
        if not available or not dist.is_initialized():
            msg = (
                "group=True needs torch.distributed: call torch.distributed.init_process_group() before creating the "
                "loader, and run the program with torchrun"
            )
            raise RuntimeError(msg)
        members = dist.group.WORLD if given is True else given
        self.rank, self.world_size = dist.get_rank(members), dist.get_world_size(members)
        self._gloo = _gloo_of(members)
        # Sums carry the number of the loader, so that loaders used in another order on another process are noticed.
        number = _num_loaders[self._gloo] = _num_loaders.get(self._gloo, 0) + 1
        self._tag = np.array([number, number**2], np.float64)
        self._seed: int | None = None  # drawn, but not agreed on
        self._started: tuple[int, Floats, Any, Any] | None = None
        self._waiting: tuple[Floats, Any, Any] | None = None  # what all_reduce() was interrupted in
        _rank_groups.add(self)

    def check_equal(self, options: Mapping[str, object]) -> None:
        """Raise ValueError on all processes unless the options are the same on all of them."""
        import torch

        digests = [hashlib.sha256(repr(value).encode()).digest()[:8] for value in options.values()]
        own = torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])
        of_ranks = [torch.empty_like(own) for _ in range(self.world_size)]
        _tensors.update((id(tensor), tensor) for tensor in (own, *of_ranks))
        self._wait(self._gloo.allgather([of_ranks], [own]))
        for rank, values in enumerate(of_ranks):
            for name, mine, other in zip(options, own.tolist(), values.tolist(), strict=True):
                if mine != other:
                    msg = (
                        f"{name} must be the same on all processes of group= (got {shortened(options[name])} on rank "
                        f"{self.rank}, and something else on rank {rank})"
                    )
                    raise ValueError(msg)

    def all_reduce(self, sums: Floats) -> Floats:
        """Sum an array over all processes, in place. The result has the same bits on all of them.

        A call that was interrupted goes on if it is repeated: the others would not take part a second time.
        """
        if self._waiting is None or not np.array_equal(self._waiting[0], sums):
            self._waiting = (sums.copy(), *self._start(sums))
        _, total, work = self._waiting
        sums[:] = self._finish(total, work)
        self._waiting = None
        return sums

    def start(self, number: int, sums: Floats) -> None:
        """Start a sum over all processes, which `finish()` returns. Do not wait for the others.

        Args:
            number: Number of this sum. If it was started already, with the same values, nothing happens: the other
                processes would not take part a second time.
            sums: Values of this process.
        """
        if self._started is not None and self._started[0] == number and np.array_equal(self._started[1], sums):
            return
        self._started = (number, sums, *self._start(sums))

    def finish(self, sums: Floats) -> Floats:  # noqa: ARG002 -- those of start()
        """Wait for the sum that was started last, and return it."""
        assert self._started is not None
        *_, total, work = self._started
        return self._finish(total, work)

    def draw_seed(self, batch_format: str) -> int:
        """Return the same random seed on all processes, drawn by the first as `arguments.draw_seed()` does."""
        if self._seed is None:  # otherwise the last call was interrupted
            self._seed = draw_seed(batch_format) if self.rank == 0 else 0
        high, low = self.all_reduce(np.array([self._seed >> 32, self._seed & 0xFFFFFFFF], np.float64))
        self._seed = None
        return int(high) << 32 | int(low)

    def forget(self) -> None:
        """Drop the sums that nobody will wait for any more."""
        self._started = self._waiting = None

    def _start(self, sums: Floats) -> tuple[Any, Any]:
        """Start a sum. Return the tensor that will hold it, and a handle to wait for it."""
        import torch

        total = torch.from_numpy(np.concatenate((sums, self._tag)))
        _tensors[id(total)] = total
        return total, self._gloo.allreduce([total])

    def _finish(self, total: Any, work: Any) -> Floats:
        """Wait for a sum, and return it."""
        self._wait(work)
        result: Floats = total.numpy()
        if not np.array_equal(result[-len(self._tag) :], self.world_size * self._tag):
            msg = (
                "loaders of one process group must be used in the same order on all processes (the losses of different "
                "loaders were summed): take their batches in the same order, or give each loader a group of its own"
            )
            raise RuntimeError(msg)
        return result[: -len(self._tag)].copy()

    def _wait(self, work: Any) -> None:
        """Wait for a collective. Ctrl-C ends the waiting."""
        completed = False
        while not completed:
            completed = work.is_completed()  # before the wait, which raises if it ends while this asks
            try:
                work.wait(_SIGNALS_EVERY)
            except RuntimeError as error:
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    raise  # from a signal handler
                if not completed:
                    continue
                msg = (
                    "the processes of group= did not answer each other: one of them has failed, or has not done what the "
                    "others do (all of them must create the loader, take its batches, and call state_dict() at the same "
                    "batch)"
                )
                raise RuntimeError(msg) from error
            return


@atexit.register
def _wait_for_gloo() -> None:
    """Wait until no thread of gloo holds a tensor, but not long for processes that do not take part in a collective.

    A thread that releases a tensor needs the GIL. Before Python 3.14, a thread that waits for the GIL when the interpreter
    is finalized aborts the process.
    """
    for group in _rank_groups:
        group.forget()
    end = time.monotonic() + 0.5
    while _tensors and time.monotonic() < end:
        time.sleep(0.001)


def group_of(arguments: Mapping[str, Any]) -> RankGroup | None:
    """Return the processes of the argument `group`. Raise if another argument contradicts it."""
    if arguments["group"] is None:
        return None
    for name in ("rank", "world_size", "all_reduce"):
        if arguments[name] is not None:
            msg = f"{name} must be None with group=, which determines it (got {shortened(arguments[name])})"
            raise ValueError(msg)
    return RankGroup(arguments["group"])


def _gloo_of(members: Any) -> Any:
    """Return the group of gloo of the same processes, with the same timeout."""
    import torch
    import torch.distributed as dist

    existing = _gloo.get(members)
    if existing is not None:
        return existing
    ranks = tuple(dist.get_process_group_ranks(members))
    num_created = _num_created.setdefault(dist.group.WORLD, {})
    # new_group() would name the group after the number of those of this process, which may differ between processes.
    name = f"l2m_fast/{'-'.join(map(str, ranks))}/{num_created.get(ranks, 0)}"
    store = torch._C._distributed_c10d.PrefixStore(name, dist.distributed_c10d._get_default_store())
    created = dist.ProcessGroupGloo(store, dist.get_rank(members), len(ranks), _timeout(members))
    num_created[ranks] = num_created.get(ranks, 0) + 1
    _gloo[members] = created
    return created


def _timeout(group: Any) -> dt.timedelta:
    """Return the timeout of the collectives of a group, or the default of torch if it does not tell."""
    import torch
    import torch.distributed as dist

    for device in ("cpu", "cuda"):
        with contextlib.suppress(AttributeError, RuntimeError):
            timeout: dt.timedelta = group._get_backend(torch.device(device)).options._timeout
            return timeout
    return dist.default_pg_timeout
