"""Real processes that share the batches of a loader by `group=`."""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
import threading
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from l2m_fast import BatchSampler, Learn2Mix, Loader, rank_group

PROGRAM = Path(__file__).with_name("program.py")
STEPS = 50  # more than two epochs
Batches = dict[int, list[int]]


def launch(program: Path, folder: Path, world_size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start a program on all ranks, with the folder as its first argument."""
    (folder / "meeting").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "PYTEST_"))}
    return [
        subprocess.Popen(
            [sys.executable, program, folder, *arguments],
            env={**environment, "RANK": str(rank), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]


def start(folder: Path, world_size: int, **options: int) -> list[subprocess.Popen[str]]:
    """Start the training program on all ranks."""
    return launch(PROGRAM, folder, world_size, *(f"{name}={value}" for name, value in options.items()))


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return the exit status and the errors of each process."""
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]


def run(folder: Path, world_size: int, **options: int) -> None:
    for status, errors in finish(start(folder, world_size, **options)):
        assert status == 0, errors


def results(folder: Path) -> tuple[Batches, dict[int, set[tuple[float, ...]]]]:
    """Return the sorted rows of each global batch, and the proportions that the ranks had after it.

    A batch that was repeated after a restart counts once.
    """
    rows: dict[int, dict[str, list[int]]] = defaultdict(dict)
    proportions: dict[int, set[tuple[float, ...]]] = defaultdict(set)
    for file in folder.glob("rank*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            rows[line["step"]][file.name] = line["rows"]
            proportions[line["step"]].add(tuple(line["proportions"]))
    batches = {step: sorted(chain.from_iterable(by_rank.values())) for step, by_rank in rows.items()}
    return batches, proportions


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Batches, dict[int, set[tuple[float, ...]]]]:
    """Return the results of an uninterrupted run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1, steps=STEPS)
    batches, proportions = results(folder)
    assert len(batches) == STEPS
    assert len(set.union(*proportions.values())) > 5  # the mix follows the losses
    return batches, proportions


@pytest.mark.parametrize("sampler", [0, 1])
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_takes_the_same_global_batches(
    tmp_path: Path, alone: Any, world_size: int, sampler: int
) -> None:
    run(tmp_path, world_size, steps=STEPS, sampler=sampler)
    assert results(tmp_path) == alone


@pytest.mark.parametrize("world_size", [2, 4])
def test_it_runs_under_torchrun_and_agrees_on_a_seed(tmp_path: Path, world_size: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    subprocess.run([*command, PROGRAM, tmp_path, "steps=25", "seed=-1"], check=True, timeout=300)
    batches, proportions = results(tmp_path)
    assert [len(set(batches[step])) for step in range(25)] == [12] * 25
    assert all(len(of_ranks) == 1 for of_ranks in proportions.values())  # equal on all ranks, to the last bit


def test_a_killed_run_resumes_on_other_numbers_of_processes(tmp_path: Path, alone: Any) -> None:
    outcomes = finish(start(tmp_path, 4, steps=STEPS, kill_rank=2, kill_step=17))
    assert [status == 0 for status, _ in outcomes] == [False] * 4
    assert outcomes[2][0] == -9
    for rank in (0, 1, 3):  # an error at once, because the connection is gone
        assert "RuntimeError" in outcomes[rank][1] or "DistBackendError" in outcomes[rank][1], outcomes[rank][1]
    for file in tmp_path.glob("rank*.jsonl"):
        file.rename(tmp_path / f"rank-first-{file.name}")
    first = {step: rows for step, rows in results(tmp_path)[0].items() if len(rows) == 12}
    for file in tmp_path.glob("rank-first-*"):
        file.unlink()
    run(tmp_path, 2, steps=33)
    second, _ = results(tmp_path)
    for file in tmp_path.glob("rank*.jsonl"):
        file.unlink()
    run(tmp_path, 3, steps=STEPS)
    third, proportions = results(tmp_path)
    assert min(second) == 17
    assert max(second) == 32
    assert min(third) == 33
    assert {**first, **second, **third} == alone[0]
    assert all(values == alone[1][step] for step, values in proportions.items())


def test_a_rank_that_is_interrupted_after_the_sum_does_not_sum_again(tmp_path: Path) -> None:
    for interrupt in (-1, 1):  # none, and the second of two
        (tmp_path / str(interrupt)).mkdir()
        run(tmp_path / str(interrupt), 2, steps=30, interrupt=interrupt)
    assert results(tmp_path / "1") == results(tmp_path / "-1")


MANY = """
import datetime as dt, os, sys
import torch
import torch.distributed as dist
from l2m_fast import Learn2Mix, Loader

