"""Several ranks: the reduction of their losses, and a warning where nobody said that there are several."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened, warn
from l2m_fast.losses.sums import LARGEST_SUM, MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    AllReduce = Callable[[Floats], object]

_HOW_TO_WRITE_IT = """write
    def all_reduce(sums):
        torch.distributed.all_reduce(torch.from_numpy(sums))
        return sums"""


def check_all_reduce(all_reduce: object) -> None:
    """Raise unless this can be a function that sums an array over the ranks."""
    if not callable(all_reduce):
        msg = f"all_reduce must be a callable that sums a float64 array over all ranks (got {shortened(all_reduce)})"
        raise TypeError(msg)
    function: Any = getattr(all_reduce, "func", all_reduce)  # of a partial
    if str(getattr(function, "__module__", "")).startswith("torch.distributed"):
        msg = f"all_reduce must take a NumPy array, and torch.distributed.{function.__name__} takes a tensor: {_HOW_TO_WRITE_IT}"
        raise TypeError(msg)


def summed_over_ranks(sums: Floats, all_reduce: AllReduce, world_size: int, num_counts: int) -> Floats:
    """Return the sums of all ranks.

    Args:
        sums: Of this rank, shape `[n]`.
        all_reduce: Sums an array over the ranks, in place or into the array that it returns.
        world_size: Number of ranks.
        num_counts: How many of the last ones count something.

    Raises:
        RuntimeError: The result is not the sum of `world_size` arrays.
    """
    given = np.append(sums, 1.0)  # every rank adds 1: what comes back counts them
    returned = all_reduce(given)
    for result in (given, returned):
        array = _as_floats(result)
        if array is None or array.shape != given.shape or array[-1] != world_size:
            continue
        return _checked_counts(array[:-1].copy(), num_counts, MAX_COUNT * world_size)
    if returned is None or returned is given:
        got = (
            f"a value that is 1 on every rank came back as {given[-1]:g}, and {world_size} ranks add up to {world_size}"
        )
    else:
        got = f"it returned {shortened(returned)}, and left {given[-1]:g} of a value that is 1 on every rank"
    msg = (
        f"all_reduce must sum a float64 array over all {world_size} ranks, in place or in the array that it returns ({got}). "
        f"It may have averaged, summed over another group, summed a copy, or returned before the sum was there; {_HOW_TO_WRITE_IT}"
    )
    raise RuntimeError(msg)


def shared_state(state: dict[str, Any], all_reduce: AllReduce | None, rank: int, world_size: int) -> dict[str, Any]:
    """Return the state of all ranks: that of rank 0, with the losses of all.

    Args:
        state: Of this rank.
        all_reduce: Sums an array over the ranks, in place or into the array that it returns.
        rank: Of this process.
        world_size: Number of ranks.

    Raises:
        ValueError: There is no `all_reduce`.
        RuntimeError: It does not sum, or the states of the ranks are of different steps.
    """
    if all_reduce is None:
        msg = f"state_dict(shared=True) on {world_size} ranks needs all_reduce (got None)"
        raise ValueError(msg)
    known = [math.nan if loss is None else loss for loss in state["class_losses"]]
    class_losses = np.where(np.isnan(known), -1.0, known) if rank == 0 else np.zeros(len(known))
    steps = np.zeros(world_size)
    steps[rank] = state["total_step"]
    open_windows = len(state["window_sums"])
    losses = np.zeros((2, 2, len(known)))  # sums and counts of two windows, so that all ranks reduce as many numbers
    losses[0, :open_windows], losses[1, :open_windows] = state["window_sums"], state["window_counts"]
    reduced = summed_over_ranks(
        np.concatenate([steps, class_losses, losses.ravel()]), all_reduce, world_size, losses[1].size
    )
    steps, class_losses, losses = np.split(reduced, [world_size, world_size + len(known)])
    if (steps != state["total_step"]).any():
        msg = (
            "state_dict(shared=True) must describe the same batch on all ranks (got the steps "
            f"{shortened([int(total_step) - 1 for total_step in steps])}): pass step="
        )
        raise RuntimeError(msg)
    sums, counts = losses.reshape(2, 2, len(known))[:, :open_windows]
    return {
        **state,
        "rank": 0,
        "world_size": 1,
        "class_losses": [None if loss < 0 else loss for loss in class_losses.tolist()],
        "window_sums": np.clip(sums, -LARGEST_SUM, LARGEST_SUM).tolist(),
        "window_counts": np.minimum(counts, MAX_COUNT).astype(np.int64).tolist(),
    }


def _checked_counts(sums: Floats, num_counts: int, most: int) -> Floats:
    counts = sums[len(sums) - num_counts :]
    countable = (counts >= 0) & (counts <= most) & (counts == np.floor(counts))
    if not countable.all():
        msg = (
            f"all_reduce must return sums (got {counts[~countable][0]:g} for the number of losses of a class, which is an "
            "integer up to 2**53 per rank): it may sum in a type that is too narrow; reduce float64"
        )
        raise RuntimeError(msg)
    return sums


def _as_floats(result: Any) -> Floats | None:
    """Return a result as an array of floats; None: it is none."""
    if hasattr(result, "detach"):
        result = result.detach().cpu().numpy()
    if not isinstance(result, (np.ndarray, list, tuple)):
        return None
    try:
        return np.asarray(result, np.float64)
    except (TypeError, ValueError):
        return None


def warn_of_ranks() -> None:
    """Warn, once in a process, where torch.distributed has several processes and the loader knows of one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    global _warned_of_ranks
    if not _warned_of_ranks and torch.distributed.get_world_size() > 1:
        _warned_of_ranks = True
        msg = (
            "torch.distributed is initialized, but this loader was not told its rank: every process gets all batches. Pass "
            "rank= and world_size= (rank=0, world_size=1 if that is what you want)"
        )
        warn(msg)


_warned_of_ranks = False
