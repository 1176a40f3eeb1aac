"""Where something was measured."""

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
    """Return the versions of Python, of this package, and of the libraries that figures depend on most."""
    ours = {"python": platform.python_version(), "l2m_fast": str(build_info()["version"])}
    return {**ours, **{name: version(name) for name in LIBRARIES}}


def now() -> str:
    """Returns date and time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
