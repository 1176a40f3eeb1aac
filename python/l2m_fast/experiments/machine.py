"""Where something was measured."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("l2m_fast", "numpy", "torch")


def git(folder: Path, *arguments: str) -> str:
    """Returns what git prints of the checkout that the folder lies in; nothing outside of one, or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def cpu_model() -> str:
    """Returns the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what the figures depend on most."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def now() -> str:
    """Returns date and time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
