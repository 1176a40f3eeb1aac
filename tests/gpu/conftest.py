"""What needs a GPU is skipped where there is none, but fails in `make gpu-check`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from l2m_fast import build_info

_WHY = None
if not torch.cuda.is_available():
    _WHY = "no CUDA device that torch can use"
elif not build_info()["cuda_usable"]:
    _WHY = "the package was built without CUDA"


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if _WHY is not None:
        (pytest.fail if "L2M_GPU_CHECK" in os.environ else pytest.skip)(_WHY)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """What waits for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")
