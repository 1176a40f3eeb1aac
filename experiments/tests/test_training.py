"""Training, with every method, and on every task in miniature."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_datasets import use_fake_datasets
from l2m_experiments import records, runs, tasks
from l2m_experiments.methods import METHODS, Classical, method
from l2m_experiments.task import OptimizerName, Rows, Task, TaskData
from l2m_experiments.training import OPTIMIZERS, SCHEDULES, BudgetKind, train
from l2m_experiments.user_input import InputError
from l2m_fast import Loader
from made_up_task import CPU, data_of, options_of, task_of, without_targets

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def trained(
    task: Task, name: str = "classical", seed: int = 0, budget: BudgetKind = "epochs"
) -> tuple[records.Point, ...]:
    return train(task, task.load(seed), method(name), seed, budget, CPU)[1]


def test_a_diverged_classifier_has_no_error() -> None:
    outputs, targets = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]]), torch.tensor([0, 0, 0])
    errors = task_of().errors(outputs, outputs, targets)
    assert errors[0] == 100
    assert errors[1:].isnan().all()


def test_points_have_epochs_steps_and_times() -> None:
    used: list[float] = []
    _, points = train(task_of(), data_of(), method("classical"), 0, "epochs", CPU, used.append)
    assert [point.epoch for point in points] == [0, 1, 2, 3, 4, 5]
    assert [point.steps for point in points] == [0, 10, 20, 30, 40, 50]
    assert used == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert points[0].seconds == 0
    for before, after in pairwise(points):
        assert after.data_seconds > before.data_seconds
        assert after.compute_seconds > before.compute_seconds
        assert after.seconds == pytest.approx(after.data_seconds + after.compute_seconds)


def test_seconds_end_training_after_the_epoch_in_which_they_run_out() -> None:
    points = trained(task_of(epochs=1, seconds=0.05), budget="seconds")
    assert points[-1].seconds >= 0.05
    assert points[-2].seconds < 0.05
    assert points[-1].steps % 10 == 0


def test_evaluation_agrees_with_a_plain_one() -> None:
    """The first point belongs to the initial weights of the seed; errors are counted one row at a time."""
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


def test_an_unscored_class_counts_in_no_test_error() -> None:
    _, points = train(task_of(), replace(data_of(), unscored=2), method("classical"), 0, "epochs", CPU)
    for scored, plain in zip(points, trained(task_of()), strict=True):
        assert scored.class_errors == plain.class_errors
        assert scored.test_error == pytest.approx(np.mean(plain.class_errors[:2]))
        assert scored.worst_class_error == max(plain.class_errors[:2])
        assert scored.train_error == plain.train_error


def test_training_agrees_with_a_plain_loop() -> None:
    """The plain loop uses the same batches and the same optimizer."""
    from l2m_fast import Loader, Proportional

    # Squared errors of the logits cannot agree by chance, unlike counts of wrong classes.
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
def test_methods_start_from_equal_weights_learn_and_repeat(name: str) -> None:
    task = task_of()
    first, again = trained(task, name), trained(task, name)
    untimed = [replace(p, seconds=0, data_seconds=0, compute_seconds=0) for p in (*first, *again)]
    assert untimed[: len(first)] == untimed[len(first) :]
    if name != "classical-post-hoc":  # it changes what is evaluated
        assert first[0].test_error == trained(task)[0].test_error
    assert first[-1].test_error < first[0].test_error / 2


@pytest.mark.parametrize("plain", [False, True])
def test_recorded_losses_are_those_of_the_corrected_or_the_plain_logits(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, expected = list[torch.Tensor](), list[torch.Tensor]()

    class Shifted(Classical):
        records_plain = plain

        def outputs(self, outputs: torch.Tensor) -> torch.Tensor:
            expected.append(outputs.detach())
            return outputs + torch.tensor([0.0, 1.0, -2.0])

    monkeypatch.setattr(Loader, "record", lambda _, losses: recorded.append(losses))
    train(task_of(epochs=1), data_of(), Shifted(), 0, "epochs", CPU)
    assert len(recorded) == len(expected) == 10
    for losses, logits in zip(recorded, expected, strict=True):
        assert not losses.requires_grad
        offsets = torch.zeros(3) if plain else torch.tensor([0.0, 1.0, -2.0])
        of_classes = [torch.nn.functional.cross_entropy(logits + offsets, k, reduction="none") for k in ids(logits)]
        assert torch.stack(of_classes).isclose(losses).any(dim=0).all()


def ids(logits: torch.Tensor) -> list[torch.Tensor]:
    return [torch.full((len(logits),), k) for k in range(3)]


def test_seeds_have_different_weights() -> None:
    assert trained(task_of(), seed=0)[0].train_error != trained(task_of(), seed=1)[0].train_error


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_reduces_the_error(optimizer: OptimizerName) -> None:
    task = task_of()
    task = replace(task, protocol=replace(task.protocol, optimizer=optimizer))
    points = trained(task)
    assert points[-1].test_error < points[0].test_error


def test_a_correction_after_training_changes_the_test_error_only() -> None:
    plain, corrected = trained(task_of()), trained(task_of(), "classical-post-hoc")
    assert [point.train_error for point in plain] == [point.train_error for point in corrected]
    assert plain[0].test_error != corrected[0].test_error


def test_a_cosine_schedule_lowers_the_learning_rate_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    class Noted(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    monkeypatch.setitem(OPTIMIZERS, "sgd", Noted)
    task = task_of(epochs=4)
    for schedule in SCHEDULES:
        protocol = replace(task.protocol, optimizer="sgd", learning_rate=0.2, schedule=schedule)
        trained(replace(task, protocol=protocol))
    expected = [0.2] * 4 + [0.1 + 0.1 * math.cos(math.pi * epoch / 4) for epoch in range(4)]
    assert rates == pytest.approx([rate for rate in expected for _ in range(10)])


def test_curriculum_counts_its_first_training_as_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock ticks whenever it is read: at both ends of an epoch and of its last wait, and twice per batch."""
    ticks = count()
    monkeypatch.setattr("l2m_experiments.training.perf_counter", lambda: float(next(ticks)))
    warm_up, points = train(task_of(epochs=30), data_of(), method("curriculum"), 0, "epochs", CPU)
    assert warm_up == 1 + 30 * (2 * 10 + 3)
    assert (points[-1].data_seconds, points[-1].seconds) == (30 * (10 + 1), 30 * (2 * 10 + 2))
    assert train(task_of(epochs=30), data_of(), method("classical"), 0, "epochs", CPU)[0] == 1


