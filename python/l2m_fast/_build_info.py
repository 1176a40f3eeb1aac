"""Build options of this installation, and the devices and CPUs that it can use."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from l2m_fast import _core

__all__ = ["_cuda", "build_info", "why_cuda_unusable"]


def _import_cuda() -> Any:
    """Return the module of CUDA kernels, or None if the package was built without it. Raise if it fails to load."""
    if importlib.util.find_spec("l2m_fast._cuda") is None:
        return None
    return importlib.import_module("l2m_fast._cuda")


_cuda = _import_cuda()


@cache
def why_cuda_unusable() -> str:
    """Return why the kernels run on no device; empty if they run on one. Initializes the CUDA driver."""
    return _core.without_cuda if _cuda is None else _cuda.why_no_device()


def build_info() -> dict[str, Any]:
    """Return information about this build and this machine.

    If the package has CUDA kernels, this initializes the CUDA driver, like `torch.cuda.is_available()`: a process forked
    afterwards cannot use CUDA.

    Returns:
        A dict with these keys:

        - `version` (str): version of the package.
        - `compiler` (str): compiler that built it.
        - `cuda_built` (bool): whether the package has CUDA kernels.
        - `without_cuda` (str): why it has no CUDA kernels; empty if it has.
        - `cuda_usable` (bool): whether it has CUDA kernels, and a device that can run them and its driver were found.
        - `usable_cpus` (int): number of CPUs available to this process, the default `num_threads` of a loader.
        - `pool_threads` (int): number of native threads that the loaders of this process currently share.
    """
    return {
        "version": _core.__version__,
        "compiler": _core.compiler,
        "cuda_built": _cuda is not None,
        "without_cuda": _core.without_cuda,
        "cuda_usable": why_cuda_unusable() == "",
        "usable_cpus": _core.usable_cpus(),
        "pool_threads": _core.pool_threads(),
    }
