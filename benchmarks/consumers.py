"""Epochs of four sources of batches, by a thread for each of them against one thread that takes them in turn.

A program of its own, for environments without torch: those of free-threaded Pythons.

Usage: python -m benchmarks.consumers
"""

from __future__ import annotations

import os
import platform
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.race import OURS, Spread, Turns
from l2m_fast import Balanced, Loader

NUM_SOURCES, NUM_ROWS, ROUNDS = 4, 100_000, 15
CASES = [(64, 32), (64, 512), (3072, 512)]  # bytes of a row, rows of a batch


class Taken:
    """Batches by `np.take`, as the scale for what the interpreter and NumPy allow."""

    def __init__(self, data: np.ndarray, batch_size: int) -> None:
        self._data, self._batch_size = data, batch_size

    def __iter__(self) -> Iterator[np.ndarray]:
        rows = np.random.default_rng(0).permutation(NUM_ROWS)
        for start in range(0, NUM_ROWS - self._batch_size + 1, self._batch_size):
            yield self._data.take(rows[start : start + self._batch_size], 0)


def consume(batches: Iterable[object]) -> None:
    """Take the batches of an epoch."""
    deque(batches, maxlen=0)


def speedup(sources: list[Iterable[object]]) -> Spread:
    """Return the speedup of a thread for each source over one thread for all."""
    with ThreadPoolExecutor(len(sources)) as pool:

        def in_turn(repeats: int) -> None:
            for _ in range(repeats):
                for source in sources:
                    consume(source)

        def at_once(repeats: int) -> None:
            for _ in range(repeats):
                list(pool.map(consume, sources))

        turns = Turns({"in turn": in_turn, "at once": at_once})
        for _ in range(ROUNDS):
            turns.take_all(turns.repeats)
    return turns.times.ratio("in turn", "at once")


def main() -> None:
    """Print the speedups: median, and quartiles."""
    with_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {platform.python_version()}, {'with' if with_gil else 'without'} the GIL, {os.cpu_count()} CPUs")  # noqa: T201
    classes = np.arange(NUM_ROWS) % 10
    for row_bytes, batch_size in CASES:
        data = np.zeros((NUM_ROWS, row_bytes), np.uint8)
        options = {"batch_size": batch_size, "num_threads": 0, "seed": 0, "format": "numpy"}
        rivals: dict[str, list[Iterable[object]]] = {
            OURS: [Loader(data, classes=classes, mixing=Balanced(), **options) for _ in range(NUM_SOURCES)],  # type: ignore[arg-type]
            "np.take": [Taken(data, batch_size) for _ in range(NUM_SOURCES)],
        }
        for name, sources in rivals.items():
            found = speedup(sources)
            print(  # noqa: T201
                f"{row_bytes} B rows, batches of {batch_size}, {name}: "
                f"{found.median:.2f}x ({found.low:.2f} .. {found.high:.2f})"
            )


if __name__ == "__main__":
    main()
