"""Build the package as users do, install it into clean environments, and try it there.

Every wheel is built from the sdist: the first one as users do, the others from its unpacked files with the packages of
this environment, which lets a compiler cache recognize the sources.

Usage: python tests/package/check.py FOLDER; the wheels stay in FOLDER.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from commands import run

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") is not None
ALLOWED_IN_WHEEL = (".py", ".pyi", ".so", "py.typed")


@dataclass(frozen=True)
class Variant:
    """One way to build the package."""

    name: str
    source: Path
    cuda_built: bool
    pip_options: tuple[str, ...] = ()
    path: str = os.environ["PATH"]


def path_without(program: str) -> str:
    """Return the PATH without the folders that hold a program."""
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / program).exists()]
    return os.pathsep.join(folders)


def check_contents(wheel: Path) -> None:
    """Exit if a wheel contains anything but the package."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    wrong = [
        name
        for name in names
        if not name.startswith("l2m_fast/") or "_testing" in name or not name.endswith(ALLOWED_IN_WHEEL)
    ]
    if wrong:
        sys.exit(f"{wheel.name} must hold the package alone (got {', '.join(wrong)})")


def try_in_clean_environment(
    installed: Path,
    cuda_built: bool,
    *pip_options: str,
    path: str = os.environ["PATH"],
    interpreter: str = sys.executable,
) -> None:
    """Install a wheel or a source tree into a new environment, and run the smoke test there, outside the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        run(interpreter, "-m", "venv", folder)
        python = Path(folder) / "bin/python"
        run(python, "-m", "pip", "install", "--quiet", *pip_options, installed, cwd=Path(folder), PATH=path)
        run(python, ROOT / "tests/package/smoke.py", str(int(cuda_built)), cwd=Path(folder))


def main(out: Path) -> None:
    """Build and try every variant."""
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--quiet", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    shutil.unpack_archive(sdist, out)
    files = out / sdist.name.removesuffix(".tar.gz")
    variants = [
        Variant("off", sdist, cuda_built=False, pip_options=("--config-settings=cmake.define.L2M_CUDA=OFF",)),
        Variant("no-nvcc", files, cuda_built=False, pip_options=("--no-build-isolation",), path=path_without("nvcc")),
    ]
    if NVCC:
        variants.append(Variant("cuda", files, cuda_built=True, pip_options=("--no-build-isolation",)))
    for variant in variants:
        start = time.monotonic()
        command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *variant.pip_options)
        run(*command, "--wheel-dir", out / variant.name, variant.source, cwd=out, PATH=variant.path)
        (wheel,) = (out / variant.name).glob("*.whl")
        check_contents(wheel)
        try_in_clean_environment(wheel, variant.cuda_built)
        print(f"{variant.name}: {wheel.stat().st_size / 1e6:.2f} MB, {time.monotonic() - start:.0f} s")

    start = time.monotonic()
    one_architecture = "--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=90-real"
    system_first = os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin", os.environ["PATH"]])
    try_in_clean_environment(ROOT, NVCC, one_architecture, path=system_first)
    print(f"pip install . with the system's CMake first on the PATH: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
