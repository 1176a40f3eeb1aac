"""Runs a rival in a Python environment of its own, `.venv/peers/<environment>`, which `make bench-peers` makes.

The rival is an ordinary factory; worker.py calls it there. It is timed from here like any other, so it takes its turns in the
same race: to ask and to be answered takes some microseconds of a turn.
"""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.workloads import Fields

ROOT = Path(__file__).parents[2]

_PATIENCE = 60  # seconds for a rival to end


def elsewhere(name: str, environment: str, factory: Callable[[Fields, int], Peer], *arguments: object) -> Peer:
    """Makes the peer that `factory(*arguments)` makes in another environment.

    Raises:
        ImportError: The environment or a library is missing; with the error of the install, where it is known.
        RuntimeError: The rival failed; its traceback is on stderr.
    """
    folder = ROOT / ".venv" / "peers" / environment
    python = folder / "bin" / "python"
    if not python.exists():
        msg = f"{folder.relative_to(ROOT)} is missing: make bench-peers"
        raise ImportError(msg, name=name)
    worker = _Worker(python)
    try:
        worker.ask((factory, arguments))
    except ImportError as error:
        worker.close()
        raise ImportError(_install_error(folder / "failed.log") or str(error), name=name) from None
    except BaseException:
        worker.close()
        raise
    return Peer(name, Epochs(worker.batches), worker.ask, worker.close)


class _Worker:
    """The other process, which answers one pickled request after the other."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, request: object) -> Any:
        """Sends a request, waits for the answer and returns or raises it."""
        self._send(request)
        return self._answer()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Asks for the batches of an epoch, to be checked."""
        batch = self.ask("batches")
        while batch is not None:
            x, y = batch
            yield torch.from_numpy(x), torch.from_numpy(y)
            batch = self._answer()

    def close(self) -> None:
        """Has the process close the rival and end. Its input may not end: forked children of this process hold it open."""
        self._send(None)
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _send(self, request: object) -> None:
        """Sends a request; if the process does not read it, its last answer or the lack of one says why."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout
        try:
            answer = pickle.load(self._process.stdout)
        except EOFError:
            msg = f"{self._process.args!r} ended without an answer"
            raise RuntimeError(msg) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _install_error(log: Path) -> str:
    """Returns what pip's log says of errors; nothing if the install did not fail."""
    if not log.exists():
        return ""
    return "; ".join(dict.fromkeys(line.strip() for line in log.read_text().splitlines() if "rror: " in line))
