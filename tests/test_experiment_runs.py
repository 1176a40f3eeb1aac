"""`l2m-fast experiment`: what a run records, what is refused, and how a stopped one goes on."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

from l2m_fast import cli
from l2m_fast.experiments import studies, tasks
from l2m_fast.experiments.methods import METHODS, Batches, Classical, Start, method
from l2m_fast.experiments.task import Kind, Protocol, Rows, Task, TaskData
from l2m_fast.experiments.training import OPTIMIZERS, Budget, train

SIZES, TEST_ROWS, BATCH = (30, 12, 9), 20, 10
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(sizes: tuple[int, ...], kind: Kind, rng: np.random.Generator) -> Rows:
    classes = torch.from_numpy(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    inputs = torch.from_numpy(rng.normal(size=(len(classes), 4))).float() + 2 * classes[:, None]
    targets = {"classification": classes, "regression": inputs.sum(dim=1), "reconstruction": None}
    return Rows(inputs, classes, targets[kind])


def tiny(kind: Kind = "classification", **protocol: Any) -> Task:
    def load(seed: int) -> TaskData:
        rng = np.random.default_rng(seed)
        return TaskData(rows_of(SIZES, kind, rng), rows_of((TEST_ROWS,) * 3, kind, rng), ("a", "b", "c"), "made up")

    outputs = {"classification": 3, "regression": 1, "reconstruction": 4}[kind]
    return Task(
        "tiny",
        kind,
        "three clouds",
        load,
        lambda _: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, outputs)),
        lambda inputs: inputs,
        replace(Protocol(BATCH, 0.01, 0.1, epochs=3, seconds=0.02), **protocol),
        learned=50.0,
    )


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "tiny", lambda _: tiny())
    monkeypatch.setitem(tasks.TASKS, "tiny-regression", lambda _: replace(tiny("regression"), name="tiny-regression"))


def run(out: Path, *arguments: str, task: str = "tiny", methods: str | None = "learn2mix,classical") -> int:
    given = [] if methods is None else ["--methods", methods]
    return cli.main(["experiment", task, *given, "--device", "cpu", "--out", str(out), *arguments])


def fails_with(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str, **given: Any) -> str:
    """Runs the command, which must end with code 2 and one line on standard error; returns that line."""
    assert run(out, *arguments, **given) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.count("\n") == 1
    assert err.startswith("l2m-fast experiment: ")
    return err


def contents(out: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(out)): json.loads(path.read_text()) for path in sorted(out.rglob("*")) if path.is_file()
    }


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    record = copy.deepcopy(record)
    for part in (record, *record["epochs"]):
        for key in [key for key in part if key.endswith("_seconds")]:
            del part[key]
    return record


def trained(task: Task, name: str = "classical", seed: int = 0, budget: Budget | None = None) -> dict[str, Any]:
    budget = Budget("epochs", task.protocol.epochs) if budget is None else budget
    return train(task, method(name), task.load(seed), seed, budget, CPU, lambda _: None)


# ---- what a run records


def test_a_record_a_run_with_all_that_is_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--seeds", "2") == 0
    out, err = capsys.readouterr()
    assert str(tmp_path) in out
    # Seed by seed, so that an early stop leaves whole comparisons.
    order = [("learn2mix", 0), ("classical", 0), ("learn2mix", 1), ("classical", 1)]
    assert [line.split(";")[0] for line in err.splitlines()] == [
        f"run {i + 1} of 4 done: tiny, {name}, seed {seed}" for i, (name, seed) in enumerate(order)
    ]
    found = contents(tmp_path)
    assert set(found) == {f"tiny/{name}/seed-{seed}.json" for name, seed in order}
    record = found["tiny/learn2mix/seed-1.json"]
    assert record["config"] == {
        "task": "tiny",
        "method": "learn2mix",
        "seed": 1,
        "preset": "quick",
        "budget": {"epochs": 3},
        "batch_size": BATCH,
        "learning_rate": 0.01,
        "optimizer": "adam",
        "mixing_rate": 0.1,
        "device": "cpu",
        "threads": 1,
        "steps_per_epoch": sum(SIZES) // BATCH,
        "class_sizes": list(SIZES),
        "data_source": "made up",
    }
    assert set(record["versions"]) == {"python", "l2m-fast", "numpy", "torch"}
    assert record["cpu"]
    assert (record["kind"], record["learned"], record["class_names"]) == ("classification", 50, ["a", "b", "c"])
    before, *epochs = record["epochs"]
    assert len(epochs) == 3
    assert before["data_seconds"] == before["compute_seconds"] == 0
    assert before["proportions"] == epochs[0]["proportions"] == pytest.approx(np.array(SIZES) / sum(SIZES))
    assert epochs[1]["proportions"] != epochs[0]["proportions"]
    for epoch in epochs:
        assert epoch["data_seconds"] > 0
        assert epoch["compute_seconds"] > 0
        assert sum(epoch["proportions"]) == pytest.approx(1)
        assert np.mean(epoch["test_class_errors"]) == pytest.approx(epoch["test_error"])  # a balanced test set
    assert epochs[-1]["test_error"] < before["test_error"]


def test_all_methods_begin_with_the_same_model_and_the_same_seed_repeats_a_run() -> None:
    runs = {name: trained(tiny(), name) for name in METHODS}
    for name in METHODS:
        assert without_seconds(runs[name])["epochs"][0]["train_loss"] == runs["classical"]["epochs"][0]["train_loss"]
        assert without_seconds(runs[name]) == without_seconds(trained(tiny(), name))
    assert without_seconds(runs["classical"]) != without_seconds(trained(tiny(), seed=1))


@pytest.mark.parametrize("kind", ["classification", "regression", "reconstruction"])
def test_errors_are_those_of_the_model_in_evaluation(kind: Kind) -> None:
    models: list[nn.Module] = []
    task = tiny(kind)

    def model(data: TaskData) -> nn.Module:
        models.append(task.model(data))
        return models[-1]

    task_seen = replace(task, model=model)
    last = trained(task_seen)["epochs"][-1]
    data = task.load(0)
    outputs = models[-1].eval()(data.test.inputs).detach().double().numpy()
    if kind == "classification":
        errors = 100.0 * (outputs.argmax(axis=1) != data.test.classes.numpy())
    else:
        wanted = data.test.inputs if data.test.targets is None else data.test.targets[:, None]
        errors = ((outputs - wanted.double().numpy()) ** 2).sum(axis=1)
    assert last["test_error"] == pytest.approx(errors.mean(), rel=1e-5)
    of_classes = [errors[data.test.classes.numpy() == k].mean() for k in range(3)]
    assert last["test_class_errors"] == pytest.approx(of_classes, rel=1e-5)


def test_a_budget_of_seconds_ends_with_the_epoch_that_uses_it_up() -> None:
    shares: list[float] = []
    budget = Budget("seconds", 0.02)
    task = tiny()
    epochs = train(task, Classical(), task.load(0), 0, budget, CPU, shares.append)["epochs"]
    seconds = np.cumsum([epoch["data_seconds"] + epoch["compute_seconds"] for epoch in epochs])
    assert seconds[-1] >= 0.02 > seconds[-2]
    assert shares == pytest.approx(np.minimum(seconds[1:] / 0.02, 1))


def test_a_warm_up_gives_the_losses_after_classical_training_and_changes_nothing() -> None:
    losses: list[torch.Tensor] = []

    class WarmedUp(Classical):
        def batches(self, start: Start) -> Batches:
            losses.append(start.fit())
            return super().batches(start)

    task = tiny()
    data = task.load(0)
    warmed_up = train(task, WarmedUp(), data, 0, Budget("epochs", 3), CPU, lambda _: None)
    classical = trained(task)
    assert losses[0].shape == (sum(SIZES),)
    # There are more test rows than training rows, so that the training loss is over all of them.
    assert losses[0].mean().item() == pytest.approx(classical["epochs"][-1]["train_loss"])
    assert without_seconds(warmed_up) == without_seconds(classical)
    assert warmed_up["warm_up_seconds"] > 0


def test_a_run_that_diverges_is_recorded_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(tiny("regression", learning_rate=1e30, optimizer="sgd"), name="tiny")
    monkeypatch.setitem(tasks.TASKS, "tiny", lambda _: task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the loader's, of losses that are not finite
        assert run(tmp_path, "--seeds", "1", methods="learn2mix") == 0
    text = (tmp_path / "tiny/learn2mix/seed-0.json").read_text()
    last = json.loads(text, parse_constant=pytest.fail)["epochs"][-1]  # NaN is no JSON
    assert last["test_error"] is last["train_error"] is last["train_loss"] is None
    assert last["test_class_errors"] == [None] * 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_learns(name: Any) -> None:
    epochs = trained(tiny(optimizer=name))["epochs"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]


# ---- going on


def test_finished_runs_are_kept_and_the_rest_is_as_if_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, "--seeds", "2") == 0
    assert run(parts, "--seeds", "1") == 0
    first = {path: path.read_bytes() for path in parts.rglob("*.json")}
    (parts / "tiny/learn2mix/seed-1.json.partial").write_text("{")  # of a process that was killed
    capsys.readouterr()
    assert run(parts, "--seeds", "2") == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "2 of 4 runs are there already"
    assert len(err) == 3
    assert all(path.read_bytes() == content for path, content in first.items())
    assert {name: without_seconds(record) for name, record in contents(parts).items()} == {
        name: without_seconds(record) for name, record in contents(whole).items()
    }


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_an_interrupt_keeps_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Classical, "objective", _interrupt)
    threads = torch.get_num_threads()
    assert run(tmp_path, "--seeds", "2", "--num-threads", "2") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "l2m-fast: interrupted"
    assert list(contents(tmp_path)) == ["tiny/learn2mix/seed-0.json"]
    assert torch.get_num_threads() == threads


def test_an_interrupt_while_a_record_is_written_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", _interrupt)
    assert run(tmp_path, "--seeds", "1") == 130
    assert contents(tmp_path) == {}


def test_records_of_another_configuration_are_named_with_every_key_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "--seeds", "1", methods="learn2mix") == 0
    before = contents(tmp_path)
    capsys.readouterr()
    monkeypatch.setitem(tasks.TASKS, "tiny", lambda _: tiny(batch_size=5))
    # Of other methods too: they would be compared with each other.
    err = fails_with(capsys, tmp_path, "--budget", "epochs=2", "--num-threads", "2", methods="classical")
    assert str(tmp_path / "tiny/learn2mix/seed-0.json") in err
    for said in ('budget {"epochs": 3} (here {"epochs": 2})', "batch_size 10 (here 5)", "threads 1 (here 2)"):
        assert said in err
    assert "steps_per_epoch 5 (here 10)" in err
    assert "learning_rate" not in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["", '{"config": {', "[]", "{}"])
def test_a_broken_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = tmp_path / "tiny/smote/seed-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert str(path) in fails_with(capsys, tmp_path)
    assert path.read_text() == content


# ---- what is refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((["--budget", budget], f"got '{budget}'") for budget in ("epochs=0", "epochs=-1", "epochs=1.5", "epochs=",
          "seconds=0", "seconds=nan", "seconds=inf", "seconds=x", "minutes=3", "")),
        (["--seeds", "0"], "seeds must be at least 1 (got 0)"),
        (["--num-threads", "0"], "num_threads must be at least 1 (got 0)"),
        (["tinny"], "did you mean tiny?"),
        (["--methods", "classical,learn2mx"], "did you mean learn2mix?"),
        (["--study", "imbalence"], "did you mean imbalance?"),
        (["tiny-regression", "--methods", "classical,focal"], "focal makes no sense on tiny-regression"),
    ],
)  # fmt: skip
def test_bad_input_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    if not arguments[0].startswith("-"):
        arguments = ["--seeds", "1", *arguments[1:]] if len(arguments) > 1 else arguments
    name = {"tinny": "tinny"}.get(arguments[0], "tiny-regression" if "tiny-regression" in said else "tiny")
    options = [argument for argument in arguments if argument != "tinny"]
    assert said in fails_with(capsys, tmp_path, *options, task=name)
    assert contents(tmp_path) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "device must be auto or cpu" in fails_with(capsys, tmp_path, "--device", "cuda")


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert f"cannot write to the folder {tmp_path / 'file'}" in fails_with(capsys, tmp_path / "file")


@pytest.mark.parametrize("methods", ["all", None])
def test_all_methods_leave_out_what_makes_no_sense_and_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: str | None
) -> None:
    assert run(tmp_path, "--seeds", "1", "--budget", "epochs=1", task="tiny-regression", methods=methods) == 0
    task = tasks.task("tiny-regression", "quick")
    refused = {name: method(name).refusal(task) for name in METHODS}
    err = capsys.readouterr().err
    for name, reason in refused.items():
        there = (tmp_path / f"tiny-regression/{name}/seed-0.json").exists()
        assert there == (reason is None)
        assert (f"left out: {name} makes no sense on tiny-regression: {reason}\n" in err) == (reason is not None)
    assert any(refused.values())


# ---- studies


@pytest.mark.parametrize("study", studies.STUDIES)
def test_each_study_runs_and_its_names_tell_its_variants_apart(tmp_path: Path, study: str) -> None:
    assert run(tmp_path, "--study", study, "--seeds", "1", "--budget", "epochs=2", methods=None) == 0
    planned = studies.plan(["tiny"], None, "quick", study)
    runs = [(task.name, of_task.name) for task, of_tasks in planned for of_task in of_tasks]
    assert len(set(runs)) == len(runs) > 3
    records = contents(tmp_path).values()
    assert sorted((record["config"]["task"], record["config"]["method"]) for record in records) == sorted(runs)


def sizes_of(rows: Rows) -> list[int]:
    return torch.bincount(rows.classes).tolist()


def test_imbalance_thins_the_training_set_alone_and_as_little_as_it_can() -> None:
    for task, _ in studies.imbalance(tiny(), []):
        ratio = float(task.name.partition("imbalance=")[2])
        data = task.load(0)
        assert sizes_of(data.test) == [TEST_ROWS] * 3
        shares = [1, ratio**-0.5, 1 / ratio]
        most = min(size / share for size, share in zip(SIZES, shares, strict=True))
        assert sizes_of(data.train) == [max(1, round(most * share)) for share in shares]


def test_a_shift_turns_class_shares_around() -> None:
    by_name = {task.name: (task, methods) for task, methods in studies.shift(tiny(), [Classical()])}
    sizes = {name: (sizes_of(task.load(0).train), sizes_of(task.load(0).test)) for name, (task, _) in by_name.items()}
    train_sizes = sizes["tiny test=as-is"][0]
    assert train_sizes == sorted(train_sizes, reverse=True)
    assert {name: test for name, (_, test) in sizes.items()} == {
        "tiny test=alike": [20, 6, 2],
        "tiny test=reversed": [2, 6, 20],
        "tiny test=as-is": [20, 20, 20],
        "tiny shift=mid-training": [20, 20, 20],
    }


def test_a_shift_in_mid_training_changes_the_batches_after_half_of_the_epochs() -> None:
    task, (shifted,) = list(studies.shift(tiny(epochs=4), [Classical()]))[-1]
    epochs = train(task, shifted, task.load(0), 0, Budget("epochs", 4), CPU, lambda _: None)["epochs"]
    first, second, third, fourth = (epoch["proportions"] for epoch in epochs[1:])
    assert first == second
    assert third == fourth
    assert first[0] > first[2]
    assert third[0] < third[2]


def test_the_curriculum_is_refused_where_training_data_change() -> None:
    task, methods = list(studies.shift(tiny(), [method("curriculum"), method("smote")]))[-1]
    assert "first training set" in str(methods[0].refusal(task))
    assert methods[1].refusal(task) is None


def test_architectures_are_refused_where_they_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(seed: int) -> TaskData:
        data = tiny().load(seed)
        return replace(data, train=replace(data.train, inputs=data.train.inputs.long()))

    makers: dict[str, Callable[..., Task]] = {"tiny": lambda _: replace(tiny(), load=words)}
    monkeypatch.setitem(tasks.TASKS, "tiny", makers["tiny"])
    assert "word ids" in fails_with(capsys, tmp_path, "--study", "architectures")
    monkeypatch.setitem(tasks.TASKS, "tiny", lambda _: tiny("reconstruction"))
    assert "bottleneck" in fails_with(capsys, tmp_path, "--study", "architectures")
