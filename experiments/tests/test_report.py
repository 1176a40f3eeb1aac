"""The report as a whole on made-up runs, and the runs it refuses."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from l2m_experiments import cli, figures, tables
from l2m_experiments.records import Record, write
from l2m_experiments.results import by_task
from l2m_experiments.user_input import InputError
from made_up_runs import around, only, run, runs


class _Page(HTMLParser):
    """Parser that checks the nesting of elements, and keeps tags, images and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


ODD = "<b>odd & \"quoted\" 'too' | $x^$ *"  # without a slash, since it is the name of a folder


def write_runs(folder: Path) -> None:
    """Write runs of tasks with 2 to 100 classes, of every kind, one diverged, one a study of variants, with odd names."""
    records = [
        *runs("learn2mix", around(20), task=f"two {ODD}", paper={"E": {"learn2mix": (80.0, 1.0)}}),
        *runs("classical", around(25), task=f"two {ODD}"),
        *runs("curriculum", around(25), task=f"two {ODD}", warm_up=1.5),
        *runs("learn2mix", around(2), task="squares", kind="regression", names=("red", ODD), learned=1.0),
        *runs("classical", [*around(2, 2), [9.0, math.nan]], task="squares", kind="regression", names=("red", ODD), learned=1.0),
        *(
            record
            for method in ("learn2mix mixing_rate=0.1", "learn2mix mixing_rate=0.5", "classical")
            for record in runs(method, around(20, 2), task=ODD, names=[*map(str, range(100))])
        ),
        run([math.nan, math.nan], task="lost", kind="reconstruction"),
    ]  # fmt: skip
    for record in records:
        write(folder, record)


def test_a_report_is_complete_and_its_page_is_self_contained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_runs(tmp_path / "runs")
    out = tmp_path / "a" / "b"
    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    written = [Path(line.removeprefix("written: ")) for line in capsys.readouterr().out.splitlines()]
    assert sorted(written) == sorted(out.iterdir())

    text = (out / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.tags.isdisjoint({"a", "b", "link", "script", "iframe"})
    assert "http" not in text
    assert ODD in page.text
    pngs = {path.name: path.read_bytes() for path in written if path.suffix == ".png"}
    kind, contents = zip(*(image.split(",") for image in page.images), strict=True)
    assert set(kind) == {"data:image/png;base64"}
    assert {base64.b64decode(content) for content in contents} == set(pngs.values())
    assert all(png.startswith(b"\x89PNG") for png in pngs.values())

    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^!\[.*\]\((.*)\)$", markdown, re.MULTILINE)) == set(pngs)
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for said in ("are not valid: the final test error of classical training", "training was not run"):
        assert said in page.text
        assert said in markdown


def test_a_report_is_written_beside_the_runs_by_default_and_a_second_one_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, run([90, 20]))
    assert cli.main(["report", str(tmp_path)]) == 0
    first = (tmp_path / "report" / "report.md").read_bytes()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "report.md").read_bytes() == first


def test_fourteen_methods_have_different_lines() -> None:
    lines = figures.lines_of([only(*(run([9, 8], f"method {i}") for i in range(14)))])
    assert len(set(lines.values())) == 14


def test_the_first_figure_shows_every_advantage_within_its_axes() -> None:
    records = [*runs("learn2mix", around(20)), *runs("classical", around(25)), *runs("balanced", around(2))]
    task = only(*records, *runs("focal", [[90.0, 50.0, math.nan]] * 2))
    drawn = figures.overview([task], figures.lines_of([task]))
    assert drawn is not None
    at_the_end = drawn.axes[1]
    found = {float(y[0]): float(x[0]) for x, y in (c[0].get_data() for c in at_the_end.containers)}
    assert found == pytest.approx({1: 20, 2: -900})  # rows after that of the task: classical, balanced; focal diverged
    low, high = at_the_end.get_xlim()
    assert low < -900 < 20 < high


