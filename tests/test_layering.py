"""Dependencies point one way.

core <- {c, cuda} <- bindings <- package <- doctor <- cli <- experiments <- {tests, benchmarks}
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = r"[a-z_]+"  # a header of the C++ standard library: no folder and no suffix
CORE = rf"{STANDARD}|l2m/(\w+/)?\w+\.hpp"
POSIX = r"(sys/)?\w+\.h"
# Allowed includes of the files that match a pattern. The first pattern that matches decides.
ALLOWED_INCLUDES = {
    "cpp/src/base/platform.cpp": rf"{CORE}|{POSIX}",  # the only file of the core with code for an operating system
    "cpp/src/data/dense.cpp": rf"{CORE}|emmintrin\.h",  # non-temporal stores
    "cpp/include/**/*": CORE,
    "cpp/src/**/*": CORE,
    "cpp/c/**/*.h": r"std(def|int)\.h",  # plain C99
    "cpp/c/**/*": rf"{CORE}|l2m\.h|options\.hpp",
    "cpp/baremetal/**/*": STANDARD,
    "cpp/cuda/**/*.hpp": rf"{CORE}|\w+\.hpp",  # callers need no CUDA header
    "cpp/cuda/**/*": rf"{CORE}|cuda_\w+\.h|\w+\.(hpp|cuh)",
    "cpp/bindings/openmp_team.cpp": rf"{CORE}|openmp_team\.hpp|dlfcn\.h",  # finds torch's OpenMP library
    "cpp/bindings/**/*": rf"{CORE}|pybind11/\w+\.h|\w+\.hpp",
    "cpp/tests/**/*": rf"{CORE}|{POSIX}|(?!Python)\w+\.(hpp|cu)",
}
# Parts on top of the rest of the package, in order, followed by packages on top of it.
TOP_OF_PACKAGE = ("doctor", "integrations", "cli", "__main__")
OUTSIDE_PACKAGE = {"benchmarks", "examples", "l2m_experiments", "oracle", "tests"}


def wrong_includes(root: Path) -> list[str]:
    """Return every forbidden `#include` under root/cpp, as `file includes header`."""
    wrong = []
    decided: set[Path] = set()
    for pattern, allowed in ALLOWED_INCLUDES.items():
        for file in sorted(set(root.glob(pattern)) - decided):
            if file.suffix in {".h", ".hpp", ".cpp", ".cu", ".cuh"}:
                headers = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', file.read_text(), re.MULTILINE)
                wrong += [
                    f"{file.relative_to(root)} includes {header}"
                    for header in headers
                    if not re.fullmatch(allowed, header)
                ]
            decided.add(file)
    return wrong


def imported_modules(statements: Iterable[ast.AST], package: str) -> set[str]:
    """Return the absolute names of all modules that a module inside `package` imports."""
    modules = set()
    for node in statements:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            modules |= {f"{source}.{alias.name}" for alias in node.names}  # a name may itself be a module
    return modules


def wrong_imports(root: Path) -> list[str]:
    """Return every forbidden import under root/python/l2m_fast, as `file imports module`."""
    wrong = []
    for file in sorted(root.glob("python/l2m_fast/**/*.py")):
        place = file.relative_to(root / "python/l2m_fast")
        part = place.with_suffix("").parts[0]
        below = TOP_OF_PACKAGE[: TOP_OF_PACKAGE.index(part) + 1] if part in TOP_OF_PACKAGE else ()
        package = ".".join(["l2m_fast", *place.parts[:-1]])
        for module in sorted(imported_modules(ast.walk(ast.parse(file.read_text())), package)):
            name, *rest = module.split(".")
            above = name == "l2m_fast" and bool(rest) and rest[0] in TOP_OF_PACKAGE and rest[0] not in below
            if name in OUTSIDE_PACKAGE or above:
                wrong.append(f"{file.relative_to(root)} imports {module}")
    return wrong


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node, including functions, but not `if TYPE_CHECKING` blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from executed(child)


def import_circles(root: Path) -> list[str]:
    """Return every group of modules under root/python/l2m_fast that import each other, as `module, module`."""
    imported = {}
    for file in [*root.glob("python/l2m_fast/**/*.py"), *root.glob("python/l2m_fast/**/*.pyi")]:
        package = ".".join(file.relative_to(root / "python").parts[:-1])
        name = package if file.stem == "__init__" else f"{package}.{file.stem}"
        imported[name] = imported_modules(executed(ast.parse(file.read_text())), package)
    # A name imported from a package may be a module.
    edges = {
        name: {module if module in imported else module.rpartition(".")[0] for module in modules} & imported.keys()
        for name, modules in imported.items()
    }
    reached = {name: reachable(name, edges) for name in edges}
    circles = {frozenset(other for other in reached[name] if name in reached[other]) for name in edges}
    return sorted(", ".join(sorted(circle)) for circle in circles if circle)


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    """Return all nodes of a graph to which a path of at least one edge leads."""
    found: set[str] = set()
    unfollowed = [start]
    while unfollowed:
        new = edges[unfollowed.pop()] - found
        found |= new
        unfollowed += new
    return found


def test_no_include_points_backward() -> None:
    assert list(ROOT.glob("cpp/src/**/*.cpp"))
    assert wrong_includes(ROOT) == []


def test_no_import_points_backward() -> None:
    assert list(ROOT.glob("python/l2m_fast/*.py"))
    assert wrong_imports(ROOT) == []


def test_no_modules_import_each_other() -> None:
    assert import_circles(ROOT) == []


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("cpp/include/l2m/data/field.hpp", "Python.h"),
        ("cpp/include/l2m/data/field.hpp", "register.hpp"),
        ("cpp/include/l2m/base/platform.hpp", "unistd.h"),
        ("cpp/src/data/dense.cpp", "../bindings/convert.hpp"),
        ("cpp/src/data/dense.cpp", "cuda_runtime.h"),
        ("cpp/src/data/dense.cpp", "pthread.h"),
        ("cpp/src/data/dense.cpp", "pybind11/pybind11.h"),
        ("cpp/src/data/dense.cpp", "sys/mman.h"),
        ("cpp/src/base/platform.cpp", "pybind11/pybind11.h"),
        ("cpp/bindings/module.cpp", "cuda_runtime.h"),
        ("cpp/cuda/class_loss.hpp", "cuda_runtime.h"),
        ("cpp/bindings/module.cpp", "torch/extension.h"),
        ("cpp/c/l2m.cpp", "../bindings/convert.hpp"),
        ("cpp/c/l2m.cpp", "unistd.h"),
        ("cpp/tests/test_fields.cpp", "pybind11/embed.h"),
    ],
)
def test_a_backward_include_is_found(tmp_path: Path, file: str, header: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(f'#include <vector>\n#include "l2m/base/errors.hpp"\n#  include <{header}>\n')
    assert wrong_includes(tmp_path) == [f"{file} includes {header}"]


@pytest.mark.parametrize(
    ("file", "statement", "module"),
    [
        ("loader.py", "import l2m_experiments", "l2m_experiments"),
        ("loader.py", "from l2m_fast import cli", "l2m_fast.cli"),
        ("loader.py", "from l2m_fast import doctor", "l2m_fast.doctor"),
        ("doctor.py", "from l2m_experiments import machine", "l2m_experiments.machine"),
        ("cli.py", "from l2m_fast import __main__", "l2m_fast.__main__"),
        ("loader.py", "from l2m_experiments.demo.data import digits", "l2m_experiments.demo.data.digits"),
        ("loader.py", "from . import cli", "l2m_fast.cli"),
        ("parts/deep.py", "from ..cli import main", "l2m_fast.cli.main"),
        ("cli.py", "from oracle import Loader", "oracle.Loader"),
        ("data/fields.py", "import benchmarks.race", "benchmarks.race"),
    ],
)
def test_a_backward_import_is_found(tmp_path: Path, file: str, statement: str, module: str) -> None:
    planted = tmp_path / "python/l2m_fast" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(f"import numpy\n\ndef late():\n    {statement}\n")
    assert wrong_imports(tmp_path) == [f"python/l2m_fast/{file} imports {module}"]


@pytest.mark.parametrize(
    ("files", "circles"),
    [
        ({"a.py": "import l2m_fast.b", "b.py": "from l2m_fast import a"}, ["a, b"]),
        ({"a.py": "def late():\n    from l2m_fast.b import x", "b.py": "from .a import y"}, ["a, b"]),
        ({"a.py": "from .b import x", "b.py": "from .c import x", "c.py": "if x:\n    from . import a"}, ["a, b, c"]),
        ({"part/a.py": "from ..b import x", "b.py": "from .part import a", "c.py": "from . import b"}, ["b, part.a"]),
        ({"part/__init__.py": "from .a import x", "part/a.py": "from . import y"}, ["part, part.a"]),
        ({"a.py": "from .b import x", "b.py": "from .a import x", "c.py": "import l2m_fast.c"}, ["a, b", "c"]),
        ({"a.py": "from .b import x", "b.py": "if TYPE_CHECKING:\n    from .a import y"}, []),
        ({"part/__init__.py": "from .a import x", "part/a.py": "from . import _core", "part/_core.pyi": ""}, []),
    ],
)
def test_modules_that_import_each_other_are_found(tmp_path: Path, files: dict[str, str], circles: list[str]) -> None:
    for name, text in files.items():
        planted = tmp_path / "python/l2m_fast" / name
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(text)
    assert [circle.replace("l2m_fast.", "") for circle in import_circles(tmp_path)] == circles


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, l2m_fast; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"l2m_fast", "numpy"} <= imported
    assert imported.isdisjoint({"torch", "sklearn", "matplotlib", "tqdm"})
