"""What this installation is made of."""

from __future__ import annotations

from typing import Any

from l2m_fast import _core


def build_info() -> dict[str, Any]:
    """Version, compiler, and what the machine offers.

    Returns:
        `version` and `compiler` (str), `cuda_built` and `cuda_usable` (bool; the package has no CUDA module yet),
        `usable_cpus` (CPUs this process may run on: the default num_threads of a loader) and `pool_threads` (native
        threads that the loaders of this process share now).
    """
    return {
        "version": _core.__version__,
        "compiler": _core.compiler,
        "cuda_built": False,
        "cuda_usable": False,
        "usable_cpus": _core.usable_cpus(),
        "pool_threads": _core.pool_threads(),
    }