def test_diverged_training_continues_and_is_recorded_as_such(tmp_path: Path) -> None:
    def load(seed: int) -> TaskData:
        data = data_of(seed)
        train, test = (Rows(rows.inputs, rows.classes, rows.inputs[:, 0] * 1e30) for rows in (data.train, data.test))
        return replace(data, train=train, test=test)

    task = replace(task_of(), kind="regression", load=load, model=lambda _: torch.nn.Linear(4, 1))
    options = options_of(tmp_path, seeds=1)
    with pytest.warns(RuntimeWarning, match="non-finite losses"):
        runs.execute(runs.plan([(task, Classical)], options), options)
    (record,) = records.read_all(tmp_path)
    assert not math.isfinite(record.points[-1].test_error)
    assert len(record.points) == 6


def test_shifted_data_are_used_from_the_middle_of_the_budget() -> None:
    data = data_of()
    later = data_of(1, (10, 30, 60)).train
    points = train(task_of(epochs=6), replace(data, later_train=later), method("classical"), 0, "epochs", CPU)[1]
    shares = [point.proportions[0] for point in points]
    assert shares[:4] == pytest.approx([0.6] * 4)
    assert shares[4:] == pytest.approx([0.1] * 3)
    assert points[-1].epoch == 6
    with pytest.raises(
        InputError, match=r"the budget of made-up must be at least 2 epochs, because its data shift \(got 1\)"
    ):
        train(task_of(epochs=1), replace(data, later_train=later), method("classical"), 0, "epochs", CPU)


@pytest.mark.filterwarnings("ignore:a batch of .* repeats rows")
@pytest.mark.parametrize("name", tasks.TASKS)
def test_an_epoch_of_every_method_on_every_task(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use the paper preset with the options of its command, except for the epochs."""
    use_fake_datasets(monkeypatch)
    task = tasks.task(name, "paper")
    task = replace(task, protocol=replace(task.protocol, batch_size=min(task.protocol.batch_size, 150)))
    if name == "imdb":
        task = tasks.task(name, "quick")
    options = options_of(tmp_path, "epochs=1", seeds=1)
    planned = runs.plan([(task, make) for make in METHODS.values()], options)
    assert len(planned.runs) + len(planned.refused) == len(METHODS)
    runs.execute(planned, options)
    for record in records.read_all(tmp_path):
        first, last = record.points
        assert last.epoch == 1
        assert last.steps == max(sum(record.class_sizes) // task.protocol.batch_size, 1)
        assert math.isfinite(last.test_error)
        assert len(last.class_errors) == len(record.class_names) == len(record.class_sizes)
        assert sum(last.proportions) == pytest.approx(1, abs=1e-4)
        assert first.test_error != last.test_error or record.kind == "classification"
