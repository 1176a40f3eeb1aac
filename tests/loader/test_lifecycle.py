"""Threads, forks, signals, and how loaders end: no hang, no leak, no crash, no batch lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import l2m_fast
from l2m_fast import Learn2Mix, Loader

N = 600
CLASSES = np.arange(N) % 7
DATA = np.repeat(np.arange(N, dtype=np.int32)[:, None], 500, axis=1)
THREADS = [0, 1, 2, 4]


def make(**options: Any) -> Loader:
    usual: dict[str, Any] = {"seed": 0, "batch_size": 20, "classes": CLASSES, "format": "numpy", "num_threads": 2}
    return Loader(DATA, **usual | options)


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def rows_of(batches: Any) -> list[Any]:
    return [np.asarray(batch)[:, 0].tolist() for batch in batches]


def run(program: str, *arguments: object) -> str:
    """Runs a program in a Python of its own; its standard output. It must end well and say nothing else."""
    preamble = "import contextlib, os, signal, sys, threading, time, json\nimport numpy as np\nfrom l2m_fast import Loader, build_info\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", preamble + textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- fork


def _in_child(rows: Any, expected: Any) -> None:
    """Ends a forked child, with status 0 if `rows()` gives what is expected."""
    status = 1
    try:
        status = 0 if rows() == expected else 2
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("begun", [None, 0, 4], ids=["before iter()", "before the first batch", "in mid-epoch"])
@pytest.mark.parametrize("num_threads", THREADS)
def test_parent_and_child_of_a_fork_both_go_on_with_the_same_batches(num_threads: int, begun: int | None) -> None:
    expected = rows_of(itertools.chain(*itertools.repeat(reference := make(num_threads=0), 2)))
    loader = make(num_threads=num_threads)
    batches = iter(loader) if begun is not None else None
    done = [] if batches is None else rows_of(itertools.islice(batches, begun))

    def rest() -> list[Any]:
        return done + rows_of(loader if batches is None else batches) + rows_of(loader)

    child = os.fork()
    if child == 0:
        _in_child(rest, expected)
    assert rest() == expected
    assert os.waitpid(child, 0)[1] == 0
    assert len(reference) * 2 == len(expected)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("num_threads", THREADS)
def test_a_child_may_make_loaders_of_its_own_and_drop_its_parents(num_threads: int) -> None:
    expected = rows_of(make(num_threads=0, seed=1))
    loaders = [make(num_threads=num_threads)]
    batches = [iter(loaders[0])]
    kept = next(batches[0])

    def in_child() -> list[Any]:
        batches.clear()
        loaders.clear()
        assert kept.sum() >= 0
        return rows_of(make(num_threads=num_threads, seed=1))

    child = os.fork()
    if child == 0:
        _in_child(in_child, expected)
    assert len(list(batches[0])) == N // 20 - 1
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_the_child_of_a_fork_takes_over_from_the_thread_that_was_iterating() -> None:
    """The consumer was another thread, which the child does not have."""
    loader = make()
    batches = iter(loader)
    expected = rows_of(make())
    first: list[Any] = []
    began, forked = threading.Event(), threading.Event()

    def consume() -> None:
        first.extend(rows_of(itertools.islice(batches, 2)))
        began.set()
        forked.wait()

    thread = threading.Thread(target=consume)
    thread.start()
    began.wait()
    child = os.fork()
    if child == 0:
        _in_child(lambda: first + rows_of(batches), expected)
    status = os.waitpid(child, 0)[1]
    forked.set()
    thread.join()
    assert status == 0


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_forked_child_ends_like_any_process(num_threads: int) -> None:
    assert (
        run(
            """
            data = np.zeros((5000, 300))
            loader = Loader(data, batch_size=64, format="numpy", num_threads=int(sys.argv[1]))
            batches = iter(loader)
            kept = [next(batches) for _ in range(3)]
            if sys.version_info >= (3, 12):
                import warnings
                warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
            kept += [next(batches) for _ in range(3)]
            if child:
                assert os.waitpid(child, 0)[1] == 0
                print("parent")
            """,
            num_threads,
        )
        == "parent\n"
    )


# ---- Ctrl-C


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Calls a function by signal, again and again, and whatever it raises comes out of what runs then."""

    def start(function: Any, seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    before = signal.getsignal(signal.SIGALRM)
    gc.disable()  # what is raised in a callback of the collector is lost
    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()
    signal.signal(signal.SIGALRM, before)


BIG = np.repeat(np.arange(64, dtype=np.int64)[:, None], 1 << 14, axis=1)  # 128 KiB a row


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.parametrize(
    "structure", [lambda x: x, lambda x: (x, x[:, 0]), lambda x: {"x": [x]}], ids=["array", "tuple", "dict"]
)
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (0, 4), (1, 1), (2, 0), (2, 4)])
def test_an_interrupt_in_next_loses_no_batch_and_delivers_none_twice(
    num_threads: int, prefetch: int, structure: Any, alarm: Any
) -> None:
    def loader_of(**options: Any) -> Loader:
        data = structure(BIG)
        return Loader(
            data, batch_size=32, classes=np.arange(64) % 3, mixing=Learn2Mix(), update_every=2, steps_per_epoch=60,
            format="numpy", seed=0, **options,
        )  # fmt: skip

    def leaves(batches: list[Any]) -> list[Any]:
        arrays = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
        return rows_of(array["x"][0] if isinstance(array, dict) else array for array in arrays)

    armed: list[None] = []

    def interrupt() -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    expected = leaves(list(loader_of(num_threads=0)))
    loader = loader_of(num_threads=num_threads, prefetch=prefetch)
    batches = iter(loader)
    got: list[Any] = []
    ended = interrupted = 0
    alarm(interrupt, 0.001)
    while not ended:
        try:
            armed.append(None)
            got.extend(batches)  # between next() and the list there is no line of Python to be interrupted in
            armed.clear()
            ended = 1
        except KeyboardInterrupt:
            interrupted += 1
        assert loader.state_dict()["total_step"] == len(got)
    assert interrupted > 0
    assert leaves(got) == expected


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some fall into a weakref's callback
def test_an_interrupt_in_load_state_dict_leaves_the_state_of_before_or_the_one_loaded(alarm: Any) -> None:
    loader = make(mixing=Learn2Mix(), num_threads=0)
    states = []
    for steps in (3, 11):
        list(itertools.islice(loader, steps))
        states.append(loader.state_dict())
    armed: list[None] = []

    def interrupt() -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    interrupted = 0
    alarm(interrupt, 0.0005)
    for i in range(2000):
        try:
            armed.append(None)
            loader.load_state_dict(states[i % 2])
            armed.clear()
        except KeyboardInterrupt:
            interrupted += 1
        assert loader.state_dict() in states
    assert interrupted > 0


