"""Print what a loader over many rows takes, as JSON: its first batch, the next batches, and memory; Linux only.

It is a separate program because a process that has done other work has free memory, which hides new allocations.
Usage: python -m benchmarks.scale NUM_ROWS NUM_CLASSES WORLD_SIZE (1 class: classes=None)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.memory_status import memory_status, reset_peak
from l2m_fast import Balanced, Loader

MAX_BATCHES = 2000
MAX_SECONDS = 5  # for these batches


def main() -> None:
    """Measure the middle rank of a run. The data are one byte for all rows, so that planning is all there is."""
    num_rows, num_classes, world_size = map(int, sys.argv[1:])
    np_class = np.min_scalar_type(num_classes - 1)
    classes = np.empty(num_rows, np_class) if num_classes > 1 else None
    if classes is not None:  # in parts, so that no other large array has existed
        random = np.random.default_rng(0)
        for begin in range(0, num_rows, 1 << 20):
            part = classes[begin : begin + (1 << 20)]
            part[:] = random.integers(num_classes, size=len(part), dtype=np_class)
    batch_size = min(512, num_rows // world_size)
    before = memory_status("VmRSS")
    reset_peak()
    start = time.perf_counter()
    loader = Loader(
        np.broadcast_to(np.zeros(1, np.uint8), num_rows),
        batch_size=batch_size,
        classes=classes,
        mixing=None if classes is None else Balanced(),
        include=("rows",),
        seed=0,
        rank=world_size // 2,
        world_size=world_size,
        format="numpy",
    )
    batches = loader.forever()
    next(batches)
    first = time.perf_counter() - start
    start = time.perf_counter()
    steps = 0
    while steps < MAX_BATCHES and time.perf_counter() - start < MAX_SECONDS:
        next(batches)
        steps += 1
    each = (time.perf_counter() - start) / steps
    sys.stdout.write(json.dumps({"first batch": first, "batch": each, "peak": _final_peak(batches) - before}))


def _final_peak(batches: Iterator[object]) -> int:
    """Return the peak of the resident memory once the threads have computed the next passes, after which it stays."""
    peak = quiet = 0
    while quiet < 20:
        next(batches)
        time.sleep(0.1)
        last, peak = peak, memory_status("VmHWM")
        quiet = quiet + 1 if peak == last else 0
    return peak


if __name__ == "__main__":
    main()
