"""Loaders and iterators that are abandoned, dropped or closed do not leak."""

from __future__ import annotations

import gc
import itertools
import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import l2m_fast
from l2m_fast import Learn2Mix, Loader
from loader.lifecycle import DATA, THREADS, N, make, rows_of, run


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


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
    assert all(count <= max_count for count, max_count in zip(counts, (0, 1, 3, 3, 5, 5), strict=True))


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
            kept += list(batches)  # the iterator keeps working
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
        next(iter(loader()))  # the last reference is held by an iterator, or by a cycle with one
        Trainer()
        gc.collect()


def test_an_iterator_in_a_reference_cycle_with_its_loader_is_collected() -> None:
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


class Array(np.ndarray[Any, Any]):
    """An array that can have attributes."""


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("make_data", [lambda: np.zeros((64, 1 << 12)).view(Array), lambda: torch.zeros(64, 1 << 12)])
def test_data_that_lead_to_their_own_loader_are_collected_with_it(make_data: Any, num_threads: int) -> None:
    data = make_data()
    data.loader = loader = Loader(
        data, batch_size=32, format="numpy", num_threads=num_threads, prefetch=8, steps_per_epoch=99, seed=0
    )
    kept = next(iter(loader))
    dead = weakref.ref(data)
    del loader, data
    gc.collect()
    assert dead() is None
    assert (kept == 0).all()


def test_the_data_is_released_with_the_loader_and_batches_stay_valid() -> None:
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


# ---- iterators


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


# ---- processes that exit while a loader works


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
            with contextlib.suppress(RuntimeError):  # RuntimeError: the loader is closed
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
            with contextlib.suppress(RuntimeError):  # RuntimeError: the loader is closed
                while True:
                    eval(sys.argv[1])
                    began.set()
        threading.Thread(target=repeat, daemon=True).start()
        began.wait()
        """
    assert run(program, act) == ""
