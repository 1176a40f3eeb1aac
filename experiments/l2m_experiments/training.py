"""The training of one model by one method, timed and evaluated; the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from l2m_experiments.errors import InputError
from l2m_experiments.method import Batches, Method, Start
from l2m_experiments.records import Point
from l2m_experiments.task import OptimizerName, Rows, Task, TaskData

BudgetKind = Literal["epochs", "seconds"]

# Betas, decay and the like are torch's, but for SGD without momentum, which nobody uses.
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
EVALUATED_ROWS = 2000  # of the training set, at most
_CHUNK = 500  # rows evaluated at once


def train(
    task: Task,
    data: TaskData,
    method: Method,
    seed: int,
    budget: BudgetKind,
    device: torch.device,
    on_epoch: Callable[[float], None] = lambda _: None,
) -> tuple[float, tuple[Point, ...]]:
    """Trains a new model.

    It begins with the same weights for every method, has the same steps an epoch, and is evaluated before the first and after every
    epoch; the clock stands still meanwhile. Where the data shift in mid-training, the batches are made anew in the middle of
    the budget, from proportions that begin anew; model and optimizer stay.

    Args:
        task: What to learn.
        data: Of the seed.
        method: A new one.
        seed: Of the weights and the batches.
        budget: Which of the protocol's two ends training; with "seconds" the epoch that they run out in is finished.
        device: Where the model is trained; the data are sent batch by batch.
        on_epoch: Is told after each epoch which share of the budget is used up.

    Returns:
        Seconds that the method took before its first batch, and a point for each epoch.

    Raises:
        InputError: The budget is too short for data that shift.
    """
    torch.manual_seed(seed)
    model = task.model(data).to(device)
    optimizer = _optimizer(task, model)
    batches, warm_up = _begin(method, task, data, seed, device)
    evaluate = _Evaluation(task, data, device)
    points = [evaluate(model, batches, epoch=0, steps=0, data_seconds=0.0, compute_seconds=0.0)]
    later, used = data.later_train, 0.0
    while used < 1:
        if later is not None and used >= 0.5:
            batches.close()
            data, later = replace(data, train=later, later_train=None), None
            batches, again = _begin(method, task, data, seed, device)
            warm_up += again
            evaluate = _Evaluation(task, data, device)
        steps, data_seconds, compute_seconds = _epoch(task, method, model, optimizer, batches, device)
        last = points[-1]
        points.append(
            evaluate(
                model,
                batches,
                epoch=last.epoch + 1,
                steps=last.steps + steps,
                data_seconds=last.data_seconds + data_seconds,
                compute_seconds=last.compute_seconds + compute_seconds,
            )
        )
        spent = {
            "epochs": points[-1].epoch / task.protocol.epochs,
            "seconds": points[-1].seconds / task.protocol.seconds,
        }
        used = spent[budget]
        on_epoch(min(used, 1.0))
    batches.close()
    if later is not None:
        msg = (
            f"data that shift in mid-training need 2 epochs of {task.name} or more (got a budget of {points[-1].epoch})"
        )
        raise InputError(msg)
    return warm_up, tuple(points)


def _begin(method: Method, task: Task, data: TaskData, seed: int, device: torch.device) -> tuple[Batches, float]:
    """Has the method make its batches, and says how long that took."""
    steps = max(len(data.train.classes) // task.protocol.batch_size, 1)
    start = Start(data, task, seed, steps, lambda: _classical_losses(start, device))
    began = perf_counter()
    batches = method.batches(start)
    _finish(device)
    return batches, perf_counter() - began


def _optimizer(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS[task.protocol.optimizer](model.parameters(), lr=task.protocol.learning_rate)


def _classical_losses(start: Start, device: torch.device) -> torch.Tensor:
    """See `Start.fit`."""
    task, classical = start.task, Method()
    model = task.model(start.data).to(device)
    optimizer, batches = _optimizer(task, model), classical.batches(start)
    for _ in range(task.protocol.epochs):
        _epoch(task, classical, model, optimizer, batches, device)
    batches.close()
    return _of_rows(task.losses, task, model, _sent(start.data.train, device))


def _epoch(
    task: Task,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    device: torch.device,
) -> tuple[int, float, float]:
    """Trains for an epoch; returns its steps, the seconds spent waiting for batches, and the other seconds."""
    model.train()
    steps, data_seconds = 0, 0.0
    began = asked = perf_counter()
    for batch in batches:
        data_seconds += perf_counter() - asked
        sent = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        prepared = task.prepare(sent["inputs"])
        losses = task.losses(model(prepared), prepared, sent.get("targets"))
        optimizer.zero_grad()
        method.objective(losses, sent["classes"]).backward()
        optimizer.step()
        batches.record(losses.detach())
        steps += 1
        asked = perf_counter()
    data_seconds += perf_counter() - asked
    _finish(device)
    return steps, data_seconds, perf_counter() - began - data_seconds


def _finish(device: torch.device) -> None:
    # Kernels run on after the call that starts them, and would be counted as someone else's time.
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Evaluation:
    """Makes the points of a run.

    Args:
        task: What is learned.
        data: Of the run.
        device: Of the model; the rows to evaluate are sent there once.
    """

    def __init__(self, task: Task, data: TaskData, device: torch.device) -> None:
        self._task, self._test = task, _sent(data.test, device)
        spread = slice(None, None, -(-len(data.train.classes) // EVALUATED_ROWS))
        self._train = _sent(data.train.each(lambda tensor: tensor[spread]), device)
        self._classes = data.test.classes.cpu().numpy()
        self._num_classes = len(data.class_names)

    def __call__(
        self,
        model: nn.Module,
        batches: Batches,
        *,
        epoch: int,
        steps: int,
        data_seconds: float,
        compute_seconds: float,
    ) -> Point:
        """Evaluates the model."""
        errors = self._errors(model, self._test)
        sums = np.bincount(self._classes, weights=errors, minlength=self._num_classes)
        of_classes = sums / np.bincount(self._classes, minlength=self._num_classes)
        return Point(
            epoch=epoch,
            steps=steps,
            seconds=data_seconds + compute_seconds,
            data_seconds=data_seconds,
            compute_seconds=compute_seconds,
            train_error=float(self._errors(model, self._train).mean()),
            test_error=float(errors.mean()),
            class_errors=tuple(of_classes.tolist()),
            worst_class_error=float(of_classes.max()),
            proportions=tuple(batches.proportions.tolist()),
        )

    def _errors(self, model: nn.Module, rows: Rows) -> NDArray[np.float64]:
        return _of_rows(self._task.errors, self._task, model, rows).double().cpu().numpy()


def _of_rows(
    measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    task: Task,
    model: nn.Module,
    rows: Rows,
) -> torch.Tensor:
    """Returns what the model's `measure`, `Task.losses` or `Task.errors`, is of each row, `[N]`."""
    model.eval()
    measured = []
    with torch.no_grad():
        for begin in range(0, len(rows.inputs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            prepared = task.prepare(rows.inputs[chunk])
            measured.append(measure(model(prepared), prepared, None if rows.targets is None else rows.targets[chunk]))
    return torch.cat(measured)


def _sent(rows: Rows, device: torch.device) -> Rows:
    return rows.each(lambda tensor: tensor.to(device))
