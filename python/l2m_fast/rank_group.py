"""`RankGroup`: ranks, seed and reduction of a loader from torch.distributed."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened
from l2m_fast.arguments import draw_seed

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from l2m_fast.mixing import Floats


class RankGroup:
    """Processes that share the batches of a loader. Its collectives go through a gloo group of its own.

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

        if given is not True and not (dist.is_available() and isinstance(given, dist.ProcessGroup)):
            msg = f"group must be a process group of torch.distributed, or True (got {shortened(given)})"
            raise TypeError(msg)
        if not dist.is_available() or not dist.is_initialized():
            msg = (
                "group=True needs torch.distributed: call torch.distributed.init_process_group() before creating the "
                "loader, and run the program with torchrun"
            )
            raise RuntimeError(msg)
        members = dist.group.WORLD if given is True else given
        self.rank, self.world_size = dist.get_rank(members), dist.get_world_size(members)
        if self.rank < 0:
            msg = f"group must contain this process (got ranks {shortened(dist.get_process_group_ranks(members))})"
            raise ValueError(msg)
        self._group = dist.new_group(
            dist.get_process_group_ranks(members),
            backend="gloo",
            timeout=_timeout(members),
            use_local_synchronization=True,
        )
        self._leave = weakref.finalize(self, _leave, self._group)
        self._leave.atexit = False  # the default group may be gone

    def all_reduce(self, sums: Floats) -> Floats:
        """Sum an array over all processes, in place. The result has the same bits on all of them."""
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.from_numpy(sums), group=self._group)
        return sums

    def draw_seed(self, batch_format: str) -> int:
        """Return the same random seed on all processes, drawn by the first as `arguments.draw_seed()` does."""
        seed = draw_seed(batch_format) if self.rank == 0 else 0
        high, low = self.all_reduce(np.array([seed >> 32, seed & 0xFFFFFFFF], np.float64))
        return int(high) << 32 | int(low)

    def leave(self) -> None:
        """Free the group. Idempotent."""
        self._leave()


def group_of(arguments: Mapping[str, Any]) -> RankGroup | None:
    """Return the processes of the argument `group`. Raise if another argument contradicts it."""
    if arguments["group"] is None:
        return None
    for name in ("rank", "world_size", "all_reduce"):
        if arguments[name] is not None:
            msg = f"{name} must be None with group=, which determines it (got {shortened(arguments[name])})"
            raise ValueError(msg)
    return RankGroup(arguments["group"])


def _leave(group: Any) -> None:
    import torch.distributed as dist

    with contextlib.suppress(Exception):  # it is gone if the default group is
        dist.destroy_process_group(group)


def _timeout(group: Any) -> dt.timedelta | None:
    """Return the timeout of the collectives of a group; None, the default of torch, if it does not tell."""
    import torch

    for device in ("cpu", "cuda"):
        with contextlib.suppress(AttributeError, RuntimeError):
            timeout: dt.timedelta = group._get_backend(torch.device(device)).options._timeout
            return timeout
    return None
