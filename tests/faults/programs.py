"""Programs that a test runs in a separate process, because they may crash or hang."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_PREAMBLE = """
import numpy as np
from l2m_fast import Balanced, Learn2Mix, Loader
"""


def run(program: str, *arguments: object) -> str:
    """Run a program and return its output. Check that it exits with status 0 and writes nothing to stderr."""
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "error",
            "-c",
            _PREAMBLE + textwrap.dedent(program),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"status {done.returncode}:\n{done.stderr}"
    return done.stdout