def test_ctrl_c_in_next_is_a_keyboard_interrupt_and_the_loader_goes_on() -> None:
    out = run(
        """
        data = np.zeros((64, 1 << 16), np.uint8)
        for num_threads in (0, 1, 2):
            loader = Loader(data, batch_size=2048, steps_per_epoch=4, format="numpy", num_threads=num_threads, prefetch=1)
            got, interrupted = [], 0
            batches = iter(loader)
            try:
                threading.Timer(0.01, signal.raise_signal, (signal.SIGINT,)).start()
                got.extend(batches)
                time.sleep(60)  # until the signal comes
            except KeyboardInterrupt:
                interrupted = 1
            got.extend(batches)
            print(interrupted, len(got), loader.state_dict()["total_step"], len(list(loader)))
        """
    )
    assert out == "1 4 4 4\n" * 3


def test_a_process_that_is_interrupted_in_next_dies_of_it() -> None:
    program = """
        import sys, numpy as np, l2m_fast
        loader = l2m_fast.Loader(np.zeros((64, 1 << 16)), batch_size=512, steps_per_epoch=10**9, format="numpy", num_threads=2)
        print("begun", flush=True)
        for batch in loader:
            pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # of one that goes on, the end would be waited for
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


def test_close_in_a_signal_handler_ends_the_epoch(alarm: Any) -> None:
    for num_threads in (0, 1, 2):
        loader = Loader(BIG, batch_size=64, steps_per_epoch=10**6, format="numpy", num_threads=num_threads, seed=0)
        alarm(loader.close, 0.005)
        with pytest.raises(RuntimeError, match="closed"):
            for _ in loader:
                pass


# ---- exit


@pytest.mark.parametrize("num_threads", THREADS)
def test_a_process_may_exit_with_batches_in_flight(num_threads: int) -> None:
    program = """
        data = np.zeros((20000, 4096), np.uint8)
        loader = Loader((data, np.arange(20000)), batch_size=512, format="numpy", num_threads=int(sys.argv[1]), prefetch=16)
        batches = iter(loader)
        kept = [next(batches) for _ in range(3)]
        """
    assert run(program, num_threads) == ""


def test_a_process_may_exit_with_tensors_of_a_batch_alive() -> None:
    program = """
        import torch
        loader = Loader(torch.zeros(20000, 4096), batch_size=512, num_threads=2, prefetch=16)
        kept = [batch for batch, _ in zip(loader, range(3))]
        views = [batch[3] for batch in kept]
        torch.kept = loader, views  # outlives this module
        """
    assert run(program) == ""


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("attempt", range(4))
def test_a_process_may_exit_while_a_daemon_thread_is_inside_next(num_threads: int, attempt: int) -> None:
    program = """
        data = np.zeros((1 << 14, 1 << 12), np.uint8)
        loader = Loader(data, batch_size=1 << 13, steps_per_epoch=10**9, format="numpy", num_threads=int(sys.argv[1]))
        began = threading.Event()
        def consume():
            with contextlib.suppress(RuntimeError):  # that the loader is closed
                for batch in loader:
                    began.set()
        threading.Thread(target=consume, daemon=True).start()
        began.wait()
        time.sleep(int(sys.argv[2]) / 500)
        """
    assert run(program, num_threads, attempt) == ""


@pytest.mark.parametrize(
    "act",
    [
        "class_loss(losses, classes, 10)",
        "Loader(data, classes=classes, batch_size=8, format='numpy', num_threads=2)",
        "iter(loader)",
        "loader.record(losses, classes)",
        "loader.state_dict()",
    ],
)
def test_a_process_may_exit_while_a_daemon_thread_is_in_the_core(act: str) -> None:
    program = """
        from l2m_fast import class_loss
        classes = np.arange(1 << 18) % 10
        losses, data = np.ones(len(classes)), np.zeros((len(classes), 8), np.uint8)
        loader = Loader(data, classes=classes, batch_size=8, format="numpy", num_threads=2)
        began = threading.Event()
        def repeat():
            with contextlib.suppress(RuntimeError):  # that the loader is closed
                while True:
                    eval(sys.argv[1])
                    began.set()
        threading.Thread(target=repeat, daemon=True).start()
        began.wait()
        """
    assert run(program, act) == ""


# ---- abandoned, dropped, closed


def test_a_thousand_abandoned_iterators_leave_no_thread() -> None:
    out = run(
        """
        def native(): return len(os.listdir("/proc/self/task"))
        data = np.zeros((500, 100))
        before = native()
        loader = Loader(data, batch_size=5, format="numpy", num_threads=3)
        for _ in range(1000):
            next(iter(loader))
        of_one = native() - before
        for _ in range(1000):
            loader = Loader(data, batch_size=5, format="numpy", num_threads=2)
            batches = iter(loader)
            next(batches)
        loaders = [Loader(data, batch_size=5, format="numpy", num_threads=1) for _ in range(200)]
        batches = [iter(loader) for loader in loaders]
        for of_loader in batches:
            next(of_loader)
        print(json.dumps([of_one, native() - before, build_info()["pool_threads"]]))
        """
    )
    of_one, of_all, pool = json.loads(out)
    assert of_one <= 3
    assert of_all <= 3
    assert pool <= 3


def test_the_pool_grows_to_the_largest_num_threads_and_no_further() -> None:
    out = run(
        """
        counts = []
        for num_threads in (0, 1, 3, 2, 5, 1):
            loader = Loader(np.zeros((5000, 10)), batch_size=5, format="numpy", num_threads=num_threads)
            for _ in loader:
                pass
            counts.append(build_info()["pool_threads"])
        print(json.dumps(counts))
        """
    )
    counts = json.loads(out)
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert all(count <= most for count, most in zip(counts, (0, 1, 3, 3, 5, 5), strict=True))


def test_a_loader_may_be_dropped_while_its_threads_fill_batches() -> None:
    for turn in range(60):
        data = np.full((64, 1 << 14), turn, np.int64)
        loader = Loader(data, batch_size=32, prefetch=8, format="numpy", num_threads=2, steps_per_epoch=100, seed=0)
        batches = iter(loader)
        kept = next(batches) if turn % 2 else None
        del loader, batches, data
        assert kept is None or (kept == turn).all()


def test_a_loader_is_no_part_of_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        for batch_format, steps in itertools.product(("numpy", "torch"), (0, 1, 99)):
            loader = make(format=batch_format, mixing=Learn2Mix())
            batches = iter(loader)
            kept = list(itertools.islice(batches, steps))
            loader.state_dict()
            dead = weakref.ref(loader)
            del loader
            assert dead() is None
            kept += list(batches)  # the iterator goes on without it
            assert len(kept) == N // 20
        loader = make()
        dead = weakref.ref(loader)
        with pytest.raises(ValueError, match="batch_size"):
            make(batch_size=0)
        del loader
        assert dead() is None
    finally:
        gc.enable()


def test_the_data_outlives_the_threads_that_read_it() -> None:
    def loader() -> Loader:
        return Loader(
            np.ones((20_000, 4096), np.uint8), batch_size=2048, format="numpy", prefetch=8, num_threads=2, seed=0
        )

    class Trainer:
        def __init__(self) -> None:
            self.loader, self.trainer = loader(), self
            self.batches = iter(self.loader)
            next(self.batches)

    for _ in range(8):
        next(iter(loader()))  # the last reference is that of an iterator, or of a cycle with one
        Trainer()
        gc.collect()


def test_an_iterator_that_its_own_loader_leads_to_is_collected() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.loader = make(mixing=Learn2Mix(), rank=0, world_size=2, all_reduce=self.all_reduce)
            self.batches = iter(self.loader)
            next(self.batches)

        def all_reduce(self, sums: Any) -> None:
            pass

    dead = weakref.ref(Trainer())
    gc.collect()
    assert dead() is None


def test_the_data_is_let_go_with_the_loader_and_its_batches_are_not() -> None:
    class Array(np.ndarray[Any, Any]):
        pass

    data = DATA.copy().view(Array)
    dead = weakref.ref(data)
    loader = Loader(data, batch_size=20, format="numpy", seed=0)
    batches = list(loader)
    del data, loader
    gc.collect()
    assert dead() is None
    assert sorted(itertools.chain(*rows_of(batches))) == list(range(N))


def test_close_is_idempotent_and_batches_stay() -> None:
    loader = make()
    batches = iter(loader)
    kept = next(batches)
    expected = kept.copy()
    for _ in range(3):
        loader.close()
    np.testing.assert_array_equal(kept, expected)


def test_a_with_block_closes_the_loader() -> None:
    with make() as loader:
        assert len(list(loader)) == N // 20
    with pytest.raises(RuntimeError, match="the loader is closed"):
        iter(loader)
    with pytest.raises(ValueError, match="batch_size"), make() as loader:
        make(batch_size=0)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        iter(loader)


@pytest.mark.parametrize("num_threads", THREADS)
def test_a_closed_loader_raises(num_threads: int) -> None:
    loader = make(num_threads=num_threads)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    loader.close()
    uses: list[Any] = [
        lambda: next(batches),
        lambda: iter(loader),
        lambda: loader.record(np.ones(20)),
        loader.update,
        loader.state_dict,
        lambda: loader.load_state_dict(state),
        lambda: loader.set_epoch(1),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="the loader is closed"):
            use()
    assert len(loader) == N // 20
    assert (loader.epoch, loader.step, loader.num_classes) == (0, 1, 7)


def test_close_before_any_iter_is_fine() -> None:
    make().close()
    with make():
        pass


# ---- threads


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


def _in_thread(function: Any) -> Any:
    """What `function` returns or raises in a thread of its own, which has ended."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        return future.exception() or future.result()


