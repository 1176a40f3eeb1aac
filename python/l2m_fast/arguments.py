"""Checks and conversions of the arguments of a loader."""

from __future__ import annotations

import operator
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer in [least, most]; True and 1.0 are none."""
    allowed = f"an int >= {least}" if most is None else f"an int in [{least}, {most}]"
    if isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be {allowed} (got {value!r})"
        raise TypeError(msg)
    try:
        number = operator.index(value)
    except TypeError:
        msg = f"{name} must be {allowed} (got {value!r})"
        raise TypeError(msg) from None
    if number < least or (most is not None and number > most):
        msg = f"{name} must be {allowed} (got {number})"
        raise ValueError(msg)
    return number


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises unless `value` is one of the allowed words."""
    if value not in allowed:
        msg = f"{name} must be {' or '.join(repr(word) for word in allowed)} (got {value!r})"
        raise ValueError(msg)


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that only counts as such."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False (got {value!r})"
        raise TypeError(msg)
    return bool(value)


def row_ids(rows: Any, num_rows: int) -> NDArray[np.int64] | None:
    """Row ids as int64, also from a mask; the core checks their range and that none repeats."""
    if rows is None:
        return None
    if isinstance(rows, np.ma.MaskedArray):
        msg = "rows must be a plain array (got a masked array): fill it first"
        raise TypeError(msg)
    array = np.asarray(rows)
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
        msg = f"device must be {allowed} (got {device!r})"
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
        msg = f"device must be {allowed} (got {device!r})"
        raise ValueError(msg)
    if batch_format == "numpy":
        msg = f"batches on a device need format='torch' (got device={device!r} and format='numpy')"
        raise ValueError(msg)
    if wanted.index is None:
        wanted = torch.device("cuda", torch.cuda.current_device())
    if of_data - {wanted}:
        msg = f"device must be that of the data, {next(iter(of_data))} (got {device!r})"
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
        warnings.warn(
            "pin_memory=True without a CUDA device: batches are in pageable memory", RuntimeWarning, stacklevel=3
        )
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


def warn_of_ranks() -> None:
    """Warns, once a process, where torch.distributed runs and nobody said which rank this is."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    global _warned_of_ranks
    if not _warned_of_ranks:
        _warned_of_ranks = True
        msg = (
            "torch.distributed is initialised, but this loader was not told its rank: every process gets all batches. Pass "
            "rank= and world_size= (rank=0, world_size=1 if that is what you want)"
        )
        warnings.warn(msg, RuntimeWarning, stacklevel=3)


_warned_of_ranks = False
