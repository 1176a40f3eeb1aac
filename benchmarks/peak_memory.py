"""The most memory that a way to form batches adds to a process and its children; Linux only.

Run as a program, it is that process: it makes the data, says so, waits for a line, makes the peer that it is told, delivers an
epoch and says so. It is watched from outside, so that the watching costs it nothing.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.workloads import Fields, Workload

ROOT = Path(__file__).parents[1]

_PERIOD = 0.005  # seconds between two looks


def peak_memory(factory: Callable[[Fields, int], Peer], workload: Workload) -> tuple[str, int]:
    """Returns the name of the peer and the bytes it adds at most.

    Shared pages are divided among those who share them. The rival's library counts, data and torch do not.

    Raises:
        ImportError: The rival's library is missing.
        RuntimeError: The rival failed; its traceback is on stderr.
    """
    program = [sys.executable, "-m", "benchmarks.peak_memory"]
    with subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(pickle.dumps((factory, workload)) + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        before = peak = _proportional_size(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        while process.poll() is None:
            peak = max(peak, _proportional_size(process.pid))
            time.sleep(_PERIOD)
        answer = process.stdout.read()
    if process.returncode != 0:
        msg = f"{workload}: the process ended with {process.returncode}"
        raise RuntimeError(msg)
    name = pickle.loads(answer)
    if isinstance(name, ImportError):
        raise name
    return name, peak - before


def _proportional_size(pid: int) -> int:
    """Returns the proportional set size in bytes of a process and its descendants; of those that have ended, 0."""
    process = Path("/proc", str(pid))
    try:
        children = [int(child) for task in process.glob("task/*/children") for child in task.read_text().split()]
        rollup = (process / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    sizes = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
    return sum(sizes) + sum(map(_proportional_size, children))


def main() -> None:
    """See the module."""
    factory, workload = pickle.load(sys.stdin.buffer)
    fields = workload.fields()
    sys.stdin.buffer.readline()  # what ends the pickle
    _say(b"made\n")
    sys.stdin.buffer.readline()
    try:
        peer = factory(fields, workload.batch_size)
    except ImportError as error:
        _say(pickle.dumps(error))
        return
    peer.run(1)
    peer.close()
    _say(pickle.dumps(peer.name))


def _say(what: bytes) -> None:
    sys.stdout.buffer.write(what)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
