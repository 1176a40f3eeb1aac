"""Loaders of rows that take a while to copy, and programs that run in a separate process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np

from l2m_fast import Loader

N = 600
CLASSES = np.arange(N) % 7
DATA = np.repeat(np.arange(N, dtype=np.int32)[:, None], 500, axis=1)
THREADS = [0, 1, 2, 4]


def make(**options: Any) -> Loader:
    usual: dict[str, Any] = {"seed": 0, "batch_size": 20, "classes": CLASSES, "format": "numpy", "num_threads": 2}
    return Loader(DATA, **usual | options)


def rows_of(batches: Any) -> list[Any]:
    return [np.asarray(batch)[:, 0].tolist() for batch in batches]


def run(program: str, *arguments: object) -> str:
    """Return the output of a program run in a separate process. Check that it succeeds and writes nothing to stderr."""
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
