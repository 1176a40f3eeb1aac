"""The training loop: one model, one method, timed and evaluated; the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from l2m_experiments.method import Batches, Method, Start
from l2m_experiments.records import Point
from l2m_experiments.task import OptimizerName, Rows, ScheduleName, Task, TaskData
from l2m_experiments.user_input import InputError

BudgetKind = Literal["epochs", "seconds"]
_OfRows = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor
]  # see `Task.losses` and `Task.errors`

# Torch's default parameters, except momentum for SGD. The last bits of fused Adam differ from those of Adam, which decide
# single test rows: "adam" keeps the figures of the studies, "adam-fused" those of the demo.
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adam-fused": partial(torch.optim.Adam, fused=True),
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
# Factor of the learning rate in an epoch that begins after a share of the budget.
SCHEDULES: dict[ScheduleName, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda used: 0.5 + 0.5 * math.cos(math.pi * used),  # Loshchilov and Hutter 2017, eq. 5, without restarts
}
MAX_EVALUATED_ROWS = 2000  # of the training set
_CHUNK = 250  # rows evaluated at once; larger activations are allocated anew each time, which costs page faults


def train(
    task: Task,
    data: TaskData,
    method: Method,
    seed: int,
    budget: BudgetKind,
    device: torch.device,
    on_epoch: Callable[[float], None] = lambda _: None,
) -> tuple[float, tuple[Point, ...]]:
    """Train a new model.

    Every method starts with the same weights and has the same number of steps per epoch. The model is evaluated before the
    first epoch and after every epoch, which does not count as training time. If the data shift, the batches are created anew
    in the middle of the budget, with their initial proportions; model and optimizer stay.

    Args:
        task: Task to learn.
        data: Data of the seed.
        method: A new method.
        seed: Seed of the weights and the batches.
        budget: The budget of the protocol that ends training; with "seconds", the last epoch is completed.
        device: Device of the model; the data are copied there batch by batch.
        on_epoch: Called after each epoch with the used share of the budget.

    Returns:
        Seconds that the method took before its first batch, and the points of the run.

    Raises:
        InputError: The budget is too short for data that shift.
    """
    torch.manual_seed(seed)
    model = task.model(data).to(device)
    optimizer = _optimizer(task, model)
    batches, warm_up = _begin(method, task, data, seed, device)
    evaluate = _Evaluation(task, data, method, device)
    points = [evaluate(model, batches, epoch=0, steps=0, data_seconds=0.0, compute_seconds=0.0)]
    later, used = data.later_train, 0.0
    while used < 1:
        if later is not None and used >= 0.5:
            batches.close()
            data, later = replace(data, train=later, later_train=None), None
            batches, again = _begin(method, task, data, seed, device)
            warm_up += again
            evaluate = _Evaluation(task, data, method, device)
        _set_learning_rate(optimizer, task, used)
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
        msg = f"the budget of {task.name} must be at least 2 epochs, because its data shift (got {points[-1].epoch})"
        raise InputError(msg)
    return warm_up, tuple(points)


def _begin(method: Method, task: Task, data: TaskData, seed: int, device: torch.device) -> tuple[Batches, float]:
    """Create the batches of a method, and measure how long that takes."""
    steps = max(len(data.train.classes) // task.protocol.batch_size, 1)
    start = Start(data, task, seed, steps, lambda: _classical_losses(start, device))
    began = perf_counter()
    batches = method.batches(start)
    _synchronize(device)
    return batches, perf_counter() - began


def _optimizer(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS[task.protocol.optimizer](model.parameters(), lr=task.protocol.learning_rate)


def _set_learning_rate(optimizer: torch.optim.Optimizer, task: Task, used: float) -> None:
    """Set the learning rate of an epoch that begins after a share of the budget."""
    for group in optimizer.param_groups:
        group["lr"] = task.protocol.learning_rate * SCHEDULES[task.protocol.schedule](used)


def _classical_losses(start: Start, device: torch.device) -> torch.Tensor:
    """Train a model classically and return its loss of each training row; see `Start.fit`."""
    task, classical = start.task, Method()
    model = task.model(start.data).to(device)
    optimizer, batches = _optimizer(task, model), classical.batches(start)
    for epoch in range(task.protocol.epochs):
        _set_learning_rate(optimizer, task, epoch / task.protocol.epochs)
        _epoch(task, classical, model, optimizer, batches, device)
    batches.close()
    return _measure(task.losses, task, model, _copy(start.data.train, device))


def _epoch(
    task: Task,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    device: torch.device,
) -> tuple[int, float, float]:
    """Train for an epoch; return its steps, the seconds spent waiting for batches, and the remaining seconds."""
    model.train()
    steps, data_seconds = 0, 0.0
    began = asked = perf_counter()
    for batch in batches:
        data_seconds += perf_counter() - asked
        fields = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        prepared = task.prepare(fields["inputs"])
        outputs, targets = model(prepared), fields.get("targets")
        losses = task.losses(method.outputs(outputs), prepared, targets)
        optimizer.zero_grad()
        method.objective(losses, fields["classes"]).backward()
        optimizer.step()
        batches.record(task.losses(outputs.detach(), prepared, targets) if method.records_plain else losses.detach())
        steps += 1
        asked = perf_counter()
    data_seconds += perf_counter() - asked
    method.end_epoch(lambda rows: _measure(task.losses, task, model, _copy(rows, device)))
    _synchronize(device)
    return steps, data_seconds, perf_counter() - began - data_seconds


def _synchronize(device: torch.device) -> None:
    # Kernels are asynchronous; without this their time would be attributed to whatever runs next.
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Evaluation:
    """Evaluator that creates the points of a run.

    Args:
        task: Task of the run.
        data: Data of the run; the rows to evaluate are copied to the device once.
        method: Method of the run, after it has created its batches.
        device: Device of the model.
    """

    def __init__(self, task: Task, data: TaskData, method: Method, device: torch.device) -> None:
        self._task, self._method, self._test = task, method, _copy(data.test, device)
        stride = slice(None, None, -(-len(data.train.classes) // MAX_EVALUATED_ROWS))
        self._train = _copy(data.train.map(lambda tensor: tensor[stride]), device)
        self._classes = data.test.classes.cpu().numpy()
        self._num_classes = len(data.class_names)
        self._scored = np.arange(self._num_classes) != data.unscored

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
        """Evaluate the model."""
        errors = self._errors(self._test_errors, model, self._test)
        sums = np.bincount(self._classes, weights=errors, minlength=self._num_classes)
        class_errors = sums / np.bincount(self._classes, minlength=self._num_classes)
        return Point(
            epoch=epoch,
            steps=steps,
            seconds=data_seconds + compute_seconds,
            data_seconds=data_seconds,
            compute_seconds=compute_seconds,
            train_error=float(self._errors(self._task.errors, model, self._train).mean()),
            test_error=float(errors[self._scored[self._classes]].mean()),
            class_errors=tuple(class_errors.tolist()),
            worst_class_error=float(class_errors[self._scored].max()),
            proportions=tuple(batches.proportions.tolist()),
        )

    def _test_errors(self, outputs: torch.Tensor, prepared: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        return self._task.errors(self._method.test_outputs(outputs), prepared, targets)

    def _errors(
        self,
        function: _OfRows,
        model: nn.Module,
        rows: Rows,
    ) -> NDArray[np.float64]:
        return _measure(function, self._task, model, rows).double().cpu().numpy()


def _measure(
    function: _OfRows,
    task: Task,
    model: nn.Module,
    rows: Rows,
) -> torch.Tensor:
    """Return `Task.losses` or `Task.errors` of the model for each row, `[N]`."""
    model.eval()
    measured = []
    with torch.no_grad():
        for begin in range(0, len(rows.inputs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            prepared = task.prepare(rows.inputs[chunk])
            measured.append(function(model(prepared), prepared, None if rows.targets is None else rows.targets[chunk]))
    return torch.cat(measured)


def _copy(rows: Rows, device: torch.device) -> Rows:
    return rows.map(lambda tensor: tensor.to(device))
