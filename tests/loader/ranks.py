"""Several ranks in one process, each in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def on_ranks(world_size: int, work: Callable[[int, Callable[[Any], Any]], T]) -> list[T]:
    """Return the results of `work(rank, all_reduce)` on all ranks. If a rank raises, the others do not wait for it."""
    barrier = threading.Barrier(world_size, timeout=60)
    given: list[Any] = [None] * world_size

    def run(rank: int) -> T:
        def all_reduce(sums: Any) -> Any:
            given[rank] = sums
            barrier.wait()
            total = sum(given)
            barrier.wait()
            return total

        try:
            return work(rank, all_reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))
