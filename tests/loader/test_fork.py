"""Loaders in the parent and in the child of a fork."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import pytest

from loader.lifecycle import THREADS, N, make, rows_of, run


def _in_child(rows: Any, expected: Any) -> None:
    """Exit a forked child, with status 0 if `rows()` returns the expected rows."""
    status = 1
    try:
        status = 0 if rows() == expected else 2
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("begun", [None, 0, 4], ids=["before iter()", "before the first batch", "in mid-epoch"])
@pytest.mark.parametrize("num_threads", THREADS)
def test_parent_and_child_of_a_fork_continue_with_the_same_batches(num_threads: int, begun: int | None) -> None:
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
def test_a_child_may_create_loaders_and_drop_those_of_its_parent(num_threads: int) -> None:
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
    """The consumer was another thread, which does not exist in the child."""
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
