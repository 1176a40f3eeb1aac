"""Machines without threads, with little memory, or with only a part of their CPUs available."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from faults.programs import run
from l2m_fast import Loader, build_info

NO_THREADS = """
import ctypes
attributes = ctypes.create_string_buffer(256)
libc = ctypes.CDLL(None)
assert libc.pthread_attr_init(attributes) == 0
assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(1 << 47)) == 0  # larger than the address space
assert libc.pthread_setattr_default_np(attributes) == 0
"""


def test_if_no_thread_can_be_started_the_error_has_a_hint() -> None:
    program = (
        NO_THREADS
        + """
loader = None
try:
    Loader(np.arange(100), batch_size=8, num_threads=2, format="numpy")
except RuntimeError as error:
    print(error)
loader = Loader(np.arange(100), batch_size=8, num_threads=0, format="numpy")
print(len(list(loader)))
"""
    )
    message, length = run(program).splitlines()
    reason = "(thread constructor failed: )?Resource temporarily unavailable"  # libc++ says more than libstdc++
    assert re.fullmatch(rf"cannot start a thread \(wanted 2: {reason}\); num_threads=0 works without threads", message)
    assert length == "13"


def test_if_no_thread_can_be_started_losses_are_still_summed() -> None:
    program = (
        NO_THREADS
        + """
from l2m_fast import class_loss
losses, classes = np.ones(3_000_000, np.float32), np.arange(3_000_000) % 3
print(class_loss(losses, classes, 3).count.tolist())
loader = Loader(np.arange(300_000), batch_size=8, classes=classes[:300_000], num_threads=0, format="numpy")
loader.record(losses, classes)
print(loader.state_dict()["window_sums"][0], loader.state_dict()["window_counts"][0])
"""
    )
    assert (
        run(program)
        == "[1000000, 1000000, 1000000]\n[[1000000.0], [1000000.0], [1000000.0]] [1000000, 1000000, 1000000]\n"
    )


def test_usable_cpus_follow_the_affinity_of_this_process() -> None:
    program = """
        import os
        from l2m_fast import build_info
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(build_info()["usable_cpus"])
        """
    assert run(program) == "1\n"
    assert build_info()["usable_cpus"] >= 1


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_batch_that_does_not_fit_in_memory_is_an_error_that_names_rows_and_bytes(
    num_threads: int, tmp_path: Path
) -> None:
    with (tmp_path / "row").open("wb") as file:
        file.truncate(1 << 30)
    row = np.memmap(tmp_path / "row", np.uint8, "r", shape=(1, 1 << 30))
    loader = Loader(
        (row, np.zeros(1)), batch_size=1 << 20, steps_per_epoch=2, format="numpy", num_threads=num_threads, seed=0
    )
    batches = iter(loader)
    for _ in range(2):
        with pytest.raises(
            MemoryError, match=rf"out of memory for a batch of 1048576 rows \({(2**30 + 8) << 20} bytes\)"
        ):
            next(batches)
    assert loader.step == 0


def test_row_ids_that_do_not_fit_in_memory_are_an_error_that_names_rows_and_bytes() -> None:
    program = """
        import contextlib, resource
        data = np.broadcast_to(np.int8(0), (1 << 35,))
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        with contextlib.suppress(MemoryError):
            np.empty(9 << 30, np.uint8)
            print("unlimited")
        try:
            Loader(data, batch_size=8, num_threads=0, format="numpy", seed=0)
        except MemoryError as error:
            print(error)
        """
    printed = run(program)
    if printed.startswith("unlimited"):
        pytest.skip("an emulator ignores limits of memory")
    # A slice, a sixteenth of the rows, and what it may have more.
    assert re.fullmatch(r"out of memory for the ids of 2\d{9} rows \(1\d{10} bytes\)\n", printed)