def test_two_threads_at_a_time_are_an_error_and_not_a_race() -> None:
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
        lambda: loader.history,
        loader.state_dict,
        loader.update,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="one consumer at a time: another thread is using it"):
            use()
    assert (loader.epoch, loader.step, len(loader)) == (0, 1, N // 20)
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


def test_another_thread_may_take_over_when_the_consumer_has_ended() -> None:
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


def test_a_batch_may_die_in_another_thread() -> None:
    for batch_format in ("numpy", "torch"):
        loader = make(format=batch_format, steps_per_epoch=300)
        kept: list[Any] = []
        stop = threading.Event()

        def drop(kept: list[Any] = kept, stop: threading.Event = stop) -> None:
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


# ---- iterators


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_newer_iterator_makes_the_first_one_raise(num_threads: int) -> None:
    loader = make(num_threads=num_threads)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(first)  # the second one has not begun
    assert (loader.epoch, loader.step) == (0, 2)
    batch = next(second)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="this iterator has ended: a later one"):
            next(first)
    assert (loader.epoch, loader.step) == (1, 1)
    assert len([batch, *second]) == N // 20
    with pytest.raises(RuntimeError, match="this iterator has ended"):
        next(first)


def test_an_iterator_that_is_never_advanced_changes_nothing() -> None:
    loader = make()
    for _ in range(3):
        iter(loader)
    batches = iter(loader)
    got = [next(batches)]
    state = loader.state_dict()
    iter(loader)
    assert loader.state_dict() == state
    got += batches
    iter(loader)
    assert rows_of(got) == rows_of(make())
    assert (loader.epoch, loader.step) == (1, 0)