folder, rank, world_size = sys.argv[1], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
timeout = dt.timedelta(seconds=120)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size, timeout=timeout)
if rank == 0:
    own = dist.new_group([0], use_local_synchronization=True)  # ranks may have different numbers of groups
x = torch.arange(40)
for i in range(12):
    loader = Loader(x, batch_size=5, classes=x % 3, mixing=Learn2Mix(), group=True)
    for rows in loader:
        loader.record(rows / 8)
    if i % 2:
        loader.close()
pair = dist.new_group([0, 1])
loaders = [Loader(x, batch_size=5, classes=x % 3, mixing=Learn2Mix(), group=group) for group in (True, pair)]
for batches in zip(*loaders):  # two runs at once
    for loader, rows in zip(loaders, batches):
        loader.record(rows / 8)
for number, options in enumerate(({"seed": rank}, {"batch_size": 5 + rank}, {"mixing": Learn2Mix(0.1 + rank / 10)})):
    try:
        Loader(x, **{"batch_size": 5, "classes": x % 3, "mixing": Learn2Mix(), "group": True, **options})
    except ValueError as error:
        name = next(iter(options))
        assert f"{name} must be the same on all processes of group=" in str(error), error
    else:
        raise AssertionError(options)
one, other = (Loader(x, batch_size=5, classes=x % 3, mixing=Learn2Mix(), update_every=1, group=True) for _ in range(2))
order = [iter(loader) for loader in (one, other)]
for loader, batches in zip((one, other), order):
    loader.record(next(batches) / 8)
try:
    for batches in order if rank == 0 else order[::-1]:
        next(batches)
except RuntimeError as error:
    assert "must be used in the same order on all processes" in str(error), error
else:
    raise AssertionError("another order was not noticed")
dist.destroy_process_group()
loaders[0].state_dict()  # the group of a loader does not end with the default one
"""

INTERRUPT = """
import os, signal, sys, threading, time
import torch
import torch.distributed as dist
from l2m_fast import Learn2Mix, Loader

folder, rank = sys.argv[1], int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
x = torch.arange(40)
loader = Loader(x, batch_size=5, classes=x % 3, mixing=Learn2Mix(), update_every=1, group=True, seed=0)
batches = iter(loader)
loader.record(next(batches) / 8)
if rank == 0:
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        next(batches)  # waits for the losses of the other rank
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("not interrupted")
else:
    time.sleep(6)
loader.record(next(batches) / 8)
assert len(loader.history) > 0
dist.barrier()
unseeded = Loader(x, batch_size=5, classes=x % 3, group=True)
batches = iter(unseeded)
for call in (loader.state_dict, lambda: next(batches)):  # the latter agrees on a seed
    if rank == 0:
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            call()
        except KeyboardInterrupt:
            call()
        else:
            raise AssertionError("not interrupted")
    else:
        time.sleep(6)
        call()
    dist.barrier()
dist.destroy_process_group()
"""

# A process that exits while a thread of gloo waits for the GIL.
EXIT = """
import gc, os, sys, time
import torch
import torch.distributed as dist
from l2m_fast import Learn2Mix, Loader

folder, rank = sys.argv[1], int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)


def train():
    x = torch.arange(400)
    loader = Loader(x, batch_size=5, classes=x % 3, mixing=Learn2Mix(), update_every=4, lookahead=0, group=True)
    for step, rows in enumerate(loader):
        loader.record(rows / 8)
        if step == 4:  # a sum over the processes was started
            break


