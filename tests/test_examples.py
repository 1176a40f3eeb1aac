"""The Python blocks of the documents, the notebooks and the programs of examples/ run as they stand, with warnings as errors."""

from __future__ import annotations

import json
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
NEEDS_CUDA = "# needs a CUDA device\n"


def python_blocks(markdown: str) -> list[str]:
    """Return the blocks fenced as ```python, each below as many empty lines as there are lines above it."""
    return [
        "\n" * markdown.count("\n", 0, block.start(1)) + block[1]
        for block in re.finditer(r"^```python\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    ]


def run_blocks(document: Path, *, cuda: bool) -> None:
    """Run the blocks of a document in order in one namespace, as a reader does who pastes one after the other."""
    names = {"__name__": "__main__"}
    for block in python_blocks(document.read_text()):
        code = compile(block, document, "exec")
        if cuda or not block.lstrip("\n").startswith(NEEDS_CUDA):
            exec(code, names)  # noqa: S102 -- ours


DOCUMENTS = [
    path
    for path in (
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        ROOT / "cpp/README.md",
        ROOT / "CONTRIBUTING.md",
    )
    if python_blocks(path.read_text())
]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep files that an example writes out of the checkout, and let torch.distributed find one process."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_there_are_examples_to_run() -> None:
    assert {"README.md", "get-started.md", "lightning.md"} <= {path.name for path in DOCUMENTS}
    assert EXAMPLES
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_in_order(document: Path) -> None:
    with warnings.catch_warnings():
        if document.parent.name == "trainers":
            warnings.simplefilter("ignore")  # of the trainers
        run_blocks(document, cuda=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_code_of_a_document_stands_outside_of_a_python_block(document: Path) -> None:
    fenced = re.findall(r"^```(.*)$", document.read_text(), re.MULTILINE)
    assert fenced == ["python", ""] * (len(fenced) // 2)
    indented = re.findall(r"^    (?:import|from|for|with|\w+ = ).*$", document.read_text(), re.MULTILINE)
    python = "".join(python_blocks(document.read_text()))
    assert [line for line in indented if line not in python] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name == "ray_train.py":
        pytest.importorskip("ray")
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_prints_what_it_shows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "__main__"}
    for number, cell in enumerate(
        cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
    ):
        exec(compile("".join(cell["source"]), f"{path}, cell {number}", "exec"), names)  # noqa: S102 -- ours
        assert capsys.readouterr().out == "".join(line for output in cell["outputs"] for line in output["text"])


def test_a_block_keeps_its_line_numbers() -> None:
    markdown = "# title\n\n```python\nx = 1\n```\n\n```sh\nmake demo\n```\n\n```python\n\nraise ValueError\n```\n"
    assert python_blocks(markdown) == ["\n" * 3 + "x = 1\n", "\n" * 11 + "\nraise ValueError\n"]


def test_a_block_that_needs_cuda_is_compiled_but_not_run_without_it(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        f"```python\nx = 1\n```\n```python\n{NEEDS_CUDA}raise RuntimeError\n```\n```python\nx += 1\n```\n"
    )
    run_blocks(document, cuda=False)
    with pytest.raises(RuntimeError):
        run_blocks(document, cuda=True)
    document.write_text(f"```python\n{NEEDS_CUDA}x = = 1\n```\n")
    with pytest.raises(SyntaxError):
        run_blocks(document, cuda=False)


def test_a_link_of_a_document_leads_to_a_file_and_a_heading() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), ROOT / "cpp/README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
            file, _, heading = link.partition("#")
            target = document.parent / file if file else document
            assert target.exists(), f"{document.name}: {link}"
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if heading else []
            assert not heading or heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
