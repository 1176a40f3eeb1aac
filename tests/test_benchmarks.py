"""The program `python -m benchmarks`, the page of a run, the comparison of two, and the tables; nothing here is timed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import _testing
from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.page import page
from benchmarks.race import Spread
from benchmarks.report import RESULTS_DIR, Goal, Report
from benchmarks.tables import rounded, tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """Return a run with four figures."""
    report = Report()
    report.add("a <case>", "rival", Spread(100.0, 90.0, 110.0), "rows/s")
    report.add("a <case>", "l2m_fast", Spread(4000.0, 3900.0, 4100.0), "rows/s")
    report.add("a <case>", "l2m_fast vs rival", Spread(40.0, 39.0, 41.0), "x", Goal(at_least=50))
    report.add("another", "time", 7.0, "us", Goal(at_most=8))
    report.miss("slow & steady", "No module named 'steady'")
    paths = report.write(tmp_path / "run")
    assert [path.name for path in paths] == ["run.json", "run.html"]
    read: dict[str, Any] = json.loads(paths[0].read_text())
    assert paths[1].read_text() == page(read)
    return read


class Text(HTMLParser):
    """Text of a page. The parser checks that tags are closed in order."""

    VOID = ("meta", "rect", "line")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.attributes: list[str | None] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == ["html"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_every_figure_and_is_self_contained(document: dict[str, Any]) -> None:
    html = page(document)
    shown = Text(html)
    assert shown.attributes == []
    for words in ("a <case>", "4,000 rows/s", "3,900 .. 4,100", ">= 50 missed", "<= 8 met", "slow & steady"):
        assert words in shown.text
    assert html.count("<rect") == 2  # ratios and single figures have no bars


def changed(document: dict[str, Any], figure: int, factor: float) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    for key in ("median", "low", "high"):
        copy["figures"][figure][key] *= factor
    return copy


def test_a_comparison_shows_the_figures_that_changed_beyond_the_quartiles(document: dict[str, Any]) -> None:
    assert compare(document, document) == "0 of 4 figures changed beyond their quartiles"
    assert "0 of 4" in compare(document, changed(document, 1, 1.05))
    text = compare(document, changed(document, 1, 1.1))
    assert "1 of 4" in text
    assert "4000 rows/s" in text
    assert "4400 rows/s" in text
    assert "1.10" in text
    other = changed(document, 0, 1.0)
    other["figures"].pop()
    other["cpu"] = "another"
    text = compare(document, other)
    assert "only in the old run: 1" in text
    assert "different machines" in text


def test_the_command_compares(document: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    del document
    run = str(tmp_path / "run.json")
    assert main(["--compare", run, run]) == 0
    assert "0 of 4 figures changed" in capfd.readouterr().out


@pytest.mark.parametrize("content", [None, "[1]", "{}", "no json"])
def test_the_command_refuses_a_file_without_a_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert main(["--compare", str(path), str(path)]) == 2
    assert capfd.readouterr().err.startswith("benchmarks: ")


def test_the_documents_show_the_tables_of_the_committed_result() -> None:
    document = json.loads((RESULTS_DIR / "full.json").read_text())
    in_readme, *in_docs = tables(document)
    assert in_readme in (ROOT / "README.md").read_text()
    assert all(table in (ROOT / "docs/benchmarks.md").read_text() for table in in_docs)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00456, "0.0046"), (0.996, "1"), (3.449, "3.4"), (9.94, "9.9"), (9.96, "10"), (46.2, "46"), (1524.4, "1,524")],
)
def test_tables_have_two_significant_digits(value: float, text: str) -> None:
    assert rounded(value) == text


def test_the_command_prints_tables(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--tables", str(RESULTS_DIR / "full.json")]) == 0
    assert "| FFCV | 1.1 | 2.1 | 1.8 |" in capfd.readouterr().out


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_shuffle_that_is_timed_has_every_row_once(num_classes: int) -> None:
    classes = np.arange(100, dtype=np.int16) % num_classes
    shuffled = _testing.Pass(None if num_classes == 1 else classes, num_classes, len(classes))
    shuffled.shuffle(0, 0, 1)
    rows = np.asarray(cast("Any", shuffled))
    assert sorted(rows) == list(range(len(classes)))
    assert sorted(classes) == list(classes[rows])
    assert list(rows) != sorted(rows, key=lambda row: (classes[row], row))
