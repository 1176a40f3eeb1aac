"""Races: contestants that take turns in one process, so that a slow minute of the machine affects all of them."""

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
Run = Callable[[int], None]  # does its work a number of times

_TURN = 0.1  # seconds per turn at least, so that cache refills and thread wake-ups hardly count
_PAUSE = 0.02  # seconds between turns, in which the threads of OpenMP stop spinning


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of one value per round."""
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, low, high)

    def scaled(self, factor: float) -> Spread:
        """Return the spread of `factor` times the values."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)


@dataclass(frozen=True)
class Times:
    """Measurements of a race.

    Attributes:
        seconds: Seconds per repeat in each round, by contestant.
    """

    seconds: Mapping[str, list[float]]

    def rate(self, name: str, items: int) -> Spread:
        """Return items per second of a contestant whose repeat handles `items`."""
        return Spread.of([items / seconds for seconds in self.seconds[name]])

    def ratio(self, slow: str, fast: str) -> Spread:
        """Return the speedup of `fast` over `slow`, computed round by round."""
        return Spread.of([a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)])

    def best(self, *names: str) -> str:
        """Return the contestant with the lowest median."""
        return min(names, key=lambda name: statistics.median(self.seconds[name]))


class Turns:
    """Contestants that take turns of about equal length.

    Args:
        contestants: Runs by name.
    """

    def __init__(self, contestants: Mapping[str, Run]) -> None:
        self._contestants = contestants
        self.repeats = {name: _repeats(run) for name, run in contestants.items()}
        self._seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def take(self, name: str) -> None:
        """Time a turn of a contestant."""
        start = time.perf_counter()
        self._contestants[name](self.repeats[name])
        self._seconds[name].append((time.perf_counter() - start) / self.repeats[name])

    def take_all(self, names: Iterable[str]) -> None:
        """Time a turn of each, with pauses around it."""
        for name in names:
            time.sleep(_PAUSE)
            self.take(name)
        time.sleep(_PAUSE)

    @property
    def times(self) -> Times:
        """Times of all turns so far."""
        return Times(self._seconds)


def race(benchmark: BenchmarkFixture, contestants: Mapping[str, Run], rounds: int) -> Times:
    """Time `OURS` and its rivals in interleaved rounds. The statistics of pytest-benchmark are those of `OURS`.

    Args:
        benchmark: Fixture. A round is one turn of `OURS`, its setup one turn of every rival.
        contestants: Runs by name, with `OURS` among them.
        rounds: Turns of each.
    """
    turns = Turns(contestants)
    rivals = [name for name in contestants if name != OURS]
    benchmark.pedantic(turns.take, args=(OURS,), setup=lambda: turns.take_all(rivals), rounds=rounds)
    benchmark.extra_info["repeats"] = turns.repeats[OURS]
    times = turns.times
    benchmark.extra_info["seconds_per_repeat"] = {name: statistics.median(all_) for name, all_ in times.seconds.items()}
    return times


def time_calls(
    benchmark: BenchmarkFixture, call: Callable[[], object], rounds: int, setup: Callable[[], None] | None = None
) -> list[float]:
    """Time `rounds` single calls, each after an untimed `setup`, and return their seconds."""
    seconds = []

    def timed() -> None:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(timed, setup=setup, rounds=rounds)
    return seconds


def _repeats(run: Run) -> int:
    """Warm up, and return the number of repeats that fill a turn."""
    run(1)
    start = time.perf_counter()
    run(1)
    return max(1, round(_TURN / (time.perf_counter() - start)))
