"""Studies: a task compared again and again with one thing changed, whose value is part of the names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from l2m_fast.experiments import models
from l2m_fast.experiments.curriculum import Curriculum
from l2m_fast.experiments.files import InputError
from l2m_fast.experiments.imbalance import thin
from l2m_fast.experiments.methods import METHODS, Batches, Learn2Mix, Method, Start, method
from l2m_fast.experiments.runs import Comparison
from l2m_fast.experiments.task import Rows, Task, TaskData
from l2m_fast.experiments.tasks import Preset, task
from l2m_fast.experiments.training import on_device

# What a study compares where no methods are named.
_USUAL = ("learn2mix", "classical", "balanced")
_SHIFT = 10.0  # largest class to smallest, before the shift and the other way round after it


def plan(tasks: Sequence[str], methods: str | None, preset: Preset, study: str | None) -> list[Comparison]:
    """Returns what is to be compared.

    Args:
        tasks: Names.
        methods: Names, separated by commas, or "all"; None: all, in a study Learn2Mix, classical and balanced.
        preset: Of the tasks.
        study: A key of `STUDIES`; None: every task as it is.

    Raises:
        InputError: There is no such task, method or study, or the study makes no sense on a task.
    """
    if study is not None and study not in STUDIES:
        nearest = difflib.get_close_matches(study, STUDIES, n=1, cutoff=0)
        msg = f"there is no study {study!r}: did you mean {nearest[0]}? (all: {', '.join(STUDIES)})"
        raise InputError(msg)
    if methods is None:
        names: Sequence[str] = tuple(METHODS) if study is None else _USUAL
    else:
        names = tuple(METHODS) if methods == "all" else [name.strip() for name in methods.split(",")]
    chosen = [method(name) for name in dict.fromkeys(names)]
    of_names = [task(name, preset) for name in dict.fromkeys(tasks)]
    if study is None:
        return [(of_name, chosen) for of_name in of_names]
    return [comparison for of_name in of_names for comparison in STUDIES[study](of_name, chosen)]


def _with(chosen: Sequence[Method], variants: Sequence[Method]) -> list[Method]:
    return list({method.name: method for method in (*chosen, *variants)}.values())


def mixing_rate(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """Learn2Mix with mixing rates from 0.01 to 0.5, beside the methods."""
    yield task, _with(methods, [Learn2Mix(mixing_rate=rate) for rate in (0.01, 0.05, 0.1, 0.2, 0.5)])


def update_every(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """Learn2Mix with windows of an epoch and of 1, 10 and 100 steps, beside the methods."""
    yield task, _with(methods, [Learn2Mix(update_every=steps) for steps in (None, 1, 10, 100)])


def min_share(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """Learn2Mix with least shares of a class from 0 to 0.01, beside the methods."""
    yield task, _with(methods, [Learn2Mix(min_share=share) for share in (0.0, 0.001, 0.002, 0.005, 0.01)])


def imbalance(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """The methods on training sets whose class sizes fall exponentially, 1:1 to 100:1; the test set stays."""
    for ratio in (1, 2, 5, 10, 20, 50, 100):
        yield _training_on(task, f"imbalance={ratio}", ratio), methods


def optimisers(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """The methods with each optimiser; SGD, with momentum 0.9, at 100 times the learning rate of the others."""
    variants: tuple[tuple[Literal["adam", "adamw", "rmsprop", "sgd"], int], ...]
    variants = (("adam", 1), ("adamw", 1), ("rmsprop", 1), ("sgd", 100))
    for name, factor in variants:
        protocol = replace(task.protocol, optimizer=name, learning_rate=factor * task.protocol.learning_rate)
        yield replace(task, name=f"{task.name} optimizer={name}", protocol=protocol), methods


def architectures(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """The methods with the task's own model, a linear one, and one and three hidden layers."""
    if task.kind == "reconstruction":
        msg = f"the study architectures makes no sense on {task.name}: without a bottleneck a model copies its input"
        raise InputError(msg)

    def load(seed: int) -> TaskData:
        data = task.load(seed)
        if data.train.inputs.dtype == torch.int64:
            msg = f"the study architectures makes no sense on {task.name}: its models take numbers, not word ids"
            raise InputError(msg)
        return data

    def variant(name: str, layers: Callable[[int, int], nn.Module]) -> Task:
        def model(data: TaskData) -> nn.Module:
            outputs = len(data.class_names) if task.kind == "classification" else 1
            return nn.Sequential(nn.Flatten(), layers(data.train.inputs[0].numel(), outputs))

        return replace(task, name=f"{task.name} model={name}", load=load, model=model)

    yield replace(task, name=f"{task.name} model=own", load=load), methods
    yield variant("linear", nn.Linear), methods
    yield variant("one-hidden-layer", models.mlp), methods
    yield variant("three-hidden-layers", _deep), methods


