"""Loaders that are called from inside one of their own calls, or by two threads at once."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from faults.programs import run
from l2m_fast import Balanced, Learn2Mix, Loader

N = 120
CLASSES = np.arange(N) % 3

CALLS: dict[str, Callable[[Loader, Any], object]] = {
    "next": lambda _, batches: next(batches),
    "next of another": lambda loader, _: next(iter(loader)),
    "iter": lambda loader, _: iter(loader),
    "record": lambda loader, _: loader.record(np.ones(6), np.zeros(6, int)),
    "update": lambda loader, _: loader.update(),
    "state_dict": lambda loader, _: loader.state_dict(),
    "load_state_dict": lambda loader, _: loader.load_state_dict({}),
    "set_epoch": lambda loader, _: loader.set_epoch(3),
}
INSIDE = "the loader is in use: this call comes from inside another one"


class Caller:
    """Callback that calls the loader once, when armed, and keeps the error."""

    def __init__(self, call: Callable[[Loader, Any], object]) -> None:
        self._call = call
        self.loader: Loader | None = None
        self.batches: Any = None
        self.armed = False
        self.errors: list[RuntimeError] = []

    def __call__(self) -> None:
        if not self.armed or self.loader is None:
            return
        self.armed = False
        try:
            self._call(self.loader, self.batches)
        except RuntimeError as error:
            self.errors.append(error)


def expect(caller: Caller, expected: list[Any], got: list[Any]) -> None:
    assert [INSIDE in str(error) for error in caller.errors] == [True]
    assert got == expected


def rows_of(batches: Any) -> list[Any]:
    return [np.asarray(batch).tolist() for batch in batches]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("num_threads", [0, 2])
def test_calls_from_the_class_of_a_batch_are_refused(num_threads: int, call: Any) -> None:
    caller = Caller(call)

    class Batch(NamedTuple):
        x: Any

    class Calling(Batch):
        def __new__(cls, *arrays: Any) -> Any:
            caller()
            return super().__new__(cls, *arrays)

    loader = Loader(Calling(np.arange(N)), batch_size=6, format="numpy", seed=0, num_threads=num_threads)
    caller.loader, caller.batches = loader, iter(loader)
    got = [next(caller.batches).x.tolist()]
    caller.armed = True
    got += rows_of(batch.x for batch in caller.batches)
    expect(caller, rows_of(Loader(np.arange(N), batch_size=6, format="numpy", seed=0)), got)


class Policy:
    """Policy that keeps the proportions, and calls the loader in `update()`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        self._caller()
        return window.proportions


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("update_every", [None, 2])
def test_calls_from_a_policy_are_refused(update_every: int | None, call: Any) -> None:
    caller = Caller(call)
    options: dict[str, Any] = {"batch_size": 6, "classes": CLASSES, "format": "numpy", "seed": 0}
    loader = Loader(np.arange(N), mixing=Policy(caller), update_every=update_every, **options)
    caller.loader, caller.batches = loader, iter(loader)
    caller.armed = True
    got = []
    for batch in caller.batches:
        got.append(batch.tolist())
        loader.record(np.ones(6))
    expect(caller, rows_of(Loader(np.arange(N), **options)), got)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls_from_all_reduce_are_refused(call: Any) -> None:
    caller = Caller(call)

    def all_reduce(sums: Any) -> Any:
        caller()
        return sums * 2

    options: dict[str, Any] = {
        "batch_size": 6,
        "classes": CLASSES,
        "format": "numpy",
        "seed": 0,
        "rank": 1,
        "world_size": 2,
    }
    loader = Loader(np.arange(N), mixing=Learn2Mix(1e-9), all_reduce=all_reduce, **options)
    caller.loader, caller.batches = loader, iter(loader)
    caller.armed = True
    got = []
    for batch in caller.batches:
        got.append(batch.tolist())
        loader.record(np.ones(6))
    expect(caller, rows_of(Loader(np.arange(N), **options)), got)


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], None], float], None]]:
    before = signal.getsignal(signal.SIGALRM)

    def start(function: Callable[[], None], seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


BIG = np.repeat(np.arange(64, dtype=np.int64)[:, None], 1 << 14, axis=1)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("num_threads", [0, 2])
def test_calls_from_a_signal_handler_are_refused_during_next(num_threads: int, name: str, alarm: Any) -> None:
    """The call is refused inside `next()`, and works normally between two lines, whenever the signal arrives."""
    options: dict[str, Any] = {"batch_size": 32, "steps_per_epoch": 100, "format": "numpy", "seed": 0}
    expected = [batch[:, 0].tolist() for batch in Loader(BIG, num_threads=0, **options)]
    refused: list[str] = []

    def run_through_an_epoch() -> None:
        loader = Loader(BIG, num_threads=num_threads, prefetch=1, **options)
        batches = iter(loader)

        def handler() -> None:
            try:
                CALLS[name](loader, batches)
            except (RuntimeError, ValueError, StopIteration) as error:
                refused.append(str(error))

        got: list[Any] = []
        alarm(handler, 0.0005)
        while loader.epoch == 0 and len(got) < 100:
            try:
                got.append(next(batches)[:, 0].tolist())
            except (
                RuntimeError,
                StopIteration,
            ) as error:  # the handler has taken the last batch of the epoch, or begun another epoch
                got.append(str(error))
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        if name in ("iter", "state_dict", "batch_rows", "proportions", "history", "class_losses", "load_state_dict"):
            assert got == expected
        # Calls of the handler between two lines can only have consumed batches.
        rest = iter(expected)
        assert all(rows in rest for rows in got[:-1])
        assert len(list(loader)) > 0

    for _ in range(50):  # a call between two lines may end the epoch before any signal arrives inside next()
        run_through_an_epoch()
        if any(INSIDE in message for message in refused):
            return
    pytest.fail("no call fell inside of next()")


@pytest.mark.parametrize("call", ["next", "iter", "state_dict", "record"])
def test_calls_from_garbage_collection_are_refused(call: str) -> None:
    caller = Caller(CALLS[call])

    class Batch(NamedTuple):
        x: Any

    class Collecting(Batch):
        def __new__(cls, *arrays: Any) -> Any:
            gc.collect()
            return super().__new__(cls, *arrays)

    def collected(phase: str, info: Any) -> None:  # noqa: ARG001
        caller()

    loader = Loader(Collecting(np.arange(N)), batch_size=6, format="numpy", seed=0)
    caller.loader, caller.batches = loader, iter(loader)
    got = [next(caller.batches).x.tolist()]
    gc.callbacks.append(collected)
    caller.armed = True
    try:
        got += rows_of(batch.x for batch in caller.batches)
    finally:
        gc.callbacks.remove(collected)
    expect(caller, rows_of(Loader(np.arange(N), batch_size=6, format="numpy", seed=0)), got)


# ---- close()


def test_close_from_inside_takes_effect_when_the_call_ends() -> None:
    class Batch(NamedTuple):
        x: Any

    to_close: list[Loader] = []

    class Closing(Batch):
        def __new__(cls, *arrays: Any) -> Any:
            for loader in to_close * 2:
                loader.close()
            return super().__new__(cls, *arrays)

    for num_threads in (0, 2):
        to_close.clear()
        loader = Loader(Closing(np.arange(N)), batch_size=6, format="numpy", seed=0, num_threads=num_threads)
        to_close.append(loader)
        batches = iter(loader)
        assert len(next(batches).x) == 6
        with pytest.raises(RuntimeError, match="the loader is closed"):
            next(batches)


def test_close_from_a_policy_takes_effect_when_the_call_ends() -> None:
    caller = Caller(lambda loader, _: loader.close())
    loader = Loader(
        np.arange(N), batch_size=6, classes=CLASSES, mixing=Policy(caller), update_every=2, format="numpy", seed=0
    )
    caller.loader, caller.armed = loader, True
    batches = iter(loader)
    for _ in range(2):
        next(batches)
        loader.record(np.ones(6))
    next(batches)  # update() is called in it
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)
    assert caller.errors == []


