"""Runner of the GPU tests and benchmarks (tests/gpu/check.py, benchmarks/gpu), tested on parts that need no GPU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import measure
from benchmarks.report import Report
from gpu import check
from gpu.check import Part, parts, report, run_all


def part(name: str, program: str, seconds: float = 30, **environment: str) -> Part:
    return Part(name, (sys.executable, "-c", program), seconds, environment)


def test_every_part_runs_even_if_others_fail_crash_or_hang(tmp_path: Path) -> None:
    some = [
        part("fails", "print('lost'); raise SystemExit(3)"),
        part("crashes", "import os; os.abort()"),
        part("hangs", "import time; print('begun', flush=True); time.sleep(1000)", seconds=1),
        Part("is missing", ("no-such-tool",), 30),
        part("is refused", "print('========= Error: Device not supported'); raise SystemExit(99)"),
        part("passes", "import os; print('found', os.environ['L2M_GPU_CHECK'], os.environ['ANSWER'])", ANSWER="42"),
    ]
    outcomes = run_all(some, tmp_path / "results")
    assert [(outcome.status, outcome.why) for outcome in outcomes] == [
        ("failed", "exit code 3"),
        ("failed", "exit code -6"),
        ("failed", "stopped after 1 s"),
        ("skipped", "no no-such-tool"),
        ("skipped", f"{sys.executable} does not support this device"),
        ("passed", ""),
    ]
    log = (tmp_path / "results/log.txt").read_text()
    for name, said in (("fails", "lost"), ("hangs", "begun"), ("passes", "found 1 42")):
        assert f"== {name}\n{said}\n" in log
    end = report(outcomes)
    assert "== end of fails\nlost\n" in end
    assert "found 1 42" in end.splitlines()[-1]


def test_a_part_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    program = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
child.wait()
"""
    run_all([part("hangs", program, seconds=5)], tmp_path)
    child = int((tmp_path / "pid").read_text())
    for _ in range(1000):  # until it has been reaped
        try:
            os.kill(child, 0)
            if "State:\tZ" in Path(f"/proc/{child}/status").read_text():
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    pytest.fail("the child of a stopped part still runs")


def test_a_part_without_time_left_fails(tmp_path: Path) -> None:
    outcomes = run_all([part("hangs", "import time; time.sleep(1000)"), part("is late", "pass")], tmp_path, seconds=1)
    assert [outcome.why for outcome in outcomes] == ["stopped after 1 s", "not run: no time left"]
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("raise SystemExit(5)", 1)])
def test_the_exit_code_shows_whether_a_part_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: int
) -> None:
    monkeypatch.setattr(check, "parts", lambda _: [part("one", program), part("other", "pass")])
    assert check.main(tmp_path) == code


def test_the_parts_are_all_test_files_then_benchmarks_then_sanitizers(tmp_path: Path) -> None:
    names = [one.name for one in parts(tmp_path)]
    assert names[-3:] == ["benchmarks", "memcheck", "racecheck"]
    assert names[:-3] == sorted(file.stem for file in (Path(__file__).parent / "gpu").glob("test_*.py"))


def test_a_failing_section_of_the_benchmarks_does_not_stop_the_others(tmp_path: Path) -> None:
    figures = Report()
    written: list[int] = []

    def fails() -> None:
        written.append(len(json.loads((tmp_path / "gpu.json").read_text())["figures"]))
        msg = "no room"
        raise MemoryError(msg)

    sections = {
        "first": lambda: figures.add("first", "time", 1.0, "us"),
        "second": fails,
        "third": lambda: figures.add("third", "time", 2.0, "us"),
    }
    paths = measure(sections, figures, tmp_path / "gpu", {"device": "none"})
    document = json.loads(paths[0].read_text())
    assert written == [1]
    assert [figure["case"] for figure in document["figures"]] == ["first", "third"]
    assert document["missing"] == {"second": "MemoryError: no room"}
    assert document["device"] == "none"
