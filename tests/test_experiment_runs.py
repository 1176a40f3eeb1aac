"""Training, runs, records and studies, and the command that brings them together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_datasets import fake_images, use_fake_datasets
from l2m_fast import cli
from l2m_fast.experiments import datasets, records, runs, studies, tasks
from l2m_fast.experiments.files import InputError
from l2m_fast.experiments.method import Method
from l2m_fast.experiments.methods import METHODS, Classical, Learn2Mix, method
from l2m_fast.experiments.records import Config, Record
from l2m_fast.experiments.runs import Budget, Settings
from l2m_fast.experiments.task import OptimizerName, Protocol, Rows, Task, TaskData
from l2m_fast.experiments.training import OPTIMIZERS, BudgetKind, train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CPU = torch.device("cpu")


def data_of(seed: int = 0, sizes: tuple[int, ...] = (60, 30, 10)) -> TaskData:
    """Classes around points of their own, far enough apart to be learned in seconds."""
    generator = torch.Generator().manual_seed(seed)

    def rows(sizes: tuple[int, ...]) -> Rows:
        classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        inputs = torch.randn(len(classes), 4, generator=generator) * 0.3
        inputs[torch.arange(len(classes)), classes] += 2
        return Rows(inputs, classes, classes)

    return TaskData(rows(sizes), rows((20,) * len(sizes)), tuple(map(str, range(len(sizes)))), "made up")


def without_targets(rows: Rows) -> Rows:
    return replace(rows, targets=None)


def task_of(name: str = "made-up", epochs: int = 5, seconds: float = 0.05, learning_rate: float = 1e-2) -> Task:
    return Task(
        name,
        "classification",
        "three clouds",
        data_of,
        lambda data: torch.nn.Linear(4, len(data.class_names)),
        torch.Tensor.float,
        Protocol(10, learning_rate, 0.1, epochs, seconds),
        20.0,
    )


def settings_of(folder: Path, budget: str = "epochs", seeds: int = 2) -> Settings:
    return Settings("quick", Budget.parse(budget), seeds, CPU, 1, folder)


def trained(
    task: Task, name: str = "classical", seed: int = 0, budget: BudgetKind = "epochs"
) -> tuple[records.Point, ...]:
    return train(task, task.load(seed), method(name), seed, budget, CPU)[1]


# ---- training


def test_a_classifier_that_diverged_is_not_one_that_guesses() -> None:
    outputs, targets = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]]), torch.tensor([0, 0, 0])
    errors = task_of().errors(outputs, outputs, targets)
    assert errors[0] == 100
    assert errors[1:].isnan().all()


def test_points_tell_epochs_steps_and_times() -> None:
    told: list[float] = []
    _, points = train(task_of(), data_of(), method("classical"), 0, "epochs", CPU, told.append)
    assert [point.epoch for point in points] == [0, 1, 2, 3, 4, 5]
    assert [point.steps for point in points] == [0, 10, 20, 30, 40, 50]
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert points[0].seconds == 0
    for before, after in pairwise(points):
        assert after.data_seconds > before.data_seconds
        assert after.compute_seconds > before.compute_seconds
        assert after.seconds == pytest.approx(after.data_seconds + after.compute_seconds)


def test_seconds_end_training_with_the_epoch_they_run_out_in() -> None:
    points = trained(task_of(epochs=1, seconds=0.05), budget="seconds")
    assert points[-1].seconds >= 0.05
    assert points[-2].seconds < 0.05
    assert points[-1].steps % 10 == 0


def test_evaluation_agrees_with_a_plain_one() -> None:
    """The first point is of the first weights, which the seed decides, with errors counted one row at a time."""
    task, data = task_of(), data_of()
    point = trained(task)[0]
    torch.manual_seed(0)
    model = task.model(data)
    wrong = [
        100.0 * (int(model(row).argmax()) != int(label))
        for row, label in zip(data.test.inputs, data.test.classes, strict=True)
    ]
    of_classes = [
        np.mean([w for w, label in zip(wrong, data.test.classes, strict=True) if label == k]) for k in range(3)
    ]
    assert point.test_error == pytest.approx(np.mean(wrong))
    assert point.class_errors == pytest.approx(of_classes)
    assert point.worst_class_error == pytest.approx(max(of_classes))
    wrong_train = 100.0 * (model(data.train.inputs).argmax(dim=1) != data.train.classes).float()
    assert point.train_error == pytest.approx(float(wrong_train.mean()))
    assert point.proportions == pytest.approx([0.6, 0.3, 0.1])


def test_training_agrees_with_a_plain_loop() -> None:
    """The same batches and the same optimizer in six lines."""
    from l2m_fast import Loader, Proportional

    # Squared errors of the logits: unlike counts of wrong classes they do not agree by chance.
    task = replace(task_of(), kind="reconstruction", model=lambda _: torch.nn.Linear(4, 4))
    data = data_of()
    points = trained(
        replace(task, load=lambda _: replace(data, train=without_targets(data.train), test=without_targets(data.test)))
    )
    torch.manual_seed(0)
    model = task.model(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fields = {"inputs": data.train.inputs, "classes": data.train.classes}
    loader = Loader(fields, batch_size=10, classes=data.train.classes, mixing=Proportional(), seed=0)
    for _ in range(5):
        for batch in loader:
            optimizer.zero_grad()
            (model(batch["inputs"]) - batch["inputs"]).square().sum(dim=1).mean().backward()
            optimizer.step()
    with torch.no_grad():
        error = (model(data.test.inputs) - data.test.inputs).square().sum(dim=1).mean()
    assert points[-1].test_error == pytest.approx(float(error))


@pytest.mark.parametrize("name", METHODS)
def test_methods_begin_alike_learn_and_repeat(name: str) -> None:
    task = task_of()
    first, again = trained(task, name), trained(task, name)
    untimed = [replace(p, seconds=0, data_seconds=0, compute_seconds=0) for p in (*first, *again)]
    assert untimed[: len(first)] == untimed[len(first) :]
    assert first[0].test_error == trained(task)[0].test_error
    assert first[-1].test_error < first[0].test_error / 2


def test_seeds_differ_in_weights() -> None:
    assert trained(task_of(), seed=0)[0].train_error != trained(task_of(), seed=1)[0].train_error


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: OptimizerName) -> None:
    task = task_of()
    task = replace(task, protocol=replace(task.protocol, optimizer=optimizer))
    points = trained(task)
    assert points[-1].test_error < points[0].test_error


def test_curriculum_counts_its_first_training_as_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that ticks when it is read: at both ends of an epoch and of its wait for the end, and twice a batch."""
    ticks = count()
    monkeypatch.setattr("l2m_fast.experiments.training.perf_counter", lambda: float(next(ticks)))
    warm_up, points = train(task_of(epochs=30), data_of(), method("curriculum"), 0, "epochs", CPU)
    assert warm_up == 1 + 30 * (2 * 10 + 3)
    assert (points[-1].data_seconds, points[-1].seconds) == (30 * (10 + 1), 30 * (2 * 10 + 2))
    assert train(task_of(epochs=30), data_of(), method("classical"), 0, "epochs", CPU)[0] == 1