def test_close_from_inside_load_state_dict_takes_effect_when_it_ends() -> None:
    loader = Loader(np.arange(N), batch_size=6, format="numpy", seed=0)

    class Closing:
        def __repr__(self) -> str:  # called for the message
            loader.close()
            return "closing"

    with pytest.raises(TypeError, match=r"seed of the state .*closing"):
        loader.load_state_dict(loader.state_dict() | {"seed": Closing()})
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(iter(loader))


READS: dict[str, Callable[[Loader], object]] = {
    "proportions": lambda loader: loader.proportions,
    "class_losses": lambda loader: loader.class_losses,
    "history": lambda loader: loader.history,
    "batch_rows": lambda loader: loader.batch_rows,
    "epoch and step": lambda loader: (loader.epoch, loader.step, loader.total_step, repr(loader)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_attributes_can_be_read_from_inside_a_call(read: Any) -> None:
    caller = Caller(lambda loader, _: read(loader))
    options: dict[str, Any] = {"batch_size": 6, "classes": CLASSES, "format": "numpy", "seed": 0}
    loader = Loader(np.arange(N), mixing=Policy(caller), update_every=2, **options)
    caller.loader = loader
    for _ in loader:
        caller.armed = True
        loader.record(np.ones(6))
    assert caller.errors == []


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_thread_that_reads_attributes_disturbs_nothing(num_threads: int) -> None:
    def make() -> Loader:
        classes = np.arange(4000) % 50
        return Loader(
            np.arange(4000), batch_size=32, classes=classes, mixing=Learn2Mix(), update_every=5, num_threads=num_threads,
            format="numpy", seed=0,
        )  # fmt: skip

    def look_on() -> None:
        while not done.is_set():
            for name, read in READS.items():
                if name != "batch_rows" or loader.total_step > 0:
                    read(loader)

    loader, done = make(), threading.Event()
    ended_well: list[bool] = []

    def run() -> None:
        look_on()
        ended_well.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    rows = []
    for _ in range(10):
        for batch in loader:
            rows.append(batch.tolist())
            loader.record(1.0 + batch % 50)
    done.set()
    thread.join()
    assert ended_well
    expected, alone = [], make()
    for _ in range(10):
        for batch in alone:
            expected.append(batch.tolist())
            alone.record(1.0 + batch % 50)
    assert rows == expected


def test_close_during_the_allocation_of_pinned_memory_does_not_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    from l2m_fast import batch_source
    from l2m_fast.data import device as device_data

    monkeypatch.setattr(batch_source, "can_pin", lambda *_: True)
    closing: list[Loader] = []

    def lend(shape: Any, dtype: Any) -> Any:
        if closing:
            closing.pop().close()
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(device_data, "pinned_empty", lend)
    loader = Loader(np.arange(N), batch_size=6, pin_memory=True, seed=0)
    batches = iter(loader)
    next(batches)
    closing.append(loader)
    next(batches)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)


# ---- two threads


def close_in_another_thread(loader: Loader) -> None:
    """Close a loader from another thread."""
    thread = threading.Thread(target=loader.close)
    thread.start()
    thread.join()


@pytest.mark.parametrize("call", [1, 3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"lookahead": 1}, {"update_every": 1}, {"update_every": 2, "lookahead": 2}], ids=str
)
@pytest.mark.parametrize("inside", ["all_reduce", "update"])
def test_close_from_another_thread_while_losses_are_summed_or_weighed_ends_the_run(
    inside: str, options: dict[str, Any], call: int
) -> None:
    calls: list[str] = []

    def called(name: str) -> None:
        calls.append(name)
        if calls.count(inside) == call and name == inside:
            close_in_another_thread(loader)

    class Turning:
        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, _: Any) -> Any:
            called("update")
            return [0.5, 0.3, 0.2] if len(calls) % 2 else [0.2, 0.3, 0.5]

    def all_reduce(sums: Any) -> Any:
        called("all_reduce")
        return sums * [*[1] * (len(sums) - 2), 2, 2]  # what is summed besides the losses

    loader = Loader(
        np.arange(N), batch_size=6, classes=CLASSES, mixing=Turning(), format="numpy", seed=0, steps_per_epoch=3, rank=0,
        world_size=2, all_reduce=all_reduce, **options,
    )  # fmt: skip

    def train() -> None:
        for _ in range(10):
            for _ in loader:
                loader.record(np.ones(6))

    with pytest.raises(RuntimeError, match="the loader is closed"):
        train()
    assert calls.count(inside) == call


