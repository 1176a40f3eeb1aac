"""Studies, each of which varies one property of a task or a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn

from l2m_experiments import imbalance, models
from l2m_experiments.method import Method
from l2m_experiments.methods import METHODS, Balanced, Classical, Learn2Mix
from l2m_experiments.results import RECOMMENDED
from l2m_experiments.rows import Pattern
from l2m_experiments.runs import Pair
from l2m_experiments.task import OptimizerName, Rows, ScheduleName, Task, TaskData
from l2m_experiments.user_input import InputError, lookup

Study = Callable[[Task], Iterable[Pair]]

_COMPARED: tuple[Callable[[], Method], ...] = (Learn2Mix, Classical, Balanced)
_SCHEDULES: tuple[ScheduleName, ...] = ("constant", "cosine")
_OPTIMIZERS: tuple[OptimizerName, ...] = ("adam", "adamw", "rmsprop", "sgd")


def mixing_rates(task: Task) -> Iterator[Pair]:
    """Vary the mixing rate of Learn2Mix from 0.01 to 0.5; classical training is mixing rate 0."""
    yield task, Classical
    for rate in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        yield task, partial(Learn2Mix, mixing_rate=rate)


def update_intervals(task: Task) -> Iterator[Pair]:
    """Vary the window of Learn2Mix from a step to an epoch; the mixing rate applies per window, so shorter ones follow faster."""
    yield task, Classical
    yield task, Learn2Mix
    for steps in (1, 3, 10, 30, 100):
        yield task, partial(Learn2Mix, update_every=steps)


def min_shares(task: Task) -> Iterator[Pair]:
    """Vary the minimum share of each class in Learn2Mix."""
    yield task, Classical
    for share in (0.0, 0.001, 0.003, 0.01):
        yield task, partial(Learn2Mix, min_share=share)


def imbalances(task: Task) -> Iterator[Pair]:
    """Reduce the training set by each pattern of the literature; the test set stays."""
    _only_classification("imbalance", task)
    patterns: dict[str, Pattern] = {
        "as-it-is": tuple,
        "exponential-10": partial(imbalance.exponential, imbalance=10),
        "exponential-100": partial(imbalance.exponential, imbalance=100),
        "linear": imbalance.linear,
        "log-decreasing": imbalance.log_decreasing,
        "step": imbalance.step,
        "minority-2": partial(imbalance.minority, ratio=2),
        "minority-5": partial(imbalance.minority, ratio=5),
        "minority-20": partial(imbalance.minority, ratio=20),
    }

    def reduced(data: TaskData, seed: int, pattern: Pattern) -> TaskData:
        sizes = pattern(_sizes(data.train))
        if sum(sizes) < task.protocol.batch_size:
            msg = f"study 'imbalance' would leave {sum(sizes)} rows of {task.name}, less than a batch; choose a larger task"
            raise InputError(msg)
        return replace(data, train=_reduce(data.train, sizes, seed))

    yield from _compared(task, "imbalance", {name: partial(reduced, pattern=p) for name, p in patterns.items()})


def architectures(task: Task) -> Iterator[Pair]:
    """Vary the network: the task's own, a small CNN, one without convolutions, and MobileNetV3 if torchvision is installed."""
    _only_classification("architecture", task)

    def mlp(data: TaskData) -> nn.Module:
        return nn.Sequential(nn.Flatten(), models.mlp(data.train.inputs[0].numel(), len(data.class_names)))

    def small_cnn(data: TaskData) -> nn.Module:
        images = data.train.inputs
        if images.dim() != 4:
            msg = f"study 'architecture' is for images (got {task.name}, with rows of shape {tuple(images.shape[1:])})"
            raise InputError(msg)
        return models.small_cnn(images.shape[2], images.shape[3], len(data.class_names), channels=images.shape[1])

    others: dict[str, Callable[[TaskData], nn.Module]] = {"small-cnn": small_cnn, "mlp": mlp}
    if models.has_torchvision():
        others["mobilenet-v3-small"] = lambda data: models.mobilenet_v3_small(len(data.class_names))
    for make in _COMPARED:
        yield task, make
    for name, model in others.items():
        changed = replace(_varied(task, "architecture", name), model=model)
        for make in _COMPARED:
            yield changed, make