def test_a_method_that_is_much_slower_does_not_squeeze_the_others() -> None:
    task = only(run([90, 20]), run([90, 20, 10], "classical", seconds=50))
    drawn = figures.curves([task], figures.lines_of([task]))
    assert drawn.axes[1].get_xlim()[1] < 2.1


# ---- bad input


def fails_with(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run the command, which must end with exit code 2 and one line on standard error, and return that line."""
    assert cli.main(["report", str(folder), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("l2m-experiments report")
    assert err.count("\n") == 1
    return err


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} has no runs" in fails_with(tmp_path, capsys)
    assert "nowhere does not exist" in fails_with(tmp_path / "nowhere", capsys)


def test_a_record_that_is_cut_short_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, run([90, 20]))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert f"{path} is not a complete record" in fails_with(tmp_path, capsys)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: run([9, 8], "focal", learning_rate=0.1), "learning_rate 0.1 (wanted 0.001)"),
        (lambda: run([9, 8], task="two", preset="paper"), "preset 'paper' (wanted 'quick')"),
        (lambda: run([9, 8], task="two", budget="seconds"), "budget 'seconds' (wanted 'epochs')"),
        (lambda: run([9, 8], task="two", device="cuda"), "device 'cuda' (wanted 'cpu')"),
        (lambda: run([9, 8], "focal", kind="regression"), "kind 'regression' (wanted 'classification')"),
        (lambda: run([9, 8], "focal", names=("a", "b")), "class_names ('a', 'b') (wanted ('0', '1'))"),
        (lambda: run([9, 8], "focal", learned=1.0), "learned 1.0 (wanted 30.0)"),
        (lambda: run([9], "focal"), "a run must have at least one epoch"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    other: Callable[[], Record], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in (run([9, 8], "classical"), other()):
        write(tmp_path, record)
    error = fails_with(tmp_path, capsys)
    assert message in error
    assert other().config.method in error


def test_tasks_may_differ_in_their_protocols() -> None:
    assert len(by_task([run([9, 8]), run([9, 8], task="two", learning_rate=0.1, epochs=9, batch_size=3)])) == 2


def test_two_records_of_one_run_are_refused() -> None:
    with pytest.raises(InputError, match=r"must have its own seed \(got two runs of one seed, seeds \[0, 0\]\)"):
        by_task([run([9, 8]), run([9, 8])])


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, run([90, 20]))
    (tmp_path / "file").touch()
    assert "cannot be written" in fails_with(tmp_path, capsys, "--out", str(tmp_path / "file"))


def test_the_gain_is_split_into_loader_and_method() -> None:
    """In the authors' program, classical training gets 3 epochs on this task in the time of 4 with Learn2Mix."""
    falling = [90.0, 60.0, 50.0, 40.0, 20.0]
    better = [90.0, 55.0, 45.0, 35.0, 10.0]
    task = only(
        *runs("learn2mix", [better, better], task="mnist"), *runs("classical", [falling, falling], task="mnist")
    )
    table = tables.loader_share(task)
    assert table is not None
    assert [[cell.removesuffix(" ± 0.00") for cell in row] for row in table.rows] == [
        ["0.25 E (epoch 1)", "32.50", "40.00", "45.00", "7.50", "5.00"],  # 3 / 4 of the way from 10 to 40
        ["0.5 E (epoch 2)", "45.00", "50.00", "55.00", "5.00", "5.00"],
        ["E (epoch 4)", "60.00", "80.00", "90.00", "20.00", "10.00"],
    ]


def test_the_gain_is_not_split_if_the_loaders_are_equally_fast_or_a_method_was_not_run() -> None:
    for task, method in (("cifar10", "classical"), ("digits", "classical"), ("mnist", "balanced")):
        records = [*runs("learn2mix", around(20), task=task), *runs(method, around(20), task=task)]
        assert tables.loader_share(only(*records)) is None
