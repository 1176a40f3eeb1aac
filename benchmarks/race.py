"""Times rivals in turns, round after round in one process, so that a slow minute of the machine meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

OURS = "l2m_fast"

_TURN = 0.1  # seconds of work a turn at least: changes of cache contents and thread wake-ups stay small beside it
_SETTLE = 0.02  # seconds between turns: OpenMP's threads spin for a while after their last work


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarises one value a round."""
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, low, high)

    def scaled(self, factor: float) -> Spread:
        """Returns the spread of `factor` times the values."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)


@dataclass(frozen=True)
class Times:
    """What a race measured.

    Attributes:
        seconds: Of every contestant, the seconds a repeat took in each round.
    """

    seconds: Mapping[str, list[float]]

    def rate(self, name: str, items: int) -> Spread:
        """Returns items per second of a contestant whose repeat handles `items`."""
        return Spread.of([items / seconds for seconds in self.seconds[name]])

    def ratio(self, slow: str, fast: str) -> Spread:
        """Returns how many times faster `fast` was, compared round by round."""
        return Spread.of([a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)])

    def best(self, *names: str) -> str:
        """Returns the fastest of the named contestants, by its median."""
        return min(names, key=lambda name: statistics.median(self.seconds[name]))


class Turns:
    """Contestants that take turns of about equal length.

    Args:
        contestants: Each does its work as many times as it is told.
    """

    def __init__(self, contestants: Mapping[str, Callable[[int], None]]) -> None:
        self._contestants = contestants
        self.repeats = {name: _repeats(run) for name, run in contestants.items()}
        self._seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def take(self, name: str) -> None:
        """Times a turn of a contestant."""
        start = time.perf_counter()
        self._contestants[name](self.repeats[name])
        self._seconds[name].append((time.perf_counter() - start) / self.repeats[name])

    def take_all(self, names: Iterable[str]) -> None:
        """Times a turn of each, before and after which the machine comes to rest."""
        for name in names:
            time.sleep(_SETTLE)
            self.take(name)
        time.sleep(_SETTLE)

    @property
    def times(self) -> Times:
        """What was measured so far."""
        return Times(self._seconds)


def race(
    benchmark: BenchmarkFixture, ours: Callable[[int], None], rivals: Mapping[str, Callable[[int], None]], rounds: int
) -> Times:
    """Times `ours` and its rivals in interleaved rounds; pytest-benchmark's own statistics are those of `ours`.

    Args:
        benchmark: The fixture; a round of it is one turn of `ours`, its setup is one turn of every rival.
        ours: Does its work as many times as it is told.
        rivals: Likewise, by name.
        rounds: Turns of each.
    """
    turns = Turns({**rivals, OURS: ours})
    benchmark.pedantic(turns.take, args=(OURS,), setup=lambda: turns.take_all(rivals), rounds=rounds)
    benchmark.extra_info["repeats"] = turns.repeats[OURS]
    times = turns.times
    benchmark.extra_info["seconds_a_repeat"] = {name: statistics.median(all_) for name, all_ in times.seconds.items()}
    return times


def time_calls(
    benchmark: BenchmarkFixture, call: Callable[[], object], rounds: int, setup: Callable[[], None] | None = None
) -> list[float]:
    """Times `rounds` single calls, each after an untimed `setup`; returns their seconds."""
    seconds = []

    def timed() -> None:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(timed, setup=setup, rounds=rounds)
    return seconds


def _repeats(run: Callable[[int], None]) -> int:
    """Warms up, and returns how many repeats fill a turn."""
    run(1)
    start = time.perf_counter()
    run(1)
    return max(1, round(_TURN / (time.perf_counter() - start)))
