"""Fixtures for all tests, and which of them run without torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

with suppress(ModuleNotFoundError):  # absent where only the tests of a GPU run
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a slow machine is no failure
    settings.load_profile("untimed")

# Without torch, the tests of NumPy batches run: those of files that do not import it.
collect_ignore = [
    str(path)
    for path in (Path(__file__).parent / "tests").rglob("test_*.py")
    if find_spec("torch") is None and "\nimport torch\n" in path.read_text()
]


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
