"""Summaries of docstrings and of `///` comments start with a verb or a noun phrase, not with a clause.

Ruff's rule D401 checks that the verb is in the imperative.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "cpp", "examples", "experiments", "python", "tests")
CLAUSE = r"(?:What|Where|Whether|Of|Likewise|Sees|Has|Says|How)\b"
ENTRY = rf"(?!Whether\b){CLAUSE}"  # of an argument or attribute, for which "Whether" is idiomatic

SUMMARY_OR_ENTRY = re.compile(
    rf"\A\s*(?={CLAUSE})"  # the first line
    rf"|^\s+\**\w+: (?={ENTRY})"  # below "Args:" or "Attributes:"
    rf"|^\s*@(?:param \w+|return)\s+(?={ENTRY})",
    re.MULTILINE,
)
SUFFIXES_OF_CPP = {".hpp", ".cpp", ".cuh", ".cu", ".h", ".c"}


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of every docstring, and of every string that describes the name above it."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of every block of `///` comments, and of every such comment behind code."""
    for block in re.finditer(r"(?:^[ ]*///.*\n?)+|///.*", source, re.MULTILINE):
        yield source.count("\n", 0, block.start()) + 1, re.sub(r"^[ ]*///<?", "", block[0], flags=re.MULTILINE)


def clauses(root: Path, folders: tuple[str, ...]) -> list[str]:
    """Return the summaries in some folders that start with a clause, as `file:line: summary`."""
    found = []
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".py", ".pyi", *SUFFIXES_OF_CPP}:
                continue
            texts = comments if path.suffix in SUFFIXES_OF_CPP else docstrings
            for line, text in texts(path.read_text()):
                for start in SUMMARY_OR_ENTRY.finditer(text):
                    at = line + text.count("\n", 0, start.end())
                    found.append(f"{path.relative_to(root)}:{at}: {text[start.end() :].splitlines()[0]}")
    return found


def test_no_summary_starts_with_a_clause() -> None:
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)
    assert clauses(ROOT, FOLDERS) == []


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.py", '"""What a module is."""\n', 1),
        ("a.py", "def f():\n    '''Whether it does.'''\n", 2),
        ("a.py", 'class A:\n    """\n    Of the run.\n    """\n', 3),
        ("a.py", 'x = 1\n"""How often."""\n', 2),
        ("a.py", 'def f(x):\n    """Return x.\n\n    Args:\n        x: Where it is.\n    """\n', 5),
        ("a.pyi", 'class A:\n    async def f(self):\n        """Has it done."""\n', 3),
        ("a.hpp", "/// Likewise.\nint f();\n", 1),
        ("a.hpp", "struct A {\n  /// Says so,\n  /// at once.\n  int f();\n};\n", 2),
        ("a.cu", "int a;  ///< Of the block.\n", 1),
        ("a.cpp", "/// Return it.\n/// @param seed  Of the run.\nint f(int seed);\n", 2),
    ],
)
def test_a_clause_is_found(tmp_path: Path, name: str, text: str, line: int) -> None:
    path = tmp_path / "cpp/deep" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (found,) = clauses(tmp_path, ("cpp",))
    assert found.startswith(f"cpp/deep/{name}:{line}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '"""Return whether it does."""\nx = "What a string"\n# What a comment.\n'),
        ("a.py", 'def f():\n    """Hash it, offline, whatever it is."""\n'),
        ("a.hpp", "/// Copy it.\n/// What follows is part of it.\nint f();\n// Of no interest.\n"),
        ("a.md", "What a document.\n"),
    ],
)
def test_other_text_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "cpp" / name
    path.parent.mkdir()
    path.write_text(text)
    assert clauses(tmp_path, ("cpp",)) == []
