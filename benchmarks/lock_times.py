"""Use of the loader's lock, measured by lock_times.c; Linux only.

This module is also the program of the measured process, because the library has to be loaded before the loader.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.environments import ROOT
from benchmarks.native import library
from benchmarks.workloads import SEED, Workload
from l2m_fast import Balanced, Loader, _core

NUM_CLASSES = 10
EPOCHS = 5


@dataclass(frozen=True)
class LockTimes:
    """Use of the lock per batch.

    Attributes:
        acquisitions: Number of times that a thread gets the lock.
        failures: Number of attempts that find it held by another thread.
        held_us: Time for which it is held, in microseconds.
    """

    acquisitions: float
    failures: float
    held_us: float


def lock_times(workload: Workload, num_threads: int) -> LockTimes:
    """Measure the lock in a process of its own, whose consumer only takes batches of NUM_CLASSES balanced classes."""
    environment = {**os.environ, "LD_PRELOAD": str(library("lock_times")), "L2M_LIBRARY": Path(_core.__file__).name}
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.lock_times"],
        cwd=ROOT,
        env=environment,
        input=pickle.dumps((workload, num_threads)),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return LockTimes(*map(float, output.split()))


def main() -> None:
    """Run the measured process; see the module."""
    workload, num_threads = pickle.load(sys.stdin.buffer)
    fields = workload.fields()
    classes = np.random.default_rng(SEED).integers(0, NUM_CLASSES, workload.num_rows, dtype=np.int16)
    times, preloaded = (ctypes.c_uint64 * 3)(), ctypes.CDLL(None)
    with Loader(
        (fields.x, fields.y),
        batch_size=workload.batch_size,
        classes=classes,
        mixing=Balanced(),
        seed=SEED,
        num_threads=num_threads,
        prefetch=4,
    ) as loader:
        for _batch in loader:  # starts the threads
            pass
        preloaded.lock_times_reset()
        for _ in range(EPOCHS):
            for _batch in loader:
                pass
        preloaded.lock_times_read(times)
        batches = EPOCHS * len(loader)
    acquired, failed, nanoseconds = times
    sys.stdout.write(f"{acquired / batches} {failed / batches} {nanoseconds / 1000 / batches}\n")


if __name__ == "__main__":
    main()