def shift(task: Task, methods: Sequence[Method]) -> Iterator[Comparison]:
    """The methods where class shares shift, from 10:1 to 1:10: between training and test set, or in mid-training.

    Training sets have class sizes falling 10:1. Test sets have the same shares (alike), those there are (as-is), or the
    reverse. In mid-training, after half of the protocol's epochs, training goes on with a set of the reverse, see
    `Shifted`, tested on what there is.
    """
    tailed = _training_on(task, "test=as-is", _SHIFT)
    for name, ratio in (("alike", _SHIFT), ("reversed", 1 / _SHIFT)):
        yield _testing_on(replace(tailed, name=f"{task.name} test={name}"), ratio), methods
    yield tailed, methods
    later = _training_on(task, "", 1 / _SHIFT)
    yield replace(tailed, name=f"{task.name} shift=mid-training"), [Shifted(method, later.load) for method in methods]


STUDIES: dict[str, Callable[[Task, Sequence[Method]], Iterator[Comparison]]] = {
    "mixing-rate": mixing_rate,
    "imbalance": imbalance,
    "architectures": architectures,
    "optimisers": optimisers,
    "shift": shift,
    "update-every": update_every,
    "min-share": min_share,
}
"""Every study of the command line: from a task and methods to what is compared."""


class Shifted(Method):
    """A method that goes on with other training data after half of the protocol's epochs.

    The model stays; the method begins anew on the new data, as it would on a new loader.

    Args:
        method: Any but the curriculum.
        later: Makes the data of a seed whose training set takes over.
    """

    def __init__(self, method: Method, later: Callable[[int], TaskData]) -> None:
        self._method, self._later = method, later
        self.name = method.name

    def refusal(self, task: Task, data: TaskData | None = None) -> str | None:
        """That of the method; the curriculum ranks the rows it is shown at the start alone."""
        if isinstance(self._method, Curriculum):
            return "its warm-up ranks the rows of the first training set, not those that come in mid-training"
        return self._method.refusal(task, data)

    def batches(self, start: Start) -> Batches:
        """Makes the batches of both halves."""
        later = on_device(self._later(start.seed), start.data.train.inputs.device)
        return _ShiftedBatches(self._method, start, replace(start, data=later))

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """That of the method."""
        return self._method.objective(losses, classes)


class _ShiftedBatches:
    def __init__(self, method: Method, start: Start, later: Start) -> None:
        self._method, self._later = method, later
        self._left = max(1, start.task.protocol.epochs // 2)  # epochs before the shift
        self._batches = method.batches(start)

    @property
    def proportions(self) -> NDArray[np.float64]:
        return self._batches.proportions

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield from self._batches
        self._left -= 1
        if self._left == 0:
            self._batches.close()
            self._batches = self._method.batches(self._later)

    def record(self, losses: torch.Tensor) -> None:
        self._batches.record(losses)

    def close(self) -> None:
        self._batches.close()


def _deep(num_inputs: int, num_outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((num_inputs, 256), (256, 128), (128, 64)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, num_outputs))


def _training_on(task: Task, suffix: str, ratio: float) -> Task:
    def load(seed: int) -> TaskData:
        data = task.load(seed)
        return replace(data, train=_tailed(data.train, ratio, seed))

    return replace(task, name=f"{task.name} {suffix}", load=load)


def _testing_on(task: Task, ratio: float) -> Task:
    def load(seed: int) -> TaskData:
        data = task.load(seed)
        return replace(data, test=_tailed(data.test, ratio, seed))

    return replace(task, load=load)


def _tailed(rows: Rows, ratio: float, seed: int) -> Rows:
    """As many rows as there can be with class sizes that fall exponentially by `ratio` from first to last."""
    classes = rows.classes.numpy()
    sizes = np.bincount(classes)
    shares = ratio ** -np.linspace(0, 1, len(sizes))
    wanted = np.maximum(1, np.minimum(sizes, np.round(shares * (sizes / shares).min()).astype(np.int64)))
    kept = torch.from_numpy(thin(classes, wanted.tolist(), np.random.default_rng(seed)))
    return Rows(rows.inputs[kept], rows.classes[kept], None if rows.targets is None else rows.targets[kept])
