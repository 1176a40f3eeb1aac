"""Reduction of losses and states over ranks, and a warning if a loader was not told about its ranks."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened, warn
from l2m_fast.losses.sums import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    AllReduce = Callable[[Floats], object]

# Summed with the values: a number that float32 rounds, and one whose sum is the number of ranks that took part.
_PROBES = (2.0**32 - 1, 1.0)

_EXAMPLE = """write
    def all_reduce(sums):
        torch.distributed.all_reduce(torch.from_numpy(sums))
        return sums"""


def check_all_reduce(all_reduce: object) -> None:
    """Raise unless `all_reduce` may be a function that sums a NumPy array over the ranks."""
    if not callable(all_reduce):
        msg = f"all_reduce must be a callable that sums a float64 array over all ranks (got {shortened(all_reduce)})"
        raise TypeError(msg)
    function: Any = getattr(all_reduce, "func", all_reduce)  # unwraps a functools.partial
    if str(getattr(function, "__module__", "")).startswith("torch.distributed"):
        msg = (
            f"all_reduce must take a NumPy array (got torch.distributed.{function.__name__}, which takes a tensor): "
            f"{_EXAMPLE}"
        )
        raise TypeError(msg)


def summed_over_ranks(values: Floats, all_reduce: AllReduce, world_size: int, num_floats: int = 0) -> Floats:
    """Return the sums of values over all ranks.

    Args:
        values: Values of this rank, shape `[n]`.
        all_reduce: Function that sums an array over the ranks, in place or into the array that it returns.
        world_size: Number of ranks.
        num_floats: Number of entries, at the beginning of `values`, that may be no integers.

    Raises:
        RuntimeError: The result is not the sum of `world_size` arrays.
    """
    given = np.append(values, _PROBES)
    returned = all_reduce(given)
    for result in (given, returned):
        array = _as_floats(result)
        if array is None or array.shape != given.shape or array[-1] != world_size:
            continue
        _check_integers(array[num_floats:-1], world_size)
        return array[: -len(_PROBES)].copy()
    if returned is None or returned is given:
        got = f"got {given[-1]:g} instead of {world_size} for a value that is 1 on every rank"
    else:
        got = f"got {shortened(returned)}, and {given[-1]:g} in place of a value that is 1 on every rank"
    msg = (
        f"all_reduce must sum a float64 array over all {world_size} ranks, in place or into the array that it returns "
        f"({got}). It may have averaged, summed over another group, summed a copy, or returned before the sum was "
        f"complete; {_EXAMPLE}"
    )
    raise RuntimeError(msg)


def shared_state(state: dict[str, Any], all_reduce: AllReduce | None, rank: int, world_size: int) -> dict[str, Any]:
    """Return a complete state of all ranks: the state of rank 0, with the losses of all ranks.

    Args:
        state: State of this rank.
        all_reduce: Function that sums an array over the ranks, in place or into the array that it returns.
        rank: Rank of this process.
        world_size: Number of ranks.

    Raises:
        ValueError: `all_reduce` is None.
        RuntimeError: `all_reduce` does not sum, or the states of the ranks are of different steps.
    """
    if all_reduce is None:
        msg = f"all_reduce must be a callable for state_dict(shared=True) on {world_size} ranks (got None)"
        raise ValueError(msg)
    known = [math.nan if loss is None else loss for loss in state["class_losses"]]
    class_losses = np.where(np.isnan(known), -1.0, known) if rank == 0 else np.zeros(len(known))
    steps = np.zeros(world_size)
    steps[rank] = state["total_step"]
    # Always two windows, so that arrays have the same length on all ranks.
    own = _core.values_of_losses(state)
    losses = np.zeros((2, own.shape[1]))
    losses[: len(own)] = own
    reduced = summed_over_ranks(
        np.concatenate([class_losses, steps, losses.ravel()]), all_reduce, world_size, num_floats=len(known)
    )
    class_losses, steps, values = np.split(reduced, [len(known), len(known) + world_size])
    if (steps != state["total_step"]).any():
        msg = (
            "state_dict(shared=True) must describe the same batch on all ranks (got the steps "
            f"{shortened([int(total_step) - 1 for total_step in steps])}): pass step="
        )
        raise RuntimeError(msg)
    return {
        **_core.with_values_of_losses(state, values.reshape(losses.shape)[: len(own)]),
        "rank": 0,
        "world_size": 1,
        "class_losses": [None if loss < 0 else loss for loss in class_losses.tolist()],
    }


def _check_integers(sums: Floats, world_size: int) -> None:
    """Raise unless values and the first probe were summed without rounding."""
    valid = (np.abs(sums) <= MAX_COUNT * world_size) & (sums == np.floor(sums))
    valid[-1] = sums[-1] == _PROBES[0] * world_size
    if not valid.all():
        msg = (
            "all_reduce must return sums of integers of up to 2**53 per rank, not rounded (got "
            f"{sums[~valid][0]:.17g}): it may sum in a dtype that is too narrow; use float64"
        )
        raise RuntimeError(msg)


def _as_floats(result: Any) -> Floats | None:
    """Return a result as an array of floats; None: it is not an array."""
    if hasattr(result, "detach"):
        result = result.detach().cpu().numpy()
    if not isinstance(result, (np.ndarray, list, tuple)):
        return None
    try:
        return np.asarray(result, np.float64)
    except (TypeError, ValueError):
        return None


def warn_about_ranks() -> None:
    """Warn, once per process, if torch.distributed has several processes but the loader was not told its rank."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    global _warned_of_ranks
    if not _warned_of_ranks and torch.distributed.get_world_size() > 1:
        _warned_of_ranks = True
        msg = (
            "torch.distributed is initialized, but this loader has no rank, so every process gets all batches. Pass "
            "rank= and world_size= (rank=0, world_size=1 if this is intended)"
        )
        warn(msg)


_warned_of_ranks = False
