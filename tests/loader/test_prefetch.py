"""Batches that are copied in `next()` instead of ahead of time, also by the OpenMP threads of torch."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults.programs import run
from l2m_fast import Loader, Normalized, _core
from l2m_fast.arguments import default_prefetch
from l2m_fast.data.fields import fields_of

N = 300
X = torch.arange(N * 3000, dtype=torch.float32).reshape(N, 3000)
Y = torch.arange(N)
BATCH = 64  # of 768 KB


@pytest.fixture(params=[1, 2, 3])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the number of OpenMP threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _batches(**options: Any) -> list[list[torch.Tensor]]:
    loader = Loader((X, Y), **{"batch_size": BATCH, "seed": 0} | options)
    return [list(batch) for batch in itertools.chain(loader, loader)]


def test_openmp_threads_are_those_of_torch(torch_threads: int) -> None:
    assert _core.openmp_threads() == torch_threads == torch.get_num_threads()


@pytest.mark.parametrize("num_threads", [0, 1, 2, 3, 8])
@pytest.mark.parametrize(
    "batch_size", [1, 3, 64, 299, 300, 1000]
)  # the last batch is short, or has fewer rows than threads
def test_batches_do_not_depend_on_who_copies_them(torch_threads: int, num_threads: int, batch_size: int) -> None:
    del torch_threads
    expected = _batches(num_threads=0, batch_size=batch_size)
    for prefetch in (None, 0, 4):
        batches = _batches(num_threads=num_threads, prefetch=prefetch, batch_size=batch_size)
        for batch, expected_batch in zip(batches, expected, strict=True):
            assert all(map(torch.equal, batch, expected_batch))
    x, y = expected[0]
    assert torch.equal(x, X[y])


def test_openmp_copies_normalized_rows_classes_and_other_arrays() -> None:
    classes = np.arange(N) % 7
    data = {
        "x": X,
        "image": Normalized(X.to(torch.uint8).reshape(N, 3, 1000), (0, 0, 0), (1, 1, 1)),
        "flag": Y[:, None] > 5,
    }
    options: dict[str, Any] = {"batch_size": BATCH, "classes": classes, "include": ("rows", "classes"), "seed": 0}
    expected = list(Loader(data, num_threads=0, **options))
    for batch, expected_batch in zip(Loader(data, num_threads=8, prefetch=0, **options), expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        assert all(torch.equal(batch[name], expected_batch[name]) for name in batch)


def test_a_thread_may_consume_batches_that_its_own_team_copies() -> None:
    program = """
        import threading
        import torch
        torch.set_num_threads(2)
        x = torch.arange(3e5).reshape(300, 1000)
        sums = []
        def consume(seed):
            for _ in range(3):
                sums.append(sum(batch.sum(dtype=torch.float64) for batch in Loader(x, batch_size=64, num_threads=8, prefetch=0)))
        threads = [threading.Thread(target=consume, args=(seed,)) for seed in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert all(total == x.sum(dtype=torch.float64) for total in sums) and len(sums) == 12
        """
    assert run(program) == ""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
@pytest.mark.parametrize(
    ("options", "new_threads"),
    [
        ({"prefetch": 0}, 1),
        ({"prefetch": 0, "num_threads": 1}, 0),
        ({"prefetch": 0, "batch_size": 3}, 0),
        ({"prefetch": 0, "format": "numpy"}, 0),
        ({"prefetch": 4}, 0),
    ],
    ids=str,
)
def test_openmp_copies_large_tensors_that_are_not_prefetched(options: dict[str, Any], new_threads: int) -> None:
    program = """
        import os, sys
        import torch
        torch.set_num_threads(2)
        options = {"batch_size": 64, "num_threads": 2} | eval(sys.argv[1])
        batches = iter(Loader(np.zeros((300, 1000), np.float32), **options))  # starts the threads of the pool
        before = len(os.listdir("/proc/self/task"))
        next(batches)
        print(len(os.listdir("/proc/self/task")) - before)  # OpenMP starts its threads at the first call
        """
    assert run(program, options) == f"{new_threads}\n"


@pytest.mark.parametrize("begun", [False, True])
def test_a_forked_child_lacks_the_team_of_its_parent(begun: bool) -> None:
    program = """
        import os, sys, warnings
        import torch
        warnings.simplefilter("ignore")  # of a fork with threads
        torch.set_num_threads(2)
        x = torch.arange(3e5).reshape(300, 1000)
        loader = Loader(x, batch_size=64, num_threads=8, prefetch=0, seed=0)
        batches = iter(loader)
        if sys.argv[1] == "True":
            next(batches)
        child = os.fork()
        count = len(list(batches))
        if child == 0:
            os._exit(count)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == count
        """
    assert run(program, begun) == ""


_LATE_IMPORT = """
import os, signal
import numpy as np
import torch
torch.set_num_threads(2)
torch.rand(2000, 2000).add_(1)  # starts the team
child = os.fork()
if child == 0:
    signal.alarm(60)
    from l2m_fast import Loader
    for prefetch in (None, 0):
        loader = Loader(np.zeros((300, 3000), np.float32), batch_size=64, num_threads=2, prefetch=prefetch)
        assert len(list(loader)) == 5
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_child_that_imports_the_package_lacks_the_team_of_its_parent() -> None:
    subprocess.run([sys.executable, "-c", _LATE_IMPORT], check=True, timeout=120)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="needs to change the user, for whom a limit of threads holds",
)
def test_batches_are_copied_without_a_team_whose_threads_cannot_be_started() -> None:
    program = """
        import os, resource, torch
        loader = Loader(np.zeros((300, 3000), np.float32), batch_size=64, num_threads=2, prefetch=0)
        assert len(loader) == 5
        os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        print(len(list(loader)))
        """
    assert run(program) == "5\n"


