"""What a run was made with and on, for its record."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide a run."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("l2m-fast", "numpy", "torch")}}


def commit() -> str | None:
    """Returns the commit of this package, with "-dirty" where files differ from it; None: it does not lie in a checkout."""
    # A package that is installed inside somebody else's checkout is not part of it.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def cpu_model() -> str:
    """Returns the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Returns what git prints; None: it fails, or there is none."""
    package = Path(__file__).parents[1]
    try:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
