"""Checks and conversions of arguments of a loader."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import checked_int, import_torch, shortened, to_array, warn
from l2m_fast.distributed import check_all_reduce
from l2m_fast.mixing import MixingPolicy, Proportional, is_built_in, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from l2m_fast.batch_source import BatchSource
    from l2m_fast.data.fields import Field

_PREFETCH = 4
_PREFETCH_SMALL = 16  # a thread that runs out of batches sleeps, and to be woken takes as long as a few small batches
_MAX_SMALL_BYTES = 8 << 10
# Size of a batch from which torch's simple operations on floats use several threads.
_MIN_SHARED_BYTES = 128 << 10

# What to use in a Loader instead of arguments of torch's DataLoader.
REPLACEMENTS = {
    "num_workers": "use num_threads, the number of native threads in this process",
    "prefetch_factor": "use prefetch, the number of batches prepared ahead",
    "generator": "use seed",
    "sampler": "use rows, the ids of the rows to draw from, and mixing, the shares of the classes",
    "batch_sampler": "use rows, classes and mixing",
    "collate_fn": "batches are gathered from arrays; transform each batch in the loop",
    "worker_init_fn": "there are no worker processes",
    "multiprocessing_context": "there are no worker processes",
    "persistent_workers": "threads are always kept between epochs",
    "pin_memory_device": "use device",
    "timeout": "next() can be interrupted at any time",
    "in_order": "batches are always delivered in order",
    "dataset": "use data, the first argument",
}
# The same for a BatchSampler, which also lacks an argument of torch's BatchSampler.
SAMPLER_REPLACEMENTS = {
    **dict.fromkeys(REPLACEMENTS, "pass it to the DataLoader"),
    **{name: REPLACEMENTS[name] for name in ("generator", "sampler")},
    "data": "pass the dataset to the DataLoader",
    "drop_last": "all batches are full, and rows that are left come in the next epoch",
}


def refuse_unknown(class_name: str, arguments: Mapping[str, object], replacements: Mapping[str, str]) -> None:
    """Raise TypeError if there is any of these arguments, which the class does not have."""
    for name in arguments:
        hint = f": {replacements[name]}" if name in replacements else ""
        msg = f"{class_name} has no argument {shortened(name)}{hint}"
        raise TypeError(msg)


def draw_seed(batch_format: str) -> int:
    """Return a random seed from torch's default generator, like DataLoader does, or from the operating system."""
    if batch_format == "numpy":
        return int.from_bytes(os.urandom(8), "little")
    import torch

    return int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())


def row_ids(rows: Any, num_rows: int) -> NDArray[np.int64] | None:
    """Return row ids, or those of a mask, as int64. The core checks for ids that are out of range or duplicate."""
    if rows is None:
        return None
    if isinstance(rows, np.ma.MaskedArray):
        msg = "rows must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    try:
        array = to_array(rows)
    except (TypeError, ValueError, RuntimeError):
        msg = f"rows must be a one-dimensional array of row ids or a mask of {num_rows} bools (got {shortened(rows)})"
        raise TypeError(msg) from None
    if array.size == 0:
        msg = f"rows must select at least one of the {num_rows} rows (got an empty array)"
        raise ValueError(msg)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        got = shortened(rows) if array.dtype == object else f"{array.dtype} of shape {array.shape}"
        msg = f"rows must be a one-dimensional array of row ids or a mask of {num_rows} bools (got {got})"
        raise (ValueError if array.dtype.kind in "iub" else TypeError)(msg)
    if array.dtype == np.bool_:
        if len(array) != num_rows:
            msg = f"rows must have one bool for each of the {num_rows} rows if it is a mask (got {len(array)})"
            raise ValueError(msg)
        if not array.any():
            msg = f"rows must select at least one of the {num_rows} rows (got a mask without True)"
            raise ValueError(msg)
        return np.flatnonzero(array)
    if array.max() >= num_rows:  # checked before uint64 is converted to int64
        msg = f"rows must be ids in [0, {num_rows}) (got {array.max()})"
        raise IndexError(msg)
    return np.ascontiguousarray(array, np.int64)


def cuda_device(device: Any, data_devices: set[torch.device], batch_format: str) -> torch.device | None:
    """Return the CUDA device of the batches, with an index; None: the CPU.

    Args:
        device: Argument of the loader; None: the device of the data.
        data_devices: CUDA devices that hold data.
        batch_format: Format of the batches. A CUDA device needs "torch".
    """
    if device is None and not data_devices:
        return None
    import torch

    if len(data_devices) > 1:
        msg = f"data must be on one CUDA device (got {', '.join(sorted(map(str, data_devices)))})"
        raise ValueError(msg)
    if device is None:
        return next(iter(data_devices))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = f"None, 'cpu' or one of the {count} available CUDA devices"
    is_index = isinstance(device, (int, np.integer)) and not isinstance(device, bool)
    if not is_index and not isinstance(device, (str, torch.device)):
        msg = f"device must be {allowed} (got {shortened(device)})"
        raise TypeError(msg)
    try:
        wanted = torch.device(f"cuda:{device}" if is_index else device)
    except (RuntimeError, OverflowError):
        wanted = None
    if wanted is not None and wanted.type == "cpu" and not data_devices:
        return None
    exists = wanted is not None and wanted.type == "cuda" and 0 <= (wanted.index or 0) < count
    # The strings are compared because torch takes an index modulo 256.
    if wanted is None or not exists or str(device) not in (str(wanted), str(wanted.index)):
        msg = f"device must be {allowed} (got {shortened(device)})"
        raise ValueError(msg)
    if batch_format == "numpy":
        msg = f"format must be 'torch' for batches on a CUDA device (got device={shortened(device)} and format='numpy')"
        raise ValueError(msg)
    if wanted.index is None:
        wanted = torch.device("cuda", torch.cuda.current_device())
    if data_devices - {wanted}:
        msg = f"device must be the device of the data, {next(iter(data_devices))} (got {shortened(device)})"
        raise ValueError(msg)
    return wanted


