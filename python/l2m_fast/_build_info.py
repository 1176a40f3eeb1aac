"""What this installation is made of."""

from __future__ import annotations

from functools import cache
from typing import Any

from l2m_fast import _core

try:
    from l2m_fast import _cuda  # made where there was a CUDA compiler
except ModuleNotFoundError:
    _cuda = None  # type: ignore[assignment]

__all__ = ["_cuda", "build_info", "cuda_usable"]


@cache
def cuda_usable() -> bool:
    """Whether there are kernels, a device and a driver that is new enough for them."""
    return _cuda is not None and _cuda.device_count() > 0


def build_info() -> dict[str, Any]:
    """Version, compiler, and what the machine offers.

    Returns:
        `version` and `compiler` (str), `cuda_built` (bool: there was a CUDA compiler), `cuda_usable` (bool: and there is a
        device and its driver), `usable_cpus` (CPUs this process may run on: the default num_threads of a loader) and
        `pool_threads` (native threads that the loaders of this process share now).
    """
    return {
        "version": _core.__version__,
        "compiler": _core.compiler,
        "cuda_built": _cuda is not None,
        "cuda_usable": cuda_usable(),
        "usable_cpus": _core.usable_cpus(),
        "pool_threads": _core.pool_threads(),
    }
