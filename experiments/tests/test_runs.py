"""Budgets, plans, runs and their records, and the command `l2m-experiments run`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from l2m_experiments import cli, records, runs, studies, tasks
from l2m_experiments.method import Method
from l2m_experiments.methods import METHODS, Classical, Learn2Mix
from l2m_experiments.records import Config, Record
from l2m_experiments.runs import Budget
from l2m_experiments.training import train
from l2m_experiments.user_input import InputError
from made_up_task import options_of, task_of

pytestmark = pytest.mark.usefixtures("one_torch_thread")


# ---- budgets, plans and records


@pytest.mark.parametrize("text", ["", "epoch", "epochs=0", "epochs=-1", "epochs=1.5", "seconds=0", "seconds=nan",
                                  "seconds=inf", "seconds=", "epochs=", "seconds=-2", "hours=1"])  # fmt: skip
def test_a_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="budget must be epochs, seconds"):
        Budget.parse(text)


def test_a_budget_replaces_that_of_the_protocol() -> None:
    task = task_of(epochs=5, seconds=0.5)
    assert Budget.parse("epochs").apply(task) == task
    assert Budget.parse("epochs=7").apply(task).protocol == replace(task.protocol, epochs=7)
    assert Budget.parse("seconds=0.25").apply(task).protocol == replace(task.protocol, seconds=0.25)
    assert Budget.parse("seconds").kind == "seconds"


def pairs() -> list[runs.Pair]:
    return [(task_of(name), make) for name, make in product(("one", "two"), (Learn2Mix, Classical))]


def test_runs_are_planned_by_seed_first_and_executed_once(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    planned = runs.plan(pairs(), options)
    assert [(run.config.seed, run.config.task, run.config.method) for run in planned.runs] == [
        *product((0, 1), ("one", "two"), ("learn2mix", "classical"))
    ]
    runs.execute(planned, options)
    assert len(records.read_all(tmp_path)) == 8
    assert runs.plan(pairs(), options) == runs.Plan((), 8, ())
    more = runs.plan(pairs(), replace(options, seeds=3))
    assert (len(more.runs), more.finished) == (4, 8)


def test_an_interrupted_command_resumes_with_the_missing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the sixth run leaves five complete records and no other files."""
    options = options_of(tmp_path)
    begun: list[None] = []

    def train_until_interrupted(*arguments: Any) -> tuple[float, tuple[records.Point, ...]]:
        begun.append(None)
        if len(begun) == 6:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr("l2m_experiments.runs.train", train_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(runs.plan(pairs(), options), options)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"] * 5
    assert len(runs.plan(pairs(), options).runs) == 3


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    options = options_of(tmp_path, seeds=1)
    task = replace(task_of(), paper={"E": {"classical": (1.5, 0.25)}})
    runs.execute(runs.plan([(task, Learn2Mix)], options), options)
    (record,) = records.read_all(tmp_path)
    assert record.config == Config("made-up", "learn2mix", 0, "quick", "epochs", 5, 0.05, 10, 1e-2, 0.1, "adam", "cpu")
    assert (record.class_sizes, record.test_class_sizes) == ((60, 30, 10), (20, 20, 20))
    assert record.paper == {"E": {"classical": (1.5, 0.25)}}
    assert {"date", "commit", "cpu", "torch", "l2m_fast", "threads"} <= set(record.environment)
    again = tmp_path / "again"
    assert records.read(records.write(again, record)) == record
    diverged = replace(
        record, points=(replace(record.points[0], test_error=math.nan, class_errors=(1.0, math.inf, 2.0)),)
    )
    (point,) = records.read(records.write(again, diverged)).points
    assert math.isnan(point.test_error)
    assert point.class_errors[::2] == (1.0, 2.0)
    assert math.isnan(point.class_errors[1])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"points": 3}', '{"points": {"epoch": [1]}}'])
def test_a_truncated_record_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "one" / "classical" / "seed-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(InputError, match=r"seed-0\.json is not a complete record"):
        records.read_all(tmp_path)
    with pytest.raises(InputError, match=r"seed-0\.json is not a complete record"):
        runs.plan(pairs(), options_of(tmp_path))


