"""Timing on a device: contestants take turns in rounds, and CUDA events measure the queued work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.race import Spread, Times

_ROUNDS = 15
_TURN = 0.02  # seconds of work per turn
_MAX_REPEATS = 1000

Work = Callable[[], object]


def device_times(contestants: Mapping[str, Work], *, capturable: bool = True) -> Times:
    """Return the device seconds of a call. All contestants are timed in the same way.

    Args:
        contestants: Work by name.
        capturable: Replay the launches from a CUDA graph, which leaves out their cost to the host. False if one of the contestants
            may block on the device: queue every call. A failed capture may leave torch's allocator unusable.
    """
    turns = {name: _repeated(work, capturable) for name, work in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(_ROUNDS):
        for name, (turn, repeats) in turns.items():
            seconds[name].append(_events_around(turn) / repeats)
    return Times(seconds)


def host_times(contestants: Mapping[str, Work], calls: int = 200) -> Times:
    """Return the host seconds of a call, while the device lags behind."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(_ROUNDS):
        for name, work in contestants.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            seconds[name].append((time.perf_counter() - start) / calls)
    return Times(seconds)


def wall_times(contestants: Mapping[str, Work], rounds: int = 7) -> Times:
    """Return the seconds from a call to the end of all work that it queued on the device."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for work in contestants.values():
        work()
    for _ in range(rounds):
        for name, work in contestants.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return Times(seconds)


def microseconds(times: Times, name: str) -> Spread:
    """Return the microseconds of a contestant."""
    return Spread.of([1e6 * seconds for seconds in times.seconds[name]])


def copy_bandwidth() -> float:
    """Return the bytes per second, read and written, of a 1 GiB copy within the device."""
    source = torch.randint(256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = device_times({"copy": lambda: target.copy_(source)})
    return times.rate("copy", 2 * source.nbytes).median


def _events_around(turn: Work) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    turn()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000


def _repeated(work: Work, capturable: bool) -> tuple[Work, int]:
    """Return a callable that repeats the work for a turn, and the number of repeats."""
    torch.cuda.synchronize()  # the inputs may still be in flight on the current stream
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    repeats = max(1, min(_MAX_REPEATS, round(_TURN / max(_events_around(work), 1e-7))))

    def queued() -> None:
        for _ in range(repeats):
            work()

    if not capturable:
        return queued, repeats
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        queued()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, repeats