def can_pin(pin_memory: bool, batch_format: str) -> bool:
    """Return whether batches can be in pinned memory. Warn if there is no CUDA device, like torch's DataLoader does."""
    if not pin_memory:
        return False
    if batch_format == "numpy":
        msg = "format must be 'torch' with pin_memory=True (got format='numpy')"
        raise ValueError(msg)
    import torch

    if not torch.cuda.is_available():
        warn("pin_memory=True has no effect without a CUDA device: batches are in pageable memory")
    return torch.cuda.is_available()


def default_prefetch(
    fields: Sequence[Field], batch_size: int, num_threads: int, batch_format: str, *, on_host: bool
) -> int:
    """Return the number of batches to prepare ahead, if the user does not say.

    A model on the CPU uses all CPUs, and threads of OpenMP spin while they wait: little time is left to prepare batches
    ahead. Large batches are then copied faster by these threads, in `next()`, and are in their caches when the
    model reads them. The exception is data that is read from a disk on demand.

    Of small batches, more are prepared ahead, so that threads rarely sleep.

    Args:
        fields: Fields of the data.
        batch_size: Number of rows of a batch.
        num_threads: Maximum number of threads of the loader.
        batch_format: Format of the batches.
        on_host: Whether batches are in pageable memory of the host.
    """
    batch_bytes = batch_size * sum(field.row_bytes for field in fields)
    if on_host and batch_bytes <= _MAX_SMALL_BYTES:
        return _PREFETCH_SMALL
    if batch_format != "torch" or not on_host or batch_bytes < _MIN_SHARED_BYTES:
        return _PREFETCH
    import torch

    # On processors with two threads per core, torch starts one thread for each core.
    uses_all_cpus = not was_forked() and 1 < _core.openmp_threads() <= num_threads <= 2 * _core.openmp_threads()
    if not uses_all_cpus or torch.cuda.device_count() > 0:
        return _PREFETCH
    return _PREFETCH if any(_is_in_mapped_file(field.address) for field in fields) else 0


@cache
def was_forked() -> bool:
    """Return whether this process was a fork without exec when it first called this, as far as the system tells.

    Such a process may have inherited the state of OpenMP's threads without the threads. The core detects later forks.
    """
    try:
        flags = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[6])
    except OSError:
        return False
    return bool(flags & 0x40)  # PF_FORKNOEXEC of Linux


def _is_in_mapped_file(address: int) -> bool:
    """Return whether an address belongs to a memory map of a file on a disk, as far as the system tells."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return False
    for line in maps.splitlines():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        begin, end = (int(bound, 16) for bound in span.split("-"))
        if begin <= address < end:
            return any(name.startswith("/") and not name.startswith(("/dev/", "/memfd:", "/SYSV")) for name in path)
    return False


def torch_from_dlpack() -> Callable[[object], object]:
    """Return the function that converts a DLPack capsule to a tensor. Raise ImportError if torch is not installed."""
    torch = import_torch('format="torch"', ', or use format="numpy"')
    # The public function calls it after checks that take 0.3 us per tensor (torch 2.13 on an AMD EPYC, 2026-11).
    function: Callable[[object], object] = getattr(torch._C, "_from_dlpack", torch.utils.dlpack.from_dlpack)
    return function


def checked_seed(seed: object, source: BatchSource, have_group: bool) -> int | None:
    """Return the seed; None: it must still be drawn."""
    if seed is not None:
        return checked_int("seed", seed, 0, 2**64 - 1)
    if source.in_order:
        return 0  # nothing is random
    if source.num_ranks > 1 and not have_group:
        msg = f"seed must be an int in [0, 2**64), the same on all {source.num_ranks} ranks (got None)"
        raise ValueError(msg)
    return None


def checked_mixing(mixing: Any, all_reduce: object, source: BatchSource) -> MixingPolicy:
    """Return the mixing policy. Raise if it is not a policy, or if an argument that it needs is missing."""
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
        msg = f"classes must be the class of each row, because {shortened(policy)} follows class losses (got None)"
        raise ValueError(msg)
    if source.num_ranks > 1 and all_reduce is None:
        msg = (
            f"all_reduce must be a callable that sums a float64 array over all {source.num_ranks} ranks, because "
            f"{shortened(policy)} follows losses (got None)"
        )
        raise ValueError(msg)
    return policy


def warn_about_classes(source: BatchSource, policy: MixingPolicy) -> None:
    """Warn if classes, or none, have an effect that the user may not expect."""
    if source.classless:
        if is_built_in(policy) and not isinstance(policy, Proportional):
            warn(
                f"mixing has no effect without classes: pass classes=, the class of each row (got {shortened(policy)})"
            )
        return
    if source.global_batch > source.index.num_rows:
        msg = (
            f"a batch of {source.global_batch} rows repeats rows, because there are only {source.index.num_rows}: use a "
            "smaller batch_size"
        )
        warn(msg)
    if not source.shuffle:
        msg = (
            "shuffle=False with classes= draws each class in order but mixes the classes by quotas, so an epoch does "
            "not deliver every row exactly once. For validation data, use classes=None"
        )
        warn(msg)
