"""A folder of runs: what is checked before the first, going on where it was left, and the progress."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from l2m_fast.experiments import records
from l2m_fast.experiments.files import InputError
from l2m_fast.experiments.machine import commit, cpu_model, versions
from l2m_fast.experiments.method import Method, class_sizes
from l2m_fast.experiments.task import Task, TaskData
from l2m_fast.experiments.training import Budget, steps_per_epoch, train

Comparison = tuple[Task, Sequence[Method]]
"""A task and the methods that are compared on it."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        seeds: Runs of each method, >= 1; their seeds are 0, 1, ...
        budget: "epochs" or "seconds", of the task's protocol, or "epochs=N" or "seconds=S".
        preset: Of the tasks, for the record.
        device: "auto" (CUDA where there is a device), "cpu" or "cuda".
        num_threads: Threads of torch, >= 1; a loader takes its own default.
        out: Folder of the records.
        named: Whether the methods were named one by one: those that a task refuses are an error then, and left out otherwise.

    Raises:
        InputError: A value out of range, or there is no such device.
    """

    seeds: int
    budget: str
    preset: str
    device: str
    num_threads: int
    out: Path
    named: bool

    def __post_init__(self) -> None:
        for name in ("seeds", "num_threads"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1 (got {getattr(self, name)})"
                raise InputError(msg)
        if self.device == "cuda" and not torch.cuda.is_available():
            msg = "device must be auto or cpu where torch finds no CUDA device (got cuda)"
            raise InputError(msg)

    @property
    def torch_device(self) -> torch.device:
        """The device."""
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())


def with_budget(task: Task, budget: str) -> tuple[Task, Budget]:
    """Returns the task with the budget in its protocol, by which warm-ups and schedules go, and the budget.

    Args:
        task: Any.
        budget: See `Settings`.

    Raises:
        InputError: It cannot be read, or is not above zero.
    """
    unit, given, text = budget.partition("=")
    protocol = task.protocol
    try:
        if unit == "epochs":
            protocol = replace(protocol, epochs=int(text) if given else protocol.epochs)
            if protocol.epochs > 0:
                return replace(task, protocol=protocol), Budget("epochs", protocol.epochs)
        elif unit == "seconds":
            protocol = replace(protocol, seconds=float(text) if given else protocol.seconds)
            if 0 < protocol.seconds < math.inf:
                return replace(task, protocol=protocol), Budget("seconds", protocol.seconds)
    except ValueError:
        pass
    msg = f"budget must be epochs, seconds, epochs=N with a whole N >= 1 or seconds=S with S > 0 (got {budget!r})"
    raise InputError(msg)


def run_all(comparisons: Sequence[Comparison], settings: Settings) -> None:
    """Runs what is not there yet, seed by seed and in it task by task, and writes one record a run.

    Everything is checked before the first run starts. An early stop leaves all finished runs, so of all seeds but the last
    whole comparisons. On a terminal the progress is a live bar with the time left, elsewhere a line a run, both on
    standard error.

    Args:
        comparisons: What to compare.
        settings: How.

    Raises:
        InputError: Something given cannot be used, a data file is missing or broken, or there are records of another
            configuration.
    """
    device = settings.torch_device
    budgeted = [(*with_budget(task, settings.budget), methods) for task, methods in comparisons]
    records.check_writable(settings.out)
    plan = []
    for task, budget, given in budgeted:
        methods = _accepted(task, given, None, settings)  # what needs no data is said before they are fetched
        data = task.load(0)
        of_task = records.read_all(settings.out / records.file_name(task.name))
        records.check_alike(of_task, _configuration(task, budget, settings, data) | {"seed": 0})
        plan.append((task, budget, _accepted(task, methods, data, settings)))
    waiting = [
        (task, budget, seed, [method for method in methods if not _path(settings, task, method, seed).exists()])
        for seed in range(settings.seeds)
        for task, budget, methods in plan
    ]
    total = sum(len(methods) for *_, methods in waiting)
    there = settings.seeds * sum(len(methods) for *_, methods in plan) - total
    if there:
        _say(f"{there} of {there + total} runs are there already")
    about: dict[str, Any] = {"versions": versions(), "commit": commit(), "cpu": cpu_model()}
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads)
    done, begin = 0, time.perf_counter()
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # a description ends in a colon
    try:
        with tqdm(total=total, disable=None, bar_format=layout) as bar:
            for task, budget, seed, methods in waiting:
                if not methods:
                    continue
                data = task.load(seed)
                config = _configuration(task, budget, settings, data) | {"seed": seed}
                for method in methods:
                    bar.set_description(f"run {done + 1} of {total}: {task.name}, {method.name}, seed {seed}")
                    # A copy, since a method keeps what it needs during a run.
                    run = train(task, copy.copy(method), data, seed, budget, device, _Advance(bar, done))
                    record = {
                        "config": {**config, "method": method.name},
                        **about,
                        "kind": task.kind,
                        "description": task.description,
                        "learned": task.learned,
                        "class_names": list(data.class_names),
                        **run,
                    }
                    records.write(_path(settings, task, method, seed), record)
                    done += 1
                    if bar.disable:
                        left = (time.perf_counter() - begin) * (total - done) / done
                        _say(
                            f"run {done} of {total} done: {task.name}, {method.name}, seed {seed}; "
                            f"{_outcome(task, run)}; about {left:.0f} s left"
                        )
    finally:
        torch.set_num_threads(torch_threads)


class _Advance:
    """Moves the bar, whose unit is a run, by the share of the budget that a run has used up."""

    def __init__(self, bar: tqdm[Any], done: int) -> None:
        self._bar, self._done = bar, done

    def __call__(self, used: float) -> None:
        self._bar.update(self._done + used - self._bar.n)


def _accepted(task: Task, methods: Sequence[Method], data: TaskData | None, settings: Settings) -> list[Method]:
    """Methods that make sense on the task; what is left out is said, or an error where it was asked for by name."""
    refused = {method.name: method.refusal(task, data) for method in methods}
    for name, reason in refused.items():
        if reason is not None:
            said = f"{name} makes no sense on {task.name}: {reason}"
            if settings.named:
                raise InputError(said)
            _say(f"left out: {said}")
    return [method for method in methods if refused[method.name] is None]


def _configuration(task: Task, budget: Budget, settings: Settings, data: TaskData) -> dict[str, Any]:
    """What decides a run but its method and seed."""
    protocol = task.protocol
    return {
        "task": task.name,
        "preset": settings.preset,
        "budget": {budget.unit: budget.amount},
        "batch_size": protocol.batch_size,
        "learning_rate": protocol.learning_rate,
        "optimizer": protocol.optimizer,
        "mixing_rate": protocol.mixing_rate,
        "device": settings.torch_device.type,
        "threads": settings.num_threads,
        "steps_per_epoch": steps_per_epoch(task, data),
        "class_sizes": class_sizes(data).tolist(),
        "data_source": data.source,
    }


def _path(settings: Settings, task: Task, method: Method, seed: int) -> Path:
    return records.path_of(settings.out, task.name, method.name, seed)


def _outcome(task: Task, run: dict[str, Any]) -> str:
    last = run["epochs"][-1]
    if last["train_loss"] is None:
        return "the loss is not finite"
    return f"test error {last['test_error']:.4g}{' %' if task.kind == 'classification' else ''}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
