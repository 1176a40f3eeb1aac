"""Rivals that run in a Python environment of their own, `.venv/peers/<environment>`, which `make bench-peers` creates.

`worker.py` calls the factory of the rival there. The rival takes its turns in the same race and is timed from here like any other;
a request and its answer take some microseconds of a turn.
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

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv" / "peers"
INSTALL_LOG = "failed.log"  # in an environment: output of pip if it failed

_TIMEOUT = 60  # seconds for a rival to end


def python_of(environment: str) -> Path:
    """Return the interpreter of an environment."""
    return ENVIRONMENTS / environment / "bin" / "python"


def peer_in_environment(environment: str, factory: Callable[[Fields, int], Peer], *arguments: object) -> Peer:
    """Return the peer that `factory(*arguments)` returns in another environment.

    Raises:
        ImportError: The environment or a library is missing. The message has the error of the installation, if it is known.
        RuntimeError: The rival failed; its traceback is on stderr.
    """
    python = python_of(environment)
    if not python.exists():
        msg = f"{(ENVIRONMENTS / environment).relative_to(ROOT)} is missing: make bench-peers"
        raise ImportError(msg, name=environment)
    worker = _Worker(python)
    try:
        name = worker.ask((factory, arguments))
    except ImportError as error:
        worker.close()
        raise ImportError(_install_error(environment) or str(error), name=environment) from None
    except BaseException:
        worker.close()
        raise
    return Peer(name, Epochs(worker.batches), worker.ask, worker.close)


class _Worker:
    """A process that answers one pickled request after the other."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, request: object) -> Any:
        """Send a request, wait for the answer, and return or raise it."""
        self._send(request)
        return self._answer()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of an epoch, for the check."""
        batch = self.ask("batches")
        while batch is not None:
            x, y = batch
            yield torch.from_numpy(x), torch.from_numpy(y)
            batch = self._answer()

    def close(self) -> None:
        """Let the process close the rival and end."""
        self._send(None)  # closing the pipe may not end its input, because forked children of this process hold it open
        try:
            self._process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _send(self, request: object) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the process has ended; reading its answer raises the reason
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


def _install_error(environment: str) -> str:
    """Return the errors in pip's log, or an empty string if the installation did not fail."""
    log = ENVIRONMENTS / environment / INSTALL_LOG
    if not log.exists():
        return ""
    return "; ".join(dict.fromkeys(line.strip() for line in log.read_text().splitlines() if "rror: " in line))