sys.setswitchinterval(100)  # the thread of gloo that completes the sum waits for the GIL until the process exits
train()
gc.collect()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    pass
"""


# Of torch.distributed.checkpoint.
CHECKPOINT = """
import os, sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from l2m_fast import Learn2Mix, Loader

folder, rank, world_size = sys.argv[1], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
x = torch.arange(100)


def new():
    return Loader(x, batch_size=12 // world_size, classes=x % 3, mixing=Learn2Mix(), update_every=3, group=True, seed=1)


def take(batches, num):
    taken = []
    for _ in range(num):
        rows = next(batches)
        loader.record(rows / 64)
        taken.append(rows.tolist())
    return taken


loader = new()
batches = iter(loader)
take(batches, 4)
dcp.save({"loader": loader}, checkpoint_id=f"{folder}/saved")
expected = take(batches, 3)
loader = new()
dcp.load({"loader": loader}, checkpoint_id=f"{folder}/saved")
assert take(iter(loader), 3) == expected
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    "program", [MANY, INTERRUPT, EXIT, CHECKPOINT], ids=["many loaders", "Ctrl-C", "exit", "checkpoint"]
)
def test_programs_of_two_processes(tmp_path: Path, program: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    for status, errors in finish(launch(file, tmp_path, 2)):
        assert status == 0, errors


# ---- arguments


@pytest.fixture
def group_of_one(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


X = torch.arange(20)


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("given", ["True", "the group itself"])
def test_one_process_is_a_group_too(given: str) -> None:
    group: Any = True if given == "True" else dist.group.WORLD
    with Loader(X, batch_size=4, classes=X % 2, mixing=Learn2Mix(), group=group) as loader:
        for rows in loader:
            loader.record(rows / 8)
        assert loader.state_dict()["world_size"] == 1
    loader.close()
    assert len(list(BatchSampler(X % 2, 4, group=group))) == 5


def test_a_group_needs_torch_distributed() -> None:
    with pytest.raises(RuntimeError, match=r"group=True needs torch.distributed: call torch.distributed.init_process"):
        Loader(X, batch_size=4, group=True)


@pytest.mark.parametrize("given", [False, 1, "gloo", [0, 1]])
def test_a_group_is_a_process_group_or_true(given: Any) -> None:
    with pytest.raises(TypeError, match=r"group must be a process group of torch.distributed, or True \(got "):
        Loader(X, batch_size=4, group=given)


@pytest.mark.parametrize("other", [{"rank": 0}, {"world_size": 1}, {"all_reduce": sum}], ids=str)
def test_a_group_determines_other_arguments(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(other))} must be None with group="):
        Loader(X, batch_size=4, group=True, **other)


class Work:
    """Collective whose wait fails, without a frame of Python, as those of torch do, while `lock` is free."""

    wait = operator.methodcaller("release")  # of its argument

    def __init__(self, lock: Any, completed_before: bool) -> None:
        self._lock, self._completed = lock, completed_before

    def is_completed(self) -> bool:
        completed, self._completed = self._completed, True
        if completed and self._lock is not None:
            self._lock.acquire()
        return completed


def test_a_wait_that_ends_while_the_sum_completes_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    monkeypatch.setattr(rank_group, "_SIGNALS_EVERY", lock)
    rank_group.RankGroup._wait(cast("Any", None), Work(lock, completed_before=False))
    with pytest.raises(RuntimeError, match="did not answer each other"):
        rank_group.RankGroup._wait(cast("Any", None), Work(None, completed_before=True))


def test_an_error_of_a_signal_handler_stays_what_it_is() -> None:
    class Preempted(RuntimeError):
        pass

    class Waiting(Work):
        def wait(self, _: Any) -> None:  # type: ignore[override]
            raise Preempted

    with pytest.raises(Preempted):
        rank_group.RankGroup._wait(cast("Any", None), Waiting(None, completed_before=False))
