"""Where something was measured."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("l2m_fast", "numpy", "torch")

_CPU_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def git(folder: Path, *arguments: str) -> str:
    """Returns what git prints of the checkout that the folder lies in; nothing outside of one, or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's name, and what tells apart the models that share it, as those of virtual machines do."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    first_cpu = cpuinfo.read_text().partition("\n\n")[0]
    told = dict(re.findall(r"^(\S[^:\t]*)\t*: (.*)$", first_cpu, re.MULTILINE))
    name = told.get("model name", platform.machine())
    numbers = ", ".join(f"{number} {told[key]}" for number, key in _CPU_NUMBERS.items() if key in told)
    return f"{name} ({numbers})" if numbers else name


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what the figures depend on most."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def now() -> str:
    """Returns date and time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
