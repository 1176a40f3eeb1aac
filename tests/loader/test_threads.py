"""Loaders in several threads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

from l2m_fast import Learn2Mix, Loader
from loader.lifecycle import CLASSES, DATA, N, make, rows_of


def _error_of(function: Any) -> RuntimeError | None:
    with pytest.raises(RuntimeError) as raised:
        function()
    return raised.value


@pytest.mark.parametrize("num_threads", [0, 2])
def test_close_from_another_thread_ends_the_consumer_with_an_error(num_threads: int) -> None:
    for _ in range(20):
        loader = make(num_threads=num_threads, steps_per_epoch=10**6)
        errors: list[Any] = []
        began = threading.Event()

        def consume(loader: Loader = loader, began: threading.Event = began) -> None:
            for _ in loader:
                began.set()

        thread = threading.Thread(target=lambda consume=consume, errors=errors: errors.append(_error_of(consume)))
        thread.start()
        began.wait()
        loader.close()
        thread.join(60)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [RuntimeError]


def test_close_during_a_call_of_another_thread_takes_effect_when_that_call_ends() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Pair(NamedTuple):
        first: Any

    class Slow(Pair):
        def __new__(cls, *arrays: Any) -> Slow:  # noqa: PYI034
            if entering:
                entered.set()
                leave.wait(60)
            return super().__new__(cls, *arrays)

    entering = False
    loader = Loader(Slow(DATA), batch_size=20, classes=CLASSES, format="numpy", num_threads=2, seed=0)
    batches = iter(loader)
    entering = True
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(next(batches)))
    thread.start()
    entered.wait(60)
    loader.close()
    leave.set()
    thread.join()
    assert rows_of(batch.first for batch in got) == rows_of(make())[:1]
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)


def _in_thread(function: Any) -> Any:
    """Call `function` in a new thread, wait for the thread to end, and return the result or the error."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        return future.exception() or future.result()


def test_two_threads_at_a_time_raise() -> None:
    entered, leave = threading.Event(), threading.Event()
    slow = threading.local()

    class Pair(NamedTuple):
        first: Any

    class Slow(Pair):
        def __new__(cls, *arrays: Any) -> Slow:  # noqa: PYI034
            if getattr(slow, "wanted", False):
                entered.set()
                leave.wait(60)
            return super().__new__(cls, *arrays)

    loader = Loader(Slow(DATA), batch_size=20, classes=CLASSES, format="numpy", num_threads=2, seed=0)
    batches = iter(loader)
    got = [next(batches)]

    def consume() -> None:
        slow.wanted = True
        got.append(next(batches))

    thread = threading.Thread(target=consume)
    thread.start()
    entered.wait(60)
    uses: list[Any] = [
        lambda: next(batches),
        lambda: iter(loader),
        lambda: loader.record(np.ones(20)),
        lambda: loader.set_epoch(3),
        lambda: loader.load_state_dict({}),
        loader.state_dict,
        loader.update,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="one consumer at a time: another thread is using it"):
            use()
    assert (loader.epoch, loader.step, len(loader), len(loader.history)) == (0, 1, N // 20, 0), (
        "looking on is no use of it"
    )
    leave.set()
    thread.join()
    got += batches
    assert rows_of(pair.first for pair in got) == rows_of(make())


@pytest.mark.parametrize("num_threads", [0, 2])
def test_the_thread_that_consumes_may_change_from_batch_to_batch(num_threads: int) -> None:
    loader = make(num_threads=num_threads)
    batches = iter(loader)
    with ThreadPoolExecutor(4) as pool:
        got = [pool.submit(next, batches).result() for _ in range(len(loader))]
        assert pool.submit(next, batches, None).result() is None
    assert rows_of(got) == rows_of(make())

    async def consume() -> list[Any]:
        batches = iter(loader)
        return [await asyncio.to_thread(next, batches) for _ in range(len(loader))]

    expected = make()
    list(expected)
    assert rows_of(asyncio.run(consume())) == rows_of(expected)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_threads_that_take_batches_at_once_get_each_batch_once(num_threads: int) -> None:
    steps = 100 if getattr(sys, "_is_gil_enabled", lambda: True)() else 3000  # threads take turns every 5 ms
    loader = make(num_threads=num_threads, steps_per_epoch=steps)
    batches = iter(loader)
    next(batches)
    got: list[Any] = []
    refused: set[str] = set()
    done = threading.Event()

    def take() -> None:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                refused.add(str(error))
            else:
                got.append(batch)

    def look() -> None:
        while not done.is_set():
            assert 0 < loader.total_step <= steps
            assert loader.batch_proportions.sum() == pytest.approx(1)
            assert loader.proportions.sum() == pytest.approx(1)
            assert len(loader.batch_rows) == len(loader.batch_classes) == 20
            with contextlib.suppress(RuntimeError):
                loader.record(np.ones(20))

    with ThreadPoolExecutor(5) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        for taking in [pool.submit(take) for _ in range(3)]:
            taking.result()
        done.set()
        for future in looking:
            future.result()
    expected = make(steps_per_epoch=steps)
    assert sorted(rows_of(got)) == sorted(rows_of(expected)[1:])
    assert refused <= {"a loader has one consumer at a time: another thread is using it"}


def test_an_iterator_that_several_threads_use_keeps_its_loader() -> None:
    def reduce(sums: Any) -> Any:
        time.sleep(0.0003)
        return 2 * sums

    refused: set[str] = set()
    for _ in range(30):
        options: dict[str, Any] = {"rank": 0, "world_size": 2, "all_reduce": reduce, "mixing": Learn2Mix()}
        batches = _in_thread(lambda options=options: iter(make(num_threads=0, **options)))

        def take(batches: Any = batches) -> None:
            while True:
                try:
                    next(batches)
                except StopIteration:
                    return
                except RuntimeError as error:
                    refused.add(str(error))

        with warnings.catch_warnings(), ThreadPoolExecutor(3) as pool:
            warnings.filterwarnings("ignore", ".*follows losses, and none was recorded")
            for future in [pool.submit(take) for _ in range(3)]:
                future.result()
    assert refused <= {"a loader has one consumer at a time: another thread is using it"}


def test_another_thread_may_continue_after_the_consumer_has_ended() -> None:
    loader = make()
    batches = iter(loader)
    got = []
    for _ in range(3):
        got += _in_thread(lambda: rows_of(itertools.islice(batches, 4)))
    got += rows_of(batches)
    assert got == rows_of(make())


def test_another_thread_may_begin_the_next_epoch() -> None:
    loader = make()
    first = rows_of(loader)
    second = _in_thread(lambda: rows_of(loader))
    expected = make()
    assert [first, second] == [rows_of(expected), rows_of(expected)]


def test_loaders_in_several_threads_do_not_disturb_each_other() -> None:
    expected = rows_of(make(num_threads=0))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(rows_of(make(num_threads=2)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_a_batch_may_be_freed_in_another_thread(batch_format: str) -> None:
    if batch_format == "torch":
        pytest.importorskip("torch")
    loader = make(format=batch_format, steps_per_epoch=300)
    kept: list[Any] = []
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set() or kept:
            if kept:
                kept.pop()

    thread = threading.Thread(target=drop)
    thread.start()
    for batch in loader:
        assert (batch[:, 0] == batch[:, -1]).all()
        kept.append(batch)
    stop.set()
    thread.join()
