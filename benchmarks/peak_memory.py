"""Peak memory that a peer adds to a process and its children; Linux only.

This module is also the program of that process: it creates the data, reports that, waits for a line, creates the peer, delivers
an epoch, and reports the name of the peer. Another process measures it, so that measuring costs it no memory.
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

_PERIOD = 0.005  # seconds between two samples


def peak_memory(factory: Callable[[Fields, int], Peer], workload: Workload) -> tuple[str, int]:
    """Return the name of the peer and the bytes that it adds at its peak.

    Shared pages are divided among the processes that share them. The library of the rival counts; the data and torch do not.

    Raises:
        ImportError: The library of the rival is missing.
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
    """Return the proportional set size in bytes of a process and its descendants; 0 for those that have ended."""
    process = Path("/proc", str(pid))
    try:
        children = [int(child) for task in process.glob("task/*/children") for child in task.read_text().split()]
        rollup = (process / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    sizes = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
    return sum(sizes) + sum(map(_proportional_size, children))


def main() -> None:
    """Run the measured process; see the module."""
    factory, workload = pickle.load(sys.stdin.buffer)
    fields = workload.fields()
    sys.stdin.buffer.readline()  # the line feed after the pickle
    _send(b"ready\n")
    sys.stdin.buffer.readline()
    try:
        peer = factory(fields, workload.batch_size)
    except ImportError as error:
        _send(pickle.dumps(error))
        return
    peer.run(1)
    peer.close()
    _send(pickle.dumps(peer.name))


def _send(message: bytes) -> None:
    sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
