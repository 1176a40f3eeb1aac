"""The Python blocks of README.md and the programs in examples/ run without changes, with warnings as errors."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def python_blocks(markdown: str) -> dict[str, str]:
    """Return the blocks fenced as ```python by their first line, with empty lines in front to keep line numbers."""
    blocks = {}
    for block in re.finditer(r"^```python\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        lines_above = markdown.count("\n", 0, block.start(1))
        blocks[f"line {lines_above + 1}"] = "\n" * lines_above + block[1]
    return blocks


README_BLOCKS = python_blocks(README.read_text())
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run examples in an empty folder, so that the files that they write stay out of the checkout."""
    monkeypatch.chdir(tmp_path)


def test_there_are_examples_to_run() -> None:
    assert README_BLOCKS
    assert EXAMPLES


@pytest.mark.parametrize("block", README_BLOCKS.values(), ids=README_BLOCKS.keys())
def test_readme_block_runs(block: str) -> None:
    exec(compile(block, README, "exec"), {"__name__": "__main__"})  # noqa: S102 -- ours


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")


def test_a_block_keeps_its_line_numbers() -> None:
    markdown = "# title\n\n```python\nx = 1\n```\n\n```sh\nmake demo\n```\n\n```python\n\nraise ValueError\n```\n"
    assert python_blocks(markdown) == {"line 4": "\n" * 3 + "x = 1\n", "line 12": "\n" * 11 + "\nraise ValueError\n"}