def test_diverged_training_goes_on_and_is_recorded_as_such(tmp_path: Path) -> None:
    def load(seed: int) -> TaskData:
        data = data_of(seed)
        train, test = (Rows(rows.inputs, rows.classes, rows.inputs[:, 0] * 1e30) for rows in (data.train, data.test))
        return replace(data, train=train, test=test)

    task = replace(task_of(), kind="regression", load=load, model=lambda _: torch.nn.Linear(4, 1))
    settings = settings_of(tmp_path, seeds=1)
    with pytest.warns(RuntimeWarning, match="losses that are not finite"):
        runs.execute(runs.plan([(task, Classical)], settings), settings)
    (record,) = records.read_all(tmp_path)
    assert not math.isfinite(record.points[-1].test_error)
    assert len(record.points) == 6


def test_data_that_shift_are_trained_on_from_the_middle_of_the_budget() -> None:
    data = data_of()
    later = data_of(1, (10, 30, 60)).train
    points = train(task_of(epochs=6), replace(data, later_train=later), method("classical"), 0, "epochs", CPU)[1]
    shares = [point.proportions[0] for point in points]
    assert shares[:4] == pytest.approx([0.6] * 4)
    assert shares[4:] == pytest.approx([0.1] * 3)
    assert points[-1].epoch == 6
    with pytest.raises(InputError, match="shift in mid-training need 2 epochs of made-up or more"):
        train(task_of(epochs=1), replace(data, later_train=later), method("classical"), 0, "epochs", CPU)


