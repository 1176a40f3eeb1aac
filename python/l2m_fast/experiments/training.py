"""One run: a model is trained on the batches of a method, and tested after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from l2m_fast.experiments.method import Batches, Method, Start
from l2m_fast.experiments.task import Rows, Task, TaskData

# A step of each, from parameters and learning rate; what is not given here is torch's default.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, rate, fused=True),
    "adamw": lambda parameters, rate: torch.optim.AdamW(parameters, rate, fused=True),
    "rmsprop": lambda parameters, rate: torch.optim.RMSprop(parameters, rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.9, fused=True),
}

# Rows tested at a time: small enough for the allocator of the CPU to reuse its memory.
_PIECE = 500


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many epochs, or with the epoch in which so many seconds of training are used up.

    A warm-up is not part of it, so that both readings of a run are complete: with the warm-up counted, whose seconds are
    recorded, and without.
    """

    unit: Literal["epochs", "seconds"]
    amount: float

    def used(self, epochs: int, seconds: float) -> float:
        """Returns the share that is used up, 1 at the end."""
        return min(1.0, (epochs if self.unit == "epochs" else seconds) / self.amount)


def on_device(data: TaskData, device: torch.device) -> TaskData:
    """Returns the data with its tensors on a device."""

    def moved(rows: Rows) -> Rows:
        targets = None if rows.targets is None else rows.targets.to(device)
        return Rows(rows.inputs.to(device), rows.classes.to(device), targets)

    return replace(data, train=moved(data.train), test=moved(data.test))


def steps_per_epoch(task: Task, data: TaskData) -> int:
    """Gradient steps of an epoch of every method: N // batch_size, at least 1."""
    return max(1, len(data.train.classes) // task.protocol.batch_size)


def train(
    task: Task,
    method: Method,
    data: TaskData,
    seed: int,
    budget: Budget,
    device: torch.device,
    after_epoch: Callable[[float], object],
) -> dict[str, Any]:
    """Trains a fresh model and tests it before the first epoch and after each.

    Deterministic on the CPU but for the seconds: data, initial weights, and the rows on which the training error is measured
    are functions of the seed and the same for every method.

    Args:
        task: What is learned.
        method: How, made for this run.
        data: Of the seed.
        seed: Of weights and batches.
        budget: When to end.
        device: Where to train; the data are brought there first, which no clock counts.
        after_epoch: Called after each epoch with the share of the budget that is used up.

    Returns:
        "warm_up_seconds": what the method did before its first batch. "epochs": for the state before training and after
        each epoch a dict of "train_error" and "train_loss" (means over as many training rows as there are test rows, at
        most), "test_error" (mean over the test rows), "test_class_errors" `[K]`, "proportions" `[K]` in force at the
        beginning of the epoch, "data_seconds" (taking the batches and recording losses) and "compute_seconds" (the
        rest of the epoch; testing is not part of it). On a CUDA device, which works by itself, data seconds are those
        for which the program was held up. Errors and losses that are not finite are None.
    """
    data = on_device(data, device)
    steps = steps_per_epoch(task, data)
    num_classes = len(data.class_names)
    some = torch.randperm(len(data.train.classes), generator=torch.Generator().manual_seed(seed))
    train_sample = _take(data.train, some[: len(data.test.classes)].to(device))

    # What torch sets up at its first step would be counted for the method that happens to come first.
    _step(task, Method(), *_fresh(task, data, seed, device), _take(data.train, slice(task.protocol.batch_size)))
    model, optimizer = _fresh(task, data, seed, device)
    start = Start(data, task, seed, steps, fit=lambda: _classical_losses(start, device))
    begin = time.perf_counter()
    batches = method.batches(start)
    warm_up_seconds = time.perf_counter() - begin

    def tested(proportions: list[float], data_seconds: float, compute_seconds: float) -> dict[str, Any]:
        test_errors, _ = _evaluate(task, model, data.test)
        train_errors, train_losses = _evaluate(task, model, train_sample)
        counts = torch.bincount(data.test.classes, minlength=num_classes)
        sums = torch.zeros_like(counts, dtype=torch.float64).index_add_(0, data.test.classes, test_errors)
        return {
            "train_error": _finite(train_errors.mean().item()),
            "train_loss": _finite(train_losses.mean().item()),
            "test_error": _finite(test_errors.mean().item()),
            "test_class_errors": [_finite(error) for error in (sums / counts).tolist()],
            "proportions": proportions,
            "data_seconds": data_seconds,
            "compute_seconds": compute_seconds,
        }

    try:
        epochs = [tested(batches.proportions.tolist(), 0.0, 0.0)]
        used = seconds = 0.0
        while used < 1:
            proportions = batches.proportions.tolist()
            timed = _epoch(task, method, model, optimizer, batches, device)
            epochs.append(tested(proportions, *timed))
            seconds += sum(timed)
            used = budget.used(len(epochs) - 1, seconds)
            after_epoch(used)
    finally:
        batches.close()
    return {"warm_up_seconds": warm_up_seconds, "epochs": epochs}


def _epoch(
    task: Task,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    device: torch.device,
) -> tuple[float, float]:
    """Trains one epoch; returns data and compute seconds."""
    model.train()
    data_seconds = 0.0
    begin = before = time.perf_counter()
    for batch in batches:
        data_seconds += time.perf_counter() - before
        losses = _step(task, method, model, optimizer, Rows(batch["inputs"], batch["classes"], batch.get("targets")))
        before = time.perf_counter()
        batches.record(losses)
    data_seconds += time.perf_counter() - before
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return data_seconds, time.perf_counter() - begin - data_seconds


def _step(task: Task, method: Method, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Rows) -> torch.Tensor:
    """Makes one step; returns the losses before it, `[B]`, detached."""
    prepared = task.prepare(batch.inputs)
    losses = task.losses(model(prepared), prepared, batch.targets)
    optimizer.zero_grad()
    method.objective(losses, batch.classes).backward()
    optimizer.step()
    return losses.detach()


def _classical_losses(start: Start, device: torch.device) -> torch.Tensor:
    """Trains a fresh model classically for the protocol's epochs; returns the loss of each training row, `[N]`."""
    task, classical = start.task, Method()
    # The run goes on with torch's generators where any other method does.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model, optimizer = _fresh(task, start.data, start.seed, device)
        batches = classical.batches(start)
        try:
            for _ in range(task.protocol.epochs):
                _epoch(task, classical, model, optimizer, batches, device)
        finally:
            batches.close()
        _, losses = _evaluate(task, model, start.data.train)
    return losses


def _fresh(task: Task, data: TaskData, seed: int, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = task.model(data).to(device)
    return model, OPTIMIZERS[task.protocol.optimizer](model.parameters(), task.protocol.learning_rate)


@torch.no_grad()
def _evaluate(task: Task, model: nn.Module, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Error and loss of each row, float64 `[N]`."""
    model.eval()
    errors, losses = [], []
    for begin in range(0, len(rows.classes), _PIECE):
        piece = _take(rows, slice(begin, begin + _PIECE))
        prepared = task.prepare(piece.inputs)
        outputs = model(prepared)
        errors.append(task.errors(outputs, prepared, piece.targets))
        losses.append(task.losses(outputs, prepared, piece.targets))
    return torch.cat(errors).double(), torch.cat(losses).double()


def _take(rows: Rows, which: torch.Tensor | slice) -> Rows:
    return Rows(rows.inputs[which], rows.classes[which], None if rows.targets is None else rows.targets[which])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
