"""Commands that must succeed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path


def run(*command: str | Path, cwd: str | Path | None = None, **environment: str) -> str:
    """Return the output of a command. If it fails, print it and exit.

    Args:
        *command: Program and arguments.
        cwd: Working directory; None: that of this process.
        **environment: Variables to set; those of Python and its build tools are not inherited.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SKBUILD"))}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout
