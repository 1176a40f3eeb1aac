"""Shared libraries of the C sources of this folder, compiled on first use."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path

BUILD_DIR = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "l2m_fast"
COMPILE = [*shlex.split(os.environ.get("CC", "cc")), "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


@cache
def library(name: str) -> Path:
    """Compile NAME.c unless that has been done, and return the path of its library."""
    source = Path(__file__).with_name(f"{name}.c")
    key = f"{platform.node()} {COMPILE}".encode() + source.read_bytes()
    built = BUILD_DIR / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not built.exists():
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        subprocess.run([*COMPILE, str(source), "-o", str(built)], check=True)
    return built