def test_a_finished_iterator_stays_finished() -> None:
    loader = make()
    batches = iter(loader)
    assert len(list(batches)) == N // 20
    assert [next(batches, None) for _ in range(3)] == [None] * 3
    assert loader.epoch == 1
    assert iter(batches) is batches


def test_a_batch_too_large_for_memory_is_an_error_where_it_is_due(tmp_path: Path) -> None:
    path = tmp_path / "row"
    with path.open("wb") as file:
        file.truncate(1 << 37)
    row = np.memmap(path, np.uint8, "r", shape=(1, 1 << 37))
    for num_threads in (0, 2):
        loader = Loader(row, batch_size=1 << 20, steps_per_epoch=2, format="numpy", num_threads=num_threads, seed=0)
        batches = iter(loader)
        for _ in range(3):
            with pytest.raises(MemoryError):
                next(batches)
            assert loader.step == 0
        loader.close()


def test_memory_does_not_grow_over_many_epochs() -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    loader = make(mixing=Learn2Mix(), format="torch")
    tensors = torch.ones(20)

    def epochs(count: int) -> None:
        for _ in range(count):
            for _batch in loader:
                loader.record(tensors)
            loader.load_state_dict(loader.state_dict())
            next(iter(make(format="torch")))

    epochs(50)
    before, threads = resident(), native_threads()
    epochs(300)
    assert resident() - before < 4 << 20
    assert native_threads() == threads
    assert l2m_fast.build_info()["pool_threads"] <= threads
