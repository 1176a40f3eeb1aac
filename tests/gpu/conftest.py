"""Skip tests that need a GPU where there is none, but fail in `make gpu-run`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import pytest
import torch

from l2m_fast import build_info

_WHY = None
if not torch.cuda.is_available():
    _WHY = "no CUDA device that torch can use"
elif not build_info()["cuda_usable"]:
    _WHY = "the package was built without CUDA"


def pytest_sessionstart() -> None:
    """Stop at once in `make gpu-run`."""
    if _WHY is not None and "L2M_GPU_CHECK" in os.environ:
        pytest.exit(_WHY, returncode=1)


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if _WHY is not None:
        pytest.skip(_WHY)


@pytest.fixture
def second_device() -> str:
    """Name of a device that is not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    return "cuda:1"


@pytest.fixture
def asynchronous() -> Callable[[], AbstractContextManager[None]]:
    """Context in which an operation raises if it blocks the host until the device has caught up."""
    return _asynchronous


@contextmanager
def _asynchronous() -> Iterator[None]:
    def wait(_: torch.cuda.Event) -> None:
        msg = "called a synchronizing CUDA operation: Event.synchronize()"
        raise RuntimeError(msg)

    torch.cuda.synchronize()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.Event, "synchronize", wait)  # not detected by the mode of torch
        try:
            _set_sync_debug_mode("error")
            yield
        finally:
            _set_sync_debug_mode("default")


def _set_sync_debug_mode(mode: Literal["default", "error"]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first call warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode(mode)
