"""Studies: what each varies, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fake_datasets import fake_images
from l2m_experiments import cli, datasets, records, runs, studies, tasks
from l2m_experiments.task import Task, TaskData
from l2m_experiments.user_input import InputError
from made_up_task import data_of, task_of

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def sizes_of(data: TaskData) -> list[int]:
    return [int(size) for size in data.train.classes.bincount()]


def of_names(of: Iterator[runs.Pair]) -> dict[str, Task]:
    return {task.name.removeprefix("made-up "): task for task, _ in of}


def methods_of(study: Callable[[Task], Iterator[runs.Pair]]) -> list[str]:
    return [make().name for _, make in study(task_of())]


def test_studies_vary_one_parameter_of_learn2mix() -> None:
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


def test_the_imbalance_study_reduces_the_training_set_only() -> None:
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


def test_the_shift_study_reverses_the_long_tail() -> None:
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


def test_the_learning_rate_study_compares_the_recommended_method_too() -> None:
    assert methods_of(studies.learning_rates) == ["learn2mix", "classical", "balanced", "annealed-corrected"] * 6
    rates = [task.protocol.learning_rate for task in of_names(studies.learning_rates(task_of())).values()]
    assert rates == pytest.approx([0.01 / 3, 0.01, 0.03] * 2)
    varied = of_names(studies.learning_rates(task_of()))
    schedules = {name: task.protocol.schedule for name, task in varied.items()}
    assert list(schedules.items())[::3] == [
        ("learning-rate=0.00333", "constant"),
        ("learning-rate=0.00333-cosine", "cosine"),
    ]


def test_the_optimizer_and_architecture_studies_vary_only_these() -> None:
    assert {task.protocol.optimizer for task in of_names(studies.optimizers(task_of())).values()} == {
        "adam",
        "adamw",
        "rmsprop",
        "sgd",
    }
    digits = tasks.task("digits", "quick")
    data = digits.load(0)
    built = {task.name: task.model(data) for task, _ in studies.architectures(digits)}
    assert {"digits", "digits architecture=small-cnn", "digits architecture=mlp"} <= set(built)
    for model in built.values():
        assert model(digits.prepare(data.test.inputs[:3])).shape == (3, 10)
    with pytest.raises(InputError, match="is for images"):
        of_names(studies.architectures(task_of()))["architecture=small-cnn"].model(data_of())


@pytest.mark.parametrize("name", ["imbalance", "architecture", "shift"])
def test_classification_studies_refuse_other_tasks(name: str) -> None:
    with pytest.raises(InputError, match=f"study '{name}' is for classification"):
        [*studies.study(name)(replace(task_of(), kind="regression"))]


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_runs_in_miniature(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = fake_images(1, 28, 10, rows_per_class=250)  # enough for a hundredth of them
    monkeypatch.setattr(datasets, "mnist", lambda: images)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "mnist", "--study", name, "--seeds", "1", "--budget", "epochs=2"]) == 0
    assert len(records.read_all(tmp_path / "l2m-fast-runs")) >= 5