def test_close_from_another_thread_while_the_seed_is_drawn_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_seed(_: str) -> int:
        close_in_another_thread(loader)
        return 1

    monkeypatch.setattr("l2m_fast.run.draw_seed", draw_seed)
    loader = Loader(np.arange(N), batch_size=6, format="numpy")
    batches = iter(loader)
    assert len(next(batches)) == 6
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)


def test_close_from_another_thread_while_a_batch_is_made_of_pinned_memory_crashes_nothing() -> None:
    pytest.importorskip("torch")
    program = """
        import threading, torch
        from l2m_fast import batch_source
        from l2m_fast.data import device

        class Closing(torch.Tensor):
            def narrow(self, *arguments):
                thread = threading.Thread(target=loader.close)
                thread.start()
                thread.join()
                return super().narrow(*arguments)

        batch_source.can_pin = lambda *_: True
        device.pinned_empty = lambda shape, dtype: torch.empty(shape, dtype=dtype).as_subclass(Closing)
        loader = Loader((np.arange(10), np.arange(10)), batch_size=6, pin_memory=True, seed=0)
        batches = iter(loader)
        next(batches)
        print(len(next(batches)[0]))  # a short one
        try:
            next(batches)
        except RuntimeError as error:
            print(error)
    """
    assert run(program) == "4\nthe loader is closed\n"