def optimizers(task: Task) -> Iterator[Pair]:
    """Vary the optimizer, with the learning rate of the task; SGD with 50 times that, since it would hardly learn otherwise."""
    for name in _OPTIMIZERS:
        rate = task.protocol.learning_rate * (50 if name == "sgd" else 1)
        protocol = replace(task.protocol, optimizer=name, learning_rate=rate)
        changed = replace(_varied(task, "optimizer", name), protocol=protocol)
        for make in _COMPARED:
            yield changed, make


def learning_rates(task: Task) -> Iterator[Pair]:
    """Vary the learning rate from a third to three times that of the task, constant and falling, also for corrected sampling."""
    for schedule, factor in product(_SCHEDULES, (1 / 3, 1.0, 3.0)):
        rate = task.protocol.learning_rate * factor
        name = f"{rate:.3g}" if schedule == "constant" else f"{rate:.3g}-{schedule}"
        protocol = replace(task.protocol, learning_rate=rate, schedule=schedule)
        changed = replace(_varied(task, "learning-rate", name), protocol=protocol)
        for make in (*_COMPARED, METHODS[RECOMMENDED]):
            yield changed, make


def shifts(task: Task) -> Iterator[Pair]:
    """Train on a 10:1 long tail whose frequent classes become the rare ones, in the test set or in the second half of training.

    With "none" there is no shift, and the test set stays as it is.
    """
    _only_classification("shift", task)
    long_tail = partial(imbalance.exponential, imbalance=10)

    def reversed_tail(sizes: Sequence[int]) -> Sequence[int]:
        return long_tail(sizes)[::-1]

    def none(data: TaskData, seed: int) -> TaskData:
        smallest = min(_sizes(data.train))
        if smallest < 10:
            msg = f"study 'shift' needs at least 10 training rows of every class ({task.name} has one of {smallest})"
            raise InputError(msg)
        return replace(data, train=_reduce(data.train, long_tail(_sizes(data.train)), seed))

    def test_set(data: TaskData, seed: int) -> TaskData:
        return replace(none(data, seed), test=_reduce(data.test, reversed_tail(_sizes(data.test)), seed=0))

    def mid_training(data: TaskData, seed: int) -> TaskData:
        return replace(none(data, seed), later_train=_reduce(data.train, reversed_tail(_sizes(data.train)), seed))

    yield from _compared(task, "shift", {"none": none, "test": test_set, "mid-training": mid_training})


STUDIES: dict[str, Study] = {
    "mixing-rate": mixing_rates,
    "update-interval": update_intervals,
    "min-share": min_shares,
    "imbalance": imbalances,
    "architecture": architectures,
    "optimizer": optimizers,
    "learning-rate": learning_rates,
    "shift": shifts,
}


def study(name: str) -> Study:
    """Return a study by its name.

    Raises:
        InputError: No study has this name.
    """
    return lookup("study", name, STUDIES)


def _compared(task: Task, what: str, changes: Mapping[str, Callable[[TaskData, int], TaskData]]) -> Iterator[Pair]:
    """Pair the task with changed data with Learn2Mix, classical and balanced training."""
    for name, change in changes.items():

        def load(seed: int, change: Callable[[TaskData, int], TaskData] = change) -> TaskData:
            return change(task.load(seed), seed)

        changed = replace(_varied(task, what, name), load=load)
        for make in _COMPARED:
            yield changed, make


def _varied(task: Task, what: str, name: str) -> Task:
    """Rename the task for what is varied, and drop the paper's figures, which apply to the original task."""
    return replace(task, name=f"{task.name} {what}={name}", description=f"{task.description}; {what}: {name}", paper={})


def _only_classification(study: str, task: Task) -> None:
    if task.kind != "classification":
        msg = f"study {study!r} is for classification (got {task.name}, a {task.kind})"
        raise InputError(msg)


def _sizes(rows: Rows) -> list[int]:
    sizes: list[int] = rows.classes.bincount().tolist()
    return sizes


def _reduce(rows: Rows, sizes: Sequence[int], seed: int) -> Rows:
    ids = torch.from_numpy(imbalance.draw_rows(rows.classes.numpy(), sizes, np.random.default_rng(seed)))
    return rows.map(lambda tensor: tensor[ids])