# ---- every task and method in miniature


@pytest.mark.parametrize("name", tasks.TASKS)
def test_an_epoch_of_every_method_on_every_task(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the paper preset, with the settings of its command but for the epochs."""
    use_fake_datasets(monkeypatch)
    task = tasks.task(name, "paper")
    task = replace(task, protocol=replace(task.protocol, batch_size=min(task.protocol.batch_size, 150)))
    if name == "imdb":
        task = tasks.task(name, "quick")
    settings = settings_of(tmp_path, "epochs=1", seeds=1)
    planned = runs.plan([(task, make) for make in METHODS.values()], settings)
    assert len(planned.runs) + len(planned.refused) == len(METHODS)
    runs.execute(planned, settings)
    for record in records.read_all(tmp_path):
        first, last = record.points
        assert last.epoch == 1
        assert last.steps == max(sum(record.class_sizes) // task.protocol.batch_size, 1)
        assert math.isfinite(last.test_error)
        assert len(last.class_errors) == len(record.class_names) == len(record.class_sizes)
        assert sum(last.proportions) == pytest.approx(1, abs=1e-4)
        assert first.test_error != last.test_error or record.kind == "classification"


# ---- budgets, plans and records


@pytest.mark.parametrize("text", ["", "epoch", "epochs=0", "epochs=-1", "epochs=1.5", "seconds=0", "seconds=nan",
                                  "seconds=inf", "seconds=", "epochs=", "seconds=-2", "hours=1"])  # fmt: skip
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match="budget must be epochs, seconds"):
        Budget.parse(text)


def test_budgets() -> None:
    task = task_of(epochs=5, seconds=0.5)
    assert Budget.parse("epochs").of(task) == task
    assert Budget.parse("epochs=7").of(task).protocol == replace(task.protocol, epochs=7)
    assert Budget.parse("seconds=0.25").of(task).protocol == replace(task.protocol, seconds=0.25)
    assert Budget.parse("seconds").kind == "seconds"


def pairs() -> list[runs.Pair]:
    return [(task_of(name), make) for name, make in product(("one", "two"), (Learn2Mix, Classical))]


def test_runs_are_planned_seeds_outermost_and_done_once(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    planned = runs.plan(pairs(), settings)
    assert [(run.config.seed, run.config.task, run.config.method) for run in planned.runs] == [
        *product((0, 1), ("one", "two"), ("learn2mix", "classical"))
    ]
    runs.execute(planned, settings)
    assert len(records.read_all(tmp_path)) == 8
    assert runs.plan(pairs(), settings) == runs.Plan((), 8, ())
    more = runs.plan(pairs(), replace(settings, seeds=3))
    assert (len(more.runs), more.finished) == (4, 8)


def test_an_interrupted_command_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the sixth run leaves five whole records and no others."""
    settings = settings_of(tmp_path)
    begun: list[None] = []

    def train_until_interrupted(*arguments: Any) -> tuple[float, tuple[records.Point, ...]]:
        begun.append(None)
        if len(begun) == 6:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr("l2m_fast.experiments.runs.train", train_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(runs.plan(pairs(), settings), settings)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"] * 5
    assert len(runs.plan(pairs(), settings).runs) == 3


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, seeds=1)
    task = replace(task_of(), paper={"E": {"classical": (1.5, 0.25)}})
    runs.execute(runs.plan([(task, Learn2Mix)], settings), settings)
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
def test_a_cut_record_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "one" / "classical" / "seed-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(InputError, match=r"seed-0\.json is not a whole record"):
        records.read_all(tmp_path)
    with pytest.raises(InputError, match=r"seed-0\.json is not a whole record"):
        runs.plan(pairs(), settings_of(tmp_path))


def test_a_folder_of_another_configuration_is_refused_and_kept(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    runs.execute(runs.plan(pairs(), settings), settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(InputError, match=r"another configuration: epochs 5 \(wanted 6\); .*are kept"):
        runs.plan(pairs(), settings_of(tmp_path, "epochs=6"))
    with pytest.raises(InputError, match=r"budget 'epochs' \(wanted 'seconds'\)"):
        runs.plan(pairs(), settings_of(tmp_path, "seconds"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_plans_refuse_what_makes_no_sense(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    regression = replace(task_of(), kind="regression")
    planned = runs.plan([(regression, METHODS["focal"]), (regression, Classical)], settings)
    assert [refused[:2] for refused in planned.refused] == [("made-up", "focal")]
    assert len(planned.runs) == 2
    with pytest.raises(InputError, match="focal makes no sense on made-up: the focal loss needs"):
        runs.plan([(regression, METHODS["focal"])], settings)
    with pytest.raises(InputError, match=r"seeds must be at least 1 \(got 0\)"):
        runs.plan(pairs(), replace(settings, seeds=0))
    with pytest.raises(InputError, match=r"num_threads must be at least 1 \(got 0\)"):
        runs.plan(pairs(), replace(settings, num_threads=0))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_of(tmp_path / "file")
    with pytest.raises(InputError, match=r"runs cannot be written to .*file"):
        runs.plan(pairs(), settings)
    with pytest.raises(InputError, match="cannot be looked for: File name too long"):
        runs.plan(pairs(), settings_of(tmp_path / ("long" * 100)))


def test_what_another_process_has_finished_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    planned = runs.plan(pairs(), settings)
    runs.execute(planned, settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    runs.execute(planned, settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


# ---- studies


def sizes_of(data: TaskData) -> list[int]:
    return [int(size) for size in data.train.classes.bincount()]


def of_names(of: Iterator[runs.Pair]) -> dict[str, Task]:
    return {task.name.removeprefix("made-up "): task for task, _ in of}


def methods_of(study: Callable[[Task], Iterator[runs.Pair]]) -> list[str]:
    return [make().name for _, make in study(task_of())]


def test_studies_of_one_parameter_of_learn2mix() -> None:
    assert methods_of(studies.mixing_rates) == [
        "classical",
        *(f"learn2mix mixing_rate={rate}" for rate in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
    ]
    assert methods_of(studies.update_intervals) == [
        "classical", "learn2mix", *(f"learn2mix-every-{steps}" for steps in (1, 3, 10, 30, 100)),
    ]  # fmt: skip
    assert methods_of(studies.min_shares) == [
        "classical", "learn2mix", *(f"learn2mix min_share={share}" for share in (0.001, 0.003, 0.01)),
    ]  # fmt: skip


def test_the_imbalance_study_thins_the_training_set_alone() -> None:
    task = replace(task_of(), load=lambda seed: data_of(seed, (100,) * 4))
    changed = of_names(studies.imbalances(task))
    assert sizes_of(changed["imbalance=as-it-is"].load(0)) == [100] * 4
    assert sizes_of(changed["imbalance=exponential-10"].load(0)) == [100, 46, 22, 10]
    assert sizes_of(changed["imbalance=minority-20"].load(0)) == [100, 100, 5, 5]
    assert sizes_of(changed["imbalance=step"].load(0)) == [5, 5, 100, 100]
    assert len(changed["imbalance=step"].load(0).test.classes) == 80
    assert changed["imbalance=step"].description == "three clouds; imbalance: step"
    with pytest.raises(InputError, match="would leave 7 rows of made-up, less than a batch"):
        of_names(studies.imbalances(replace(task_of(), load=lambda seed: data_of(seed, (3, 3, 3)))))[
            "imbalance=minority-20"
        ].load(0)


def test_the_shift_study_turns_the_long_tail_round() -> None:
    task = replace(task_of(), load=lambda seed: data_of(seed, (100,) * 4))
    changed = of_names(studies.shifts(task))
    for name in ("none", "test", "mid-training"):
        assert sizes_of(changed[f"shift={name}"].load(0)) == [100, 46, 22, 10]
    assert changed["shift=test"].load(0).test.classes.bincount().tolist() == [2, 4, 9, 20]
    later = changed["shift=mid-training"].load(0).later_train
    assert later is not None
    assert later.classes.bincount().tolist() == [10, 22, 46, 100]
    with pytest.raises(InputError, match="at least 10 training rows of every class"):
        of_names(studies.shifts(replace(task_of(), load=lambda seed: data_of(seed, (60, 9)))))["shift=none"].load(0)


def test_the_optimizer_and_architecture_studies() -> None:
    assert {task.protocol.optimizer for task in of_names(studies.optimizers(task_of())).values()} == set(OPTIMIZERS)
    digits = tasks.task("digits", "quick")
    data = digits.load(0)
    built = {task.name: task.model(data) for task, _ in studies.architectures(digits)}
    assert {"digits", "digits architecture=small-cnn", "digits architecture=mlp"} <= set(built)
    for model in built.values():
        assert model(digits.prepare(data.test.inputs[:3])).shape == (3, 10)
    with pytest.raises(InputError, match="is for images"):
        of_names(studies.architectures(task_of()))["architecture=small-cnn"].model(data_of())


@pytest.mark.parametrize("name", ["imbalance", "architecture", "shift"])
def test_studies_of_classification_refuse_other_tasks(name: str) -> None:
    with pytest.raises(InputError, match=f"study '{name}' is for classification"):
        [*studies.study(name)(replace(task_of(), kind="regression"))]


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_in_miniature(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = fake_images(1, 28, 10, rows_per_class=250)  # enough of them to be thinned a hundredfold
    monkeypatch.setattr(datasets, "mnist", lambda: images)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["experiment", "mnist", "--study", name, "--seeds", "1", "--budget", "epochs=2"]) == 0
    assert len(records.read_all(tmp_path / "l2m-fast-runs")) >= 5


# ---- the command


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["experiment", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_runs_says_what_it_leaves_out_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("mean-estimation", "--methods", "classical,focal", "--seeds", "2", "--budget", "epochs=2", "--out")
    code, out, err = command(*arguments, str(tmp_path), capsys=capsys)
    assert code == 0
    assert "left out: focal on mean-estimation: the focal loss needs" in out
    assert "2 runs to do, 0 finished already" in out
    assert "100%" in err
    code, out, err = command(*arguments, str(tmp_path), capsys=capsys)
    assert (code, err) == (0, "")
    assert "0 runs to do, 2 finished already" in out
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
def test_bad_arguments(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(*arguments, "--out", str(tmp_path / "runs"), capsys=capsys)
    assert code == 2
    assert err.startswith("l2m-fast experiment: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command("--device", "cuda", capsys=capsys)
    assert code == 2
    assert "device cuda needs a GPU" in err


def test_the_list_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command("--list", capsys=capsys)
    assert code == 0
    for name in (*tasks.TASKS, *METHODS, *studies.STUDIES):
        assert f"  {name}" in out


def test_a_method_is_made_anew_for_each_run(tmp_path: Path) -> None:
    made: list[Method] = []

    def make() -> Method:
        made.append(Classical())
        return made[-1]

    settings = settings_of(tmp_path)
    planned = runs.plan([(task_of(), make)], settings)
    before = len(made)
    runs.execute(planned, settings)
    assert len(made) == before + 2


def test_records_of_all_read_by_task_method_and_seed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    runs.execute(runs.plan(pairs(), settings), settings)
    found: list[Record] = records.read_all(tmp_path)
    assert [(r.config.task, r.config.method, r.config.seed) for r in found] == [
        *product(("one", "two"), ("classical", "learn2mix"), (0, 1))
    ]
    with pytest.raises(InputError, match="is not there, or cannot be read"):
        records.read_all(tmp_path / "elsewhere")