def test_record_from_two_threads_adds_all_losses_or_is_refused() -> None:
    loader = Loader(np.arange(N), batch_size=6, classes=CLASSES, mixing=Balanced(), format="numpy", seed=0)
    added = [0, 0]
    refused: list[str] = []

    def record(me: int) -> None:
        for _ in range(3000):
            try:
                loader.record(np.ones(4), np.full(4, me))
                added[me] += 4
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=record, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loader.state_dict()["window_counts"][0] == [*added, 0]
    assert sum(added) > 0
    assert all("one consumer at a time" in message for message in refused)


def test_random_calls_from_signals_and_threads_do_not_crash() -> None:
    """Make random calls from a timer signal, a thread and the main thread, one of which holds the interpreter."""
    program = """
        import random, signal, threading
        x, y = np.arange(2000), np.arange(2000) % 5
        loader = Loader((x, y), batch_size=64, classes=y, mixing=Learn2Mix(), update_every=3, format="numpy", num_threads=2, seed=0)
        loader.record(np.ones(3), [0, 1, 2])
        rng = random.Random(0)
        batches = [iter(loader)]
        def act():
            try:
                which = rng.randrange(9)
                if which < 4: next(batches[0], None)
                elif which == 4: batches[0] = iter(loader)
                elif which == 5: loader.record(np.ones(3), [0, 1, 2])
                elif which == 6: loader.load_state_dict(loader.state_dict())
                elif which == 7: loader.set_epoch(rng.randrange(5))
                else: len(loader.history), loader.proportions
            except (RuntimeError, StopIteration):
                pass
        signal.signal(signal.SIGALRM, lambda *_: act())
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        thread = threading.Thread(target=lambda: [act() for _ in range(3000)])
        thread.start()
        for _ in range(6000):
            act()
        signal.setitimer(signal.ITIMER_REAL, 0)
        thread.join()
        list(loader)  # perhaps the rest of an epoch whose state was loaded
        assert sum(len(b[0]) for b in loader) == 64 * len(loader)
        """
    assert run(program) == ""
