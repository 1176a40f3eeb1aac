"""Checks and conversions of the arguments of a loader."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import shortened, warn, whole
from l2m_fast.distributed import check_all_reduce
from l2m_fast.mixing import MixingPolicy, Proportional, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from numpy.typing import NDArray

    from l2m_fast.batch_source import BatchSource

# What takes the place of DataLoader's other arguments.
_INSTEAD = {
    "num_workers": "num_threads, native threads in this process",
    "prefetch_factor": "prefetch, the number of batches prepared ahead",
    "generator": "seed",
    "sampler": "rows, the ids of the rows to draw from, and mixing, the shares of the classes",
    "batch_sampler": "rows, classes and mixing",
    "collate_fn": "nothing: batches are gathered from arrays; transform a batch in the loop",
    "worker_init_fn": "nothing: there are no worker processes",
    "multiprocessing_context": "nothing: there are no worker processes",
    "persistent_workers": "nothing: threads stay between epochs",
    "pin_memory_device": "device",
    "timeout": "nothing: next() can be interrupted at any time",
    "in_order": "nothing: batches always come in order",
    "dataset": "data, the first argument",
}


def refuse_unknown(arguments: Mapping[str, object]) -> None:
    """Raise TypeError where there are arguments that a Loader does not have."""
    for name in arguments:
        instead = f": its place is taken by {_INSTEAD[name]}" if name in _INSTEAD else ""
        msg = f"Loader has no argument {shortened(name)}{instead}"
        raise TypeError(msg)


def draw_seed(batch_format: str) -> int:
    """Return a random seed: from torch's default generator, as a DataLoader draws it, or from the operating system."""
    if batch_format == "numpy":
        return int.from_bytes(os.urandom(8), "little")
    import torch

    return int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())


def row_ids(rows: Any, num_rows: int) -> NDArray[np.int64] | None:
    """Row ids as int64, also from a mask; the core checks their range and that none repeats."""
    if rows is None:
        return None
    if isinstance(rows, np.ma.MaskedArray):
        msg = "rows must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    try:
        array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    except (TypeError, ValueError, RuntimeError):
        msg = f"rows must be row ids or a mask of {num_rows} bools, in one dimension (got {shortened(rows)})"
        raise TypeError(msg) from None
    if array.size == 0:
        msg = f"rows must name at least one of the {num_rows} rows (got none)"
        raise ValueError(msg)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        got = f"{array.dtype} of shape {array.shape}"
        msg = f"rows must be row ids or a mask of {num_rows} bools, in one dimension (got {got})"
        raise (ValueError if array.ndim != 1 else TypeError)(msg)
    if array.dtype == np.bool_:
        if len(array) != num_rows:
            msg = f"a mask of rows must have one bool for each of the {num_rows} rows (got {len(array)})"
            raise ValueError(msg)
        if not array.any():
            msg = f"rows must name at least one of the {num_rows} rows (got a mask without True)"
            raise ValueError(msg)
        return np.flatnonzero(array)
    if array.max() >= num_rows:  # before uint64 becomes int64
        msg = f"rows must be ids in [0, {num_rows}) (got {array.max()})"
        raise IndexError(msg)
    return np.ascontiguousarray(array, np.int64)


