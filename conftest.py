"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

with suppress(ModuleNotFoundError):  # absent where only the tests of a GPU run
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a slow machine is no failure
    settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_not_ignored() -> None:
    """Restore Ctrl-C, which a shell disables for programs that it runs in the background, and for their children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread: small models wait for threads longer than they compute, above all under pytest-xdist."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
