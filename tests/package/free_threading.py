"""Build the package for a free-threaded Python, and run the tests of NumPy batches there, most of them in four threads at once.

Usage: python tests/package/free_threading.py FOLDER PYTHON; PYTHON needs its headers, and a wheel of NumPy for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from commands import run

ROOT = Path(__file__).parents[2]
TOOLS = ("cmake", "ninja", "pybind11", "scikit-build-core", "numpy", "hypothesis", "pytest", "pytest-timeout")
PARALLEL = ("mixing", "specification", "loader", "losses", "faults")
# Their subject is the process: forks, and signals, which only the main thread can handle.
SERIAL = ("loader/test_fork.py", "loader/test_interrupts.py", "faults/test_reentry.py")


def main(out: Path, interpreter: str) -> None:
    """Build and test."""
    run(interpreter, "-m", "venv", out)
    python = out / "bin/python"
    # Not with the constraints: few versions of NumPy have wheels for every free-threaded Python.
    run(python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *TOOLS, "pytest-run-parallel")
    run(
        *(python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--force-reinstall", ROOT),
        "--config-settings=cmake.define.L2M_CUDA=OFF",
        f"--config-settings=build-dir={out / 'build'}",
    )
    # A module that needs the GIL would switch it on with a warning.
    run(python, "-W", "error", "-c", "import sys, l2m_fast; assert not sys._is_gil_enabled()", cwd=out)
    pytest = (python, "-m", "pytest", "-q", "--timeout", "600", "-p", "no:cacheprovider")
    ignored = [f"--ignore={name}" for name in SERIAL]
    # The oracle takes seconds per test of large classes, in each thread.
    print(run(*pytest, *PARALLEL, *ignored, "--parallel-threads=4", "-k", "not large_classes", cwd=ROOT / "tests"))
    print(run(*pytest, *SERIAL, cwd=ROOT / "tests"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