def test_a_folder_of_another_configuration_is_refused_and_kept(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    runs.execute(runs.plan(pairs(), options), options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(InputError, match=r"has another configuration: epochs 5 \(wanted 6\); .*are kept"):
        runs.plan(pairs(), options_of(tmp_path, "epochs=6"))
    with pytest.raises(InputError, match=r"budget 'epochs' \(wanted 'seconds'\)"):
        runs.plan(pairs(), options_of(tmp_path, "seconds"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_plans_refuse_pairs_that_make_no_sense(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    regression = replace(task_of(), kind="regression")
    planned = runs.plan([(regression, METHODS["focal"]), (regression, Classical)], options)
    assert [refused[:2] for refused in planned.refused] == [("made-up", "focal")]
    assert len(planned.runs) == 2
    with pytest.raises(InputError, match="focal makes no sense on made-up: the focal loss needs"):
        runs.plan([(regression, METHODS["focal"])], options)
    with pytest.raises(InputError, match=r"seeds must be at least 1 \(got 0\)"):
        runs.plan(pairs(), replace(options, seeds=0))
    with pytest.raises(InputError, match=r"num_threads must be at least 1 \(got 0\)"):
        runs.plan(pairs(), replace(options, num_threads=0))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = options_of(tmp_path / "file")
    with pytest.raises(InputError, match=r"runs cannot be written to .*file"):
        runs.plan(pairs(), options)
    with pytest.raises(InputError, match="cannot be looked up: File name too long"):
        runs.plan(pairs(), options_of(tmp_path / ("long" * 100)))


def test_runs_that_another_process_finished_are_skipped(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    planned = runs.plan(pairs(), options)
    runs.execute(planned, options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    runs.execute(planned, options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


# ---- the command


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["run", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_lists_skipped_pairs_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("mean-estimation", "--methods", "classical,focal", "--seeds", "2", "--budget", "epochs=2", "--out")
    code, out, err = command(*arguments, str(tmp_path), capsys=capsys)
    assert code == 0
    assert "skipped: focal on mean-estimation: the focal loss needs" in out
    assert "2 runs to do, 0 already finished" in out
    assert [line.split(";")[0] for line in err.splitlines()] == [
        f"run {i + 1} of 2 done: mean-estimation, classical, seed {i}" for i in range(2)
    ]
    code, out, err = command(*arguments, str(tmp_path), capsys=capsys)
    assert (code, err) == (0, "")
    assert "0 runs to do, 2 already finished" in out
    written = json.loads((tmp_path / "mean-estimation" / "classical" / "seed-1.json").read_text())
    assert written["config"]["seed"] == 1
    assert written["points"]["epoch"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit",), "there is no task 'digit'; did you mean digits?"),
        (("--methods", "learn2mixx"), "there is no method 'learn2mixx'; did you mean learn2mix?"),
        (("--methods", ""), "there is no method ''"),
        (("--study", "imbalanced"), "there is no study 'imbalanced'; did you mean imbalance?"),
        (("--budget", "epochs=0"), "budget must be"),
        (("--seeds", "0"), "seeds must be at least 1 (got 0)"),
        (("mean-estimation", "--methods", "focal"), "focal makes no sense on mean-estimation"),
        (("mean-estimation", "--study", "shift"), "study 'shift' is for classification"),
    ],
)
def test_a_bad_argument_is_refused_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(*arguments, "--out", str(tmp_path / "runs"), capsys=capsys)
    assert code == 2
    assert err.startswith("l2m-experiments run: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command("--device", "cuda", capsys=capsys)
    assert code == 2
    assert "device cuda needs a GPU" in err


def test_the_list_names_every_task_method_and_study(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command("--list", capsys=capsys)
    assert code == 0
    for name in (*tasks.TASKS, *METHODS, *studies.STUDIES):
        assert f"  {name}" in out


def test_each_run_has_a_new_method(tmp_path: Path) -> None:
    made: list[Method] = []

    def make() -> Method:
        made.append(Classical())
        return made[-1]

    options = options_of(tmp_path)
    planned = runs.plan([(task_of(), make)], options)
    before = len(made)
    runs.execute(planned, options)
    assert len(made) == before + 2


def test_all_records_are_read_in_the_order_of_task_method_and_seed(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    runs.execute(runs.plan(pairs(), options), options)
    found: list[Record] = records.read_all(tmp_path)
    assert [(r.config.task, r.config.method, r.config.seed) for r in found] == [
        *product(("one", "two"), ("classical", "learn2mix"), (0, 1))
    ]
    with pytest.raises(InputError, match="does not exist or cannot be read"):
        records.read_all(tmp_path / "elsewhere")