def cuda_device(device: Any, of_data: set[torch.device], batch_format: str) -> torch.device | None:
    """The CUDA device of the batches, with an index; None: they are on the CPU.

    Args:
        device: What a loader was given; None: where the data are, if any are on a device.
        of_data: CUDA devices on which data are.
        batch_format: A device needs "torch".
    """
    if device is None and not of_data:
        return None
    import torch

    if len(of_data) > 1:
        msg = f"data must be on one CUDA device (got {', '.join(sorted(map(str, of_data)))})"
        raise ValueError(msg)
    if device is None:
        return next(iter(of_data))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = f"None, 'cpu' or one of the {count} CUDA devices there are"
    number = isinstance(device, (int, np.integer)) and not isinstance(device, bool)
    if not number and not isinstance(device, (str, torch.device)):
        msg = f"device must be {allowed} (got {shortened(device)})"
        raise TypeError(msg)
    try:
        wanted = torch.device(f"cuda:{device}" if number else device)
    except (RuntimeError, OverflowError):
        wanted = None
    if wanted is not None and wanted.type == "cpu" and not of_data:
        return None
    exists = wanted is not None and wanted.type == "cuda" and 0 <= (wanted.index or 0) < count
    # torch reads an index modulo 256.
    if wanted is None or not exists or str(device) not in (str(wanted), str(wanted.index)):
        msg = f"device must be {allowed} (got {shortened(device)})"
        raise ValueError(msg)
    if batch_format == "numpy":
        msg = f"batches on a device need format='torch' (got device={shortened(device)} and format='numpy')"
        raise ValueError(msg)
    if wanted.index is None:
        wanted = torch.device("cuda", torch.cuda.current_device())
    if of_data - {wanted}:
        msg = f"device must be that of the data, {next(iter(of_data))} (got {shortened(device)})"
        raise ValueError(msg)
    return wanted


def can_pin(pin_memory: bool, batch_format: str) -> bool:
    """Whether batches shall be in pinned memory. Warns where there is nothing to pin it for, as torch's DataLoader does."""
    if not pin_memory:
        return False
    if batch_format == "numpy":
        msg = "pin_memory=True needs format='torch' (got format='numpy')"
        raise ValueError(msg)
    import torch

    if not torch.cuda.is_available():
        warn("pin_memory=True without a CUDA device: batches are in pageable memory")
    return torch.cuda.is_available()


def torch_from_dlpack() -> Callable[[object], object]:
    """What makes a tensor of a DLPack capsule. Raises ImportError, with the way out, where torch is missing."""
    try:
        import torch
    except ImportError:
        msg = 'format="torch" needs torch: pip install "l2m-fast[torch]", or use format="numpy"'
        raise ImportError(msg) from None
    # Where the public function ends too, after checks that cost 0.3 us a tensor (torch 2.13 on an AMD EPYC, 2026-11).
    return getattr(torch._C, "_from_dlpack", torch.utils.dlpack.from_dlpack)


def checked_seed(seed: object, source: BatchSource) -> int | None:
    """Return the seed; None: it is to be drawn."""
    if seed is not None:
        return whole("seed", seed, 0, 2**64 - 1)
    if source.in_order:
        return 0  # nothing is random
    if source.world_size > 1:
        msg = f"seed must be an int in [0, 2**64), the same on all {source.world_size} ranks (got None)"
        raise ValueError(msg)
    return None


def checked_mixing(mixing: Any, all_reduce: object, source: BatchSource) -> MixingPolicy:
    """Return the mixing policy, which must have what it needs."""
    policy: MixingPolicy = Proportional() if mixing is None else mixing
    for method in ("initial", "update"):
        if isinstance(policy, type) or not callable(getattr(policy, method, None)):
            msg = f"mixing must be a policy with initial() and update(), such as Learn2Mix() (got {shortened(policy)})"
            raise TypeError(msg)
    if all_reduce is not None:
        check_all_reduce(all_reduce)
    if kind_of(policy) != "follows losses":
        return policy
    if source.classless:
        msg = f"{shortened(policy)} follows the losses of classes, and needs classes=, the class of each row (got None)"
        raise ValueError(msg)
    if source.world_size > 1 and all_reduce is None:
        msg = (
            f"{shortened(policy)} on {source.world_size} ranks needs all_reduce, a callable that sums one float64 array over "
            "all ranks (got None)"
        )
        raise ValueError(msg)
    return policy


def warn_of_epochs(source: BatchSource) -> None:
    """Warn where an epoch with classes is other than a user may expect."""
    if source.classless:
        return
    if source.global_batch > source.index.num_rows:
        msg = (
            f"a batch of {source.global_batch} rows repeats rows, since there are {source.index.num_rows}: use a smaller "
            "batch_size"
        )
        warn(msg)
    if not source.shuffle:
        msg = (
            "shuffle=False with classes= takes each class in order but mixes the classes by quotas: an epoch is not every row "
            "once. For validation data use classes=None"
        )
        warn(msg)
