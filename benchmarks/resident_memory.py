"""Print the bytes that a loader adds to this process while it runs, as JSON; Linux only.

It is a separate program because a process that has done other work has free memory, which hides new allocations.
Usage: python -m benchmarks.resident_memory NUM_ROWS NUM_CLASSES (0: classes=None)
"""

from __future__ import annotations

import json
import sys
from itertools import islice

import numpy as np

from benchmarks.memory_status import memory_status, reset_peak
from l2m_fast import Loader


def main() -> None:
    """Measure an epoch and the first batches of the next: resident memory in the middle, and the peak."""
    num_rows, num_classes = map(int, sys.argv[1:])
    x = np.ones(num_rows, np.uint8)
    classes = np.arange(num_rows, dtype=np.uint32) % num_classes if num_classes else None

    def loader(rows: slice) -> Loader:
        return Loader(
            x[rows],
            batch_size=4096,
            classes=None if classes is None else classes[rows],
            num_threads=2,
            seed=0,
            format="numpy",
        )

    with loader(slice(100_000)) as small:  # starts threads and loads code, which do not count
        for _ in small:
            pass
    before = memory_status("VmRSS")
    reset_peak()
    with loader(slice(None)) as large:
        batches = iter(large)
        for _ in islice(batches, len(large) // 2):
            pass
        resident = memory_status("VmRSS")
        for _ in batches:
            pass
        for _ in islice(large, 10):
            pass
        peak = memory_status("VmHWM")
    sys.stdout.write(json.dumps({"resident": resident - before, "peak": peak - before}))


if __name__ == "__main__":
    main()
