"""Description of the machine and the software of a measurement."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from l2m_fast import build_info

LIBRARIES = ("numpy", "torch")

_CPU_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def git(folder: Path, *arguments: str) -> str:
    """Return the output of git in a folder; empty outside of a checkout or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and numbers, because processors of virtual machines share names."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    first_cpu = cpuinfo.read_text().partition("\n\n")[0]
    entries = dict(re.findall(r"^(\S[^:\t]*)\t*: (.*)$", first_cpu, re.MULTILINE))
    name = entries.get("model name", platform.machine())
    numbers = ", ".join(f"{number} {entries[key]}" for number, key in _CPU_NUMBERS.items() if key in entries)
    return f"{name} ({numbers})" if numbers else name


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, and of the libraries that figures depend on most."""
    ours = {"python": platform.python_version(), "l2m_fast": str(build_info()["version"])}
    return {**ours, **{name: version(name) for name in LIBRARIES}}


def now() -> str:
    """Return date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
