"""The package imports and builds in incomplete environments, and names what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import l2m_fast

ROOT = Path(__file__).parents[2]
CMAKE = Path(sys.executable).parent / "cmake"


# ---- importing


def import_copy(folder: Path, kernels: bytes | None) -> subprocess.CompletedProcess[str]:
    """Import a copy of the package whose module of CUDA kernels has the given content, or is missing."""
    installed = Path(l2m_fast.__file__).parent
    shutil.copytree(
        installed, folder / "l2m_fast", ignore=shutil.ignore_patterns("_cuda.*.so", "experiments", "demo", "suite")
    )
    if kernels is not None:
        (folder / f"l2m_fast/_cuda{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(kernels)
    program = "import l2m_fast; print(l2m_fast.build_info()['cuda_built'], l2m_fast.build_info()['cuda_usable'])"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_imports_if_it_was_built_without_kernels(tmp_path: Path) -> None:
    done = import_copy(tmp_path, kernels=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False\n", "")


def test_kernels_that_fail_to_load_raise(tmp_path: Path) -> None:
    done = import_copy(tmp_path, kernels=b"not a library")
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "_cuda" in done.stderr


# ---- configuring


def configure(tmp_path: Path, *definitions: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Configure the build with the compilers on a PATH."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CUDACXX", "CXX")}
    return subprocess.run(
        [str(CMAKE), "-S", str(ROOT), "-B", str(tmp_path / "build"), *(f"-D{one}" for one in definitions)],
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def configure_with(nvcc: str | None, tmp_path: Path, cuda: str) -> subprocess.CompletedProcess[str]:
    """Configure the build with a stand-in for nvcc, a shell script, on the PATH."""
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "nvcc").exists()]
    if nvcc is not None:
        script = tmp_path / "bin/nvcc"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\n{nvcc}\n")
        script.chmod(0o755)
        folders.insert(0, str(script.parent))
    return configure(tmp_path, f"L2M_CUDA={cuda}", path=os.pathsep.join(folders))


def words(text: str) -> str:
    """Return text without CMake's line breaks."""
    return " ".join(text.split())


OLD = 'echo "Cuda compilation tools, release 11.8, V11.8.89"'
COMPILES_NOTHING = 'case "$1" in --version) echo "Cuda compilation tools, release 12.4, V12.4.1";; *) exit 1;; esac'
REASONS = {
    "no compiler": (None, "no CUDA compiler was found: put nvcc on the PATH, or set CUDACXX"),
    "too old": (OLD, "CUDA 12.0 or newer is needed (got 11.8, "),
    "does not run": ("exit 1", "does not run, or is not nvcc"),
    "compiles nothing": (COMPILES_NOTHING, "nvcc 12.4 ("),
}


@pytest.mark.skipif(not CMAKE.exists(), reason="no CMake beside this Python")
@pytest.mark.parametrize("name", REASONS)
def test_auto_builds_without_kernels_and_prints_the_reason_in_one_line(tmp_path: Path, name: str) -> None:
    nvcc, reason = REASONS[name]
    done = configure_with(nvcc, tmp_path, "AUTO")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "Without CUDA kernels" in line]
    assert reason in line


@pytest.mark.skipif(not CMAKE.exists(), reason="no CMake beside this Python")
@pytest.mark.parametrize("name", REASONS)
def test_on_is_an_error_that_names_what_is_missing(tmp_path: Path, name: str) -> None:
    nvcc, reason = REASONS[name]
    done = configure_with(nvcc, tmp_path, "ON")
    assert done.returncode != 0
    assert "L2M_CUDA=ON: " in words(done.stderr)
    assert reason in words(done.stderr)


@pytest.mark.skipif(not CMAKE.exists(), reason="no CMake beside this Python")
def test_values_other_than_on_off_and_auto_are_refused(tmp_path: Path) -> None:
    done = configure_with(None, tmp_path, "yes")
    assert done.returncode != 0
    assert "L2M_CUDA must be ON, OFF or AUTO (got yes)" in words(done.stderr)


@pytest.mark.skipif(not CMAKE.exists(), reason="no CMake beside this Python")
def test_a_missing_compiler_or_header_is_named(tmp_path: Path) -> None:
    done = configure(tmp_path, path=str(tmp_path))
    assert done.returncode != 0
    assert "needs a C++20 compiler: gcc >= 11 or clang >= 16 (found none" in words(done.stderr)
    done = configure(tmp_path, "L2M_TESTING_MODULE=ON", f"Python_EXECUTABLE={sys.executable}", "Python_INCLUDE_DIR=/no")
    assert done.returncode != 0
    assert "needs the headers of Python, python3-dev or python3-devel of the system (got Python 3." in words(
        done.stderr
    )
