"""Epochs of four loaders, by a thread for each of them against one thread that takes them in turn.

A program of its own, for environments without torch: those of free-threaded Pythons.

Usage: python -m benchmarks.consumers
"""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.race import Turns
from l2m_fast import Balanced, Loader

NUM_LOADERS, NUM_ROWS, ROUNDS = 4, 100_000, 15
CASES = [(64, 32), (64, 512), (3072, 512)]  # bytes of a row, rows of a batch


def consume(loader: Loader) -> None:
    """Take the batches of an epoch."""
    deque(loader, maxlen=0)


def main() -> None:
    """Print the speedup of the threads: median, and quartiles."""
    with_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if with_gil else 'without'} the GIL")  # noqa: T201
    classes = np.arange(NUM_ROWS) % 10
    for row_bytes, batch_size in CASES:
        data = np.zeros((NUM_ROWS, row_bytes), np.uint8)
        loaders = [
            Loader(
                data, batch_size=batch_size, classes=classes, mixing=Balanced(), num_threads=0, seed=0, format="numpy"
            )
            for _ in range(NUM_LOADERS)
        ]
        with ThreadPoolExecutor(NUM_LOADERS) as pool:

            def in_turn(repeats: int, loaders: list[Loader] = loaders) -> None:
                for _ in range(repeats):
                    for loader in loaders:
                        consume(loader)

            def at_once(repeats: int, loaders: list[Loader] = loaders, pool: ThreadPoolExecutor = pool) -> None:
                for _ in range(repeats):
                    list(pool.map(consume, loaders))

            turns = Turns({"in turn": in_turn, "at once": at_once})
            for _ in range(ROUNDS):
                turns.take_all(turns.repeats)
        speedup = turns.times.ratio("in turn", "at once")
        print(  # noqa: T201
            f"{row_bytes} B rows, batches of {batch_size}: {speedup.median:.2f}x ({speedup.low:.2f} .. {speedup.high:.2f})"
        )


if __name__ == "__main__":
    main()
