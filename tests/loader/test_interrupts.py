"""Ctrl-C and other signals neither lose nor repeat a batch."""

from __future__ import annotations

import gc
import itertools
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from l2m_fast import Learn2Mix, Loader
from loader.lifecycle import make, rows_of, run


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Call a function in a signal handler, again and again; its errors are raised in the interrupted code."""

    def start(function: Any, seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    before = signal.getsignal(signal.SIGALRM)
    gc.disable()  # errors raised in a callback of the garbage collector are lost
    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()
    signal.signal(signal.SIGALRM, before)


BIG = np.repeat(np.arange(64, dtype=np.int64)[:, None], 1 << 14, axis=1)  # 128 KiB per row


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.parametrize(
    "structure", [lambda x: x, lambda x: (x, x[:, 0]), lambda x: {"x": [x]}], ids=["array", "tuple", "dict"]
)
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (0, 4), (1, 1), (2, 0), (2, 4)])
def test_an_interrupt_in_next_neither_loses_nor_repeats_a_batch(
    num_threads: int, prefetch: int, structure: Any, alarm: Any
) -> None:
    def loader_of(**options: Any) -> Loader:
        data = structure(BIG)
        return Loader(
            data, batch_size=32, classes=np.arange(64) % 3, mixing=Learn2Mix(), update_every=2, steps_per_epoch=60,
            format="numpy", seed=0, **options,
        )  # fmt: skip

    def leaves(batches: list[Any]) -> list[Any]:
        arrays = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
        return rows_of(array["x"][0] if isinstance(array, dict) else array for array in arrays)

    armed: list[None] = []

    def interrupt() -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    expected = leaves(list(loader_of(num_threads=0)))
    loader = loader_of(num_threads=num_threads, prefetch=prefetch)
    batches = iter(loader)
    got: list[Any] = []
    ended = interrupted = 0
    alarm(interrupt, 0.001)
    while not ended:
        try:
            armed.append(None)
            got.extend(batches)  # no Python code runs between next() and the list
            armed.clear()
            ended = 1
        except KeyboardInterrupt:
            interrupted += 1
        assert loader.state_dict()["total_step"] == len(got)
    assert interrupted > 0
    assert leaves(got) == expected


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # some are raised in the callback of a weakref
def test_an_interrupt_in_load_state_dict_leaves_the_old_or_the_new_state(alarm: Any) -> None:
    loader = make(mixing=Learn2Mix(), num_threads=0)
    states = []
    for steps in (3, 11):
        list(itertools.islice(loader, steps))
        states.append(loader.state_dict())
    armed: list[None] = []

    def interrupt() -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    interrupted = 0
    alarm(interrupt, 0.0005)
    for i in range(2000):
        try:
            armed.append(None)
            loader.load_state_dict(states[i % 2])
            armed.clear()
        except KeyboardInterrupt:
            interrupted += 1
        assert loader.state_dict() in states
    assert interrupted > 0


def test_ctrl_c_in_next_is_a_keyboard_interrupt_and_the_loader_stays_usable() -> None:
    out = run(
        """
        data = np.zeros((64, 1 << 16), np.uint8)
        for num_threads in (0, 1, 2):
            loader = Loader(data, batch_size=2048, steps_per_epoch=4, format="numpy", num_threads=num_threads, prefetch=1)
            got, interrupted = [], 0
            batches = iter(loader)
            try:
                threading.Timer(0.01, signal.raise_signal, (signal.SIGINT,)).start()
                got.extend(batches)
                time.sleep(60)  # until the signal arrives
            except KeyboardInterrupt:
                interrupted = 1
            got.extend(batches)
            print(interrupted, len(got), loader.state_dict()["total_step"], len(list(loader)))
        """
    )
    assert out == "1 4 4 4\n" * 3


def test_a_process_interrupted_in_next_exits() -> None:
    program = """
        import sys, numpy as np, l2m_fast
        loader = l2m_fast.Loader(np.zeros((64, 1 << 16)), batch_size=512, steps_per_epoch=10**9, format="numpy", num_threads=2)
        print("begun", flush=True)
        for batch in loader:
            pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # otherwise leaving the block would wait for a running process
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


def test_close_in_a_signal_handler_ends_the_epoch(alarm: Any) -> None:
    for num_threads in (0, 1, 2):
        loader = Loader(BIG, batch_size=64, steps_per_epoch=10**6, format="numpy", num_threads=num_threads, seed=0)
        alarm(loader.close, 0.005)
        with pytest.raises(RuntimeError, match="closed"):
            for _ in loader:
                pass
