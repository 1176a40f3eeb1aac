"""Install the C++ library, and use it from projects outside the tree: each builds and runs the example in C.

Usage: python tests/package/library.py FOLDER; the installed library stays in FOLDER.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from commands import run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/c/train.c"
PROJECT = """\
cmake_minimum_required(VERSION 3.21)
project(outside LANGUAGES C CXX)
{find}
add_executable(train {example})
target_link_libraries(train PRIVATE {target} m)
"""


def check_program(program: Path, **environment: str) -> None:
    """Exit unless the example trains."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.csv"
        data.write_text("".join(f"{i % 2},{i % 2 + i % 7 / 10},{i % 5}\n" for i in range(100)))
        out = run(program, data, Path(folder) / "checkpoint", "3", **environment)
        assert out.count("bias") == 2, out


def check_project(folder: Path, find: str, target: str, *options: str) -> None:
    """Build and run the example as a CMake project of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(PROJECT.format(find=find, example=EXAMPLE, target=target))
    run("cmake", "-S", folder, "-B", folder / "build", *options)
    run("cmake", "--build", folder / "build", "--parallel", str(os.cpu_count()), "--target", "train")
    check_program(folder / "build/train")
    print(f"{folder.name}: the example in C was built and run")


def check_command(out: Path, *arguments: str | Path, **environment: str) -> None:
    """Build the example by a command, and run it."""
    compiler = os.environ.get("CC", "cc")
    run(compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", EXAMPLE, "-o", out, *arguments)
    check_program(out, **environment)
    print(f"{out.name}: the example in C was built and run")


def flags(*options: str, prefix: Path) -> list[str]:
    """Return what pkg-config prints."""
    return run("pkg-config", *options, "l2m", PKG_CONFIG_PATH=str(prefix / "lib/pkgconfig")).split()


def main(out: Path) -> None:
    """Install the library, and try every way of using it."""
    prefix, build = out / "prefix", out / "build"
    shutil.rmtree(prefix, ignore_errors=True)
    options = ("-D", "BUILD_SHARED_LIBS=ON", "-D", "CMAKE_INSTALL_LIBDIR=lib")
    run("cmake", "-S", ROOT, "-B", build, *options)
    run("cmake", "--build", build, "--parallel", str(os.cpu_count()))
    run("cmake", "--install", build, "--prefix", prefix)
    installed = {str(path.relative_to(prefix)) for path in prefix.rglob("*")}
    for name in ("lib/libl2m.a", "lib/libl2m.so", "include/l2m.h", "include/l2m/loader.hpp", "lib/pkgconfig/l2m.pc"):
        assert name in installed, (name, installed)
    exported = run("nm", "--dynamic", "--defined-only", "--extern-only", prefix / "lib/libl2m.so").split()[2::3]
    assert {"l2m_create", "l2m_free"} <= set(exported), exported
    assert not [name for name in exported if "N3l2m" in name[:9] or "NK3l2m" in name[:9]], exported  # no C++

    found = f'list(APPEND CMAKE_PREFIX_PATH "{prefix}")\nfind_package(l2m REQUIRED)'
    check_project(out / "find_package", found, "l2m::l2m")
    check_project(out / "find_package_shared", found, "l2m::l2m_shared")
    check_project(out / "subdirectory", f"add_subdirectory({ROOT} l2m EXCLUDE_FROM_ALL)", "l2m::l2m")
    library_path = {"LD_LIBRARY_PATH": str(prefix / "lib")}
    check_command(out / "pkg-config", *flags("--cflags", "--libs", prefix=prefix), "-lm", **library_path)
    static = [flag for flag in flags("--static", "--cflags", "--libs", prefix=prefix) if flag != "-ll2m"]
    check_command(out / "pkg-config_static", prefix / "lib/libl2m.a", *static)

    amalgamation = out / "amalgamation"
    run(sys.executable, ROOT / "cpp/amalgamate.py", amalgamation)
    object_file = amalgamation / "l2m.o"
    compiler = os.environ.get("CXX", "c++")
    run(compiler, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-c", amalgamation / "l2m.cpp", "-o", object_file)
    libraries = ("-lstdc++", "-lm", "-pthread")
    check_command(out / "two_files", f"-I{amalgamation}", object_file, *libraries)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
