"""What this installation was built with, and what it can use here."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from l2m_fast import _core

__all__ = ["_cuda", "build_info", "cuda_usable"]


def _kernels() -> Any:
    """Return the module of CUDA kernels, or None where the package was built without; one that fails to load raises."""
    if importlib.util.find_spec("l2m_fast._cuda") is None:
        return None
    return importlib.import_module("l2m_fast._cuda")


_cuda = _kernels()


@cache
def cuda_usable() -> bool:
    """Return whether there are kernels, a device, and a driver that is new enough for them."""
    return _cuda is not None and _cuda.device_count() > 0


def build_info() -> dict[str, Any]:
    """Return the version, the compiler, and what the machine offers.

    Returns:
        `version` and `compiler` (str), `cuda_built` (bool: the package has CUDA kernels), `without_cuda` (str: why it has
        none; empty where it has), `cuda_usable` (bool: it has, and there are a device and its driver), `usable_cpus` (CPUs this
        process may use: the default num_threads of a loader) and `pool_threads` (native threads that the loaders of this
        process share now).
    """
    return {
        "version": _core.__version__,
        "compiler": _core.compiler,
        "cuda_built": _cuda is not None,
        "without_cuda": _core.without_cuda,
        "cuda_usable": cuda_usable(),
        "usable_cpus": _core.usable_cpus(),
        "pool_threads": _core.pool_threads(),
    }