def _default(
    data: Any, batch_size: int = BATCH, num_threads: int = 2, batch_format: Any = "torch", on_host: bool = True
) -> int:
    return default_prefetch(fields_of(data, batch_format)[0], batch_size, num_threads, batch_format, on_host=on_host)


@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
def test_more_small_batches_are_prefetched(batch_format: str) -> None:
    small = np.zeros((100, 128), np.uint8)
    assert _default(small, batch_size=64, batch_format=batch_format) == 16
    assert _default((small, small[:, :4]), batch_size=62, batch_format=batch_format) == 16
    assert _default(small, batch_size=65, batch_format=batch_format) == 4
    assert _default(small, batch_size=64, batch_format=batch_format, on_host=False) == 4


def test_large_batches_for_a_model_on_all_cpus_are_not_prefetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "openmp_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("l2m_fast.arguments.was_forked", lambda: False)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(N, 3000))

    assert _default((X, Y)) == 0
    assert _default((X, Y), num_threads=4) == 0
    assert _default((X, Y), batch_size=11) == 0  # 128.9 KB
    assert _default((X, Y), batch_size=10) == 4
    assert _default((X, Y), num_threads=0) == 4
    assert _default((X, Y), num_threads=1) == 4
    assert _default((X, Y), num_threads=5) == 4
    assert _default((X, Y), on_host=False) == 4
    assert _default(X.numpy()) == 0
    assert _default(X.numpy(), batch_format="numpy") == 4
    assert _default((Y, mapped)) == 4
    assert _default(mapped[5:]) == 4
    assert _default(torch.from_numpy(np.asarray(mapped)[:50])) == 4
    shared = X.clone().share_memory_()
    assert _default(shared) == 0
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        assert _default((X, Y)) == 4
    with monkeypatch.context() as patch:
        patch.setattr("l2m_fast.arguments.was_forked", lambda: True)
        assert _default((X, Y)) == 4
    for openmp_threads in (0, 1):
        monkeypatch.setattr(_core, "openmp_threads", partial(int, openmp_threads))
        assert _default((X, Y)) == 4
        assert _default((X, Y), num_threads=1) == 4
