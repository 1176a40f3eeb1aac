"""Packed files of runs: what they keep, how they are read, and what is refused."""

from __future__ import annotations

import lzma
import math
import re
from pathlib import Path

import pytest

from l2m_experiments import cli, tables
from l2m_experiments.page import markdown
from l2m_experiments.records import pack, read_all, read_studies, write
from l2m_experiments.report import headline, report
from l2m_experiments.results import by_task
from l2m_experiments.user_input import InputError
from made_up_runs import around, run, runs

RUNS = [
    *runs("learn2mix", around(20.123456)),
    *runs("classical", around(25)),
    *runs("learn2mix", around(9), task="a b"),
]


def write_runs(folder: Path) -> Path:
    for record in RUNS:
        write(folder, record)
    return folder


def test_a_packed_file_keeps_every_digit(tmp_path: Path) -> None:
    folder, packed = write_runs(tmp_path / "runs"), tmp_path / "packed" / "study.jsonl.xz"
    assert pack([folder], packed) == len(RUNS)
    assert read_all(packed) == read_all(folder)
    assert read_all(packed.parent) == read_all(folder)
    assert len(lzma.decompress(packed.read_bytes()).splitlines()) == len(RUNS)
    assert headline(read_all(packed)) == headline(read_all(folder))


def test_a_packed_file_keeps_runs_that_diverged(tmp_path: Path) -> None:
    write(tmp_path, run([90, math.nan]))
    pack([tmp_path], tmp_path / "study.jsonl.xz")
    (packed,) = read_studies(tmp_path)["study"]
    assert math.isnan(packed.points[1].test_error)


def test_the_bytes_of_a_packed_file_depend_on_the_runs_only(tmp_path: Path) -> None:
    for i, record in enumerate(RUNS):
        write(tmp_path / f"{i % 2}", record)
    first, second = tmp_path / "first.jsonl.xz", tmp_path / "second.jsonl.xz"
    pack([tmp_path / "0", tmp_path / "1"], first)
    pack([tmp_path / "1", tmp_path / "0"], second)
    assert first.read_bytes() == second.read_bytes()


def test_runs_are_added_to_a_packed_file(tmp_path: Path) -> None:
    packed = tmp_path / "study.jsonl.xz"
    pack([write_runs(tmp_path / "runs")], packed)
    write(tmp_path / "more", run([90, 20], "balanced"))
    assert pack([packed, tmp_path / "more"], packed) == len(RUNS) + 1
    assert len(read_all(packed)) == len(RUNS) + 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["study.jsonl.xz"]


def test_every_packed_file_is_a_study_of_its_own_in_the_report(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    pack([folder], folder / "one.jsonl.xz")
    assert {study: len(records) for study, records in read_studies(folder).items()} == {"": len(RUNS), "one": len(RUNS)}
    names = {path.name for path in report(folder, tmp_path / "out")}
    assert names >= {"summary.csv", "overview.png", "one-overview.png", "curves.png", "one-curves.png"}
    text = (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8")
    assert [line.removeprefix("one,") for line in text.splitlines() if line.startswith("one,")] == [
        line.removeprefix(",") for line in text.splitlines() if line.startswith(",")
    ]


def test_a_packed_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "study.jsonl.xz"
    pack([write_runs(tmp_path / "runs")], packed)
    content = packed.read_bytes()
    packed.write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"study\.jsonl\.xz is not a complete xz file"):
        read_all(packed)
    packed.write_bytes(lzma.compress(lzma.decompress(content)[:-20]))
    with pytest.raises(InputError, match=rf"line {len(RUNS)} of .*study\.jsonl\.xz is not a complete record"):
        read_all(tmp_path)
    packed.write_bytes(lzma.compress(b""))
    with pytest.raises(InputError, match="has no runs"):
        read_all(packed)


def test_a_run_that_is_given_twice_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    with pytest.raises(InputError, match=r"every run must be given once \(got a b, learn2mix, seed 0 twice\)"):
        pack([folder, folder], tmp_path / "study.jsonl.xz")
    with pytest.raises(InputError, match=r"must be named STUDY\.jsonl\.xz \(got 'study\.json'"):
        pack([folder], tmp_path / "study.json")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_command_packs_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, packed = write_runs(tmp_path / "runs"), tmp_path / "study.jsonl.xz"
    assert cli.main(["pack", str(folder), "--out", str(packed)]) == 0
    assert capsys.readouterr().out == f"written: {packed}, {len(RUNS)} runs\n"
    assert read_all(packed) == read_all(folder)
    assert cli.main(["pack", str(folder), "--out", str(tmp_path)]) == 2
    assert "must be named STUDY.jsonl.xz" in capsys.readouterr().err


# ---- the committed runs

DOCS = Path(__file__).parents[2] / "docs" / "results"


def test_the_committed_report_is_that_of_the_committed_runs() -> None:
    """All of docs/results but its README is written by `l2m-experiments report docs/results/runs --out docs/results`."""
    studies = {study: by_task(records) for study, records in read_studies(DOCS / "runs").items()}
    written = (DOCS / "summary.csv").read_text(encoding="utf-8").splitlines()
    for line, expected in zip(written, tables.summary(studies).splitlines(), strict=True):
        for cell, value in zip(line.split(","), expected.split(","), strict=True):
            assert cell == value or float(cell) == pytest.approx(float(value), rel=1e-3)
    report, readme = ((DOCS / name).read_text(encoding="utf-8") for name in ("report.md", "README.md"))
    assert all(markdown([tables.headline(results)]) in report for results in studies.values())
    for study in ("held-out", "correction", "methods"):
        assert markdown([tables.headline(studies[study])]) in readme


def test_the_documentation_shows_the_committed_figures_and_no_others() -> None:
    shown = re.findall(r"\(([^()]*\.png)\)", (DOCS / "report.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in DOCS.glob("*.png"))
    assert len(shown) <= 4 * len(list((DOCS / "runs").iterdir()))
    assert all((DOCS / name).stat().st_size < 60_000 for name in shown)
