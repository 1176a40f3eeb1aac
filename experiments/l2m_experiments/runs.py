"""Many runs: plan them, skip those that are finished, and execute the rest one after another."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import NoReturn

import torch
from tqdm import tqdm

from l2m_experiments import machine, records
from l2m_experiments.method import Method, class_sizes
from l2m_experiments.records import Config, Record
from l2m_experiments.task import Task, TaskData
from l2m_experiments.training import BudgetKind, train
from l2m_experiments.user_input import InputError

Pair = tuple[Task, Callable[[], Method]]


@dataclass(frozen=True)
class Budget:
    """Budget that ends training.

    Attributes:
        kind: Whether the epochs or the seconds of the protocol end training.
        amount: Number that replaces the protocol's, or None.
    """

    kind: BudgetKind
    amount: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse "epochs", "seconds", "epochs=N" or "seconds=S".

        Raises:
            InputError: The text has another form, N is not a whole number above 0, or S is not a finite number above 0.
        """
        kind, given, amount = text.partition("=")
        try:
            if kind == "epochs" and (not given or int(amount) > 0):
                return cls("epochs", int(amount) if given else None)
            if kind == "seconds" and (not given or 0 < float(amount) < math.inf):
                return cls("seconds", float(amount) if given else None)
        except ValueError:
            pass
        msg = (
            "budget must be epochs, seconds, epochs=N or seconds=S, with N a whole number, both above 0 "
            f"(got {text[:200]!r})"
        )
        raise InputError(msg)

    def apply(self, task: Task) -> Task:
        """Return the task with this budget in its protocol."""
        if self.amount is None:
            return task
        if self.kind == "epochs":
            return replace(task, protocol=replace(task.protocol, epochs=int(self.amount)))
        return replace(task, protocol=replace(task.protocol, seconds=self.amount))


@dataclass(frozen=True)
class Options:
    """Options shared by all runs.

    Attributes:
        preset: Preset of the tasks, for the record.
        budget: Budget that ends training.
        seeds: Number of runs of each pair, with seeds 0 .. seeds - 1; at least 1.
        device: Device of the models.
        num_threads: Number of torch threads on the CPU; the loader uses its own default.
        folder: Folder of the records.
    """

    preset: str
    budget: Budget
    seeds: int
    device: torch.device
    num_threads: int
    folder: Path


@dataclass(frozen=True)
class Run:
    """A run to execute."""

    task: Task
    make: Callable[[], Method]
    config: Config


@dataclass(frozen=True)
class Plan:
    """Runs to execute.

    Attributes:
        runs: Unfinished runs, ordered by seed first, so that an interruption leaves all pairs with about as many seeds.
        finished: Number of finished runs.
        refused: Task, method and reason of each pair that makes no sense.
    """

    runs: tuple[Run, ...]
    finished: int
    refused: tuple[tuple[str, str, str], ...]


def plan(pairs: Sequence[Pair], options: Options) -> Plan:
    """Plan the runs, and load the data of every task once, so that a missing file is reported before hours of work.

    Args:
        pairs: Tasks with the functions that create their methods; pairs of a task are consecutive.
        options: Options of all runs.

    Raises:
        InputError: An option is out of range, data are missing or damaged, a network cannot be created, every pair is refused,
            or the folder has a run of another configuration or cannot be written.
    """
    for name, value in (("seeds", options.seeds), ("num_threads", options.num_threads)):
        if value < 1:
            msg = f"{name} must be at least 1 (got {value})"
            raise InputError(msg)
    refused, accepted = [], []
    for task, makers in _by_task(pairs):
        data = task.load(0)
        task.model(data)
        for make in makers:
            method = make()
            reason = method.refusal(task, data)
            if reason is None:
                accepted.append((options.budget.apply(task), make, method.name))
            else:
                refused.append((task.name, method.name, reason))
    if not accepted:
        msg = "; ".join(f"{method} makes no sense on {task}: {reason}" for task, method, reason in refused)
        raise InputError(msg or "there is nothing to run")
    runs = [
        Run(task, make, _config(task, name, seed, options))
        for seed in range(options.seeds)
        for task, make, name in accepted
    ]
    unfinished = [run for run in runs if not _is_finished(options.folder, run.config)]
    records.make_folder(options.folder)
    return Plan(tuple(unfinished), len(runs) - len(unfinished), tuple(refused))


def execute(planned: Plan, options: Options) -> None:
    """Execute the runs of a plan, and write the record of each as soon as it is finished.

    Progress is shown on stderr, on a terminal as a bar, otherwise as one line per run. The number of torch threads is set for the
    whole process. Runs that another process has finished in the meantime are skipped.

    Raises:
        InputError: A record cannot be written, data have been removed, or the budget is too short for them.
    """
    if not planned.runs:
        return
    torch.set_num_threads(options.num_threads)
    environment = _environment(options)  # read now, because the checkout may change during the runs
    # A run counts for the seconds of its protocol, so that the time left is right for tasks of different sizes.
    lengths = [round(1000 * run.config.seconds) for run in planned.runs]
    began, finished = perf_counter(), 0
    bar_format = "{percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    with tqdm(total=sum(lengths), bar_format=bar_format, dynamic_ncols=True, disable=None) as bar:
        loaded: tuple[str, int] | None = None
        for number, (run, length) in enumerate(zip(planned.runs, lengths, strict=True), start=1):
            name = f"{run.config.task}, {run.config.method}, seed {run.config.seed}"
            bar.set_postfix_str(name)
            if loaded != (run.task.name, run.config.seed):
                data, loaded = run.task.load(run.config.seed), (run.task.name, run.config.seed)
            if not _is_finished(options.folder, run.config):
                records.write(
                    options.folder, _execute(run, data, options, environment, _advance(bar, finished, length))
                )
            finished += length
            bar.update(finished - bar.n)
            if bar.disable:
                left = (perf_counter() - began) * (sum(lengths) / finished - 1)
                message = f"run {number} of {len(lengths)} done: {name}; about {left:.0f} s left"
                tqdm.write(message, file=sys.stderr)


def _execute(
    run: Run, data: TaskData, options: Options, environment: dict[str, str | int], on_epoch: Callable[[float], None]
) -> Record:
    kind, device = options.budget.kind, options.device
    warm_up, points = train(run.task, data, run.make(), run.config.seed, kind, device, on_epoch)
    return Record(
        config=run.config,
        kind=run.task.kind,
        description=run.task.description,
        source=data.source,
        class_names=data.class_names,
        class_sizes=tuple(class_sizes(data).tolist()),
        test_class_sizes=tuple(data.test.classes.bincount(minlength=len(data.class_names)).tolist()),
        learned=run.task.learned,
        paper={budget: dict(figures) for budget, figures in run.task.paper.items()},
        environment={"date": machine.now(), **environment},
        warm_up_seconds=warm_up,
        points=points,
    )


def _advance(bar: tqdm[NoReturn], begin: int, length: int) -> Callable[[float], None]:
    """Return a function that moves the bar to a share of the run that begins at `begin`."""

    def advance(share: float) -> None:
        bar.update(begin + round(share * length) - bar.n)

    return advance


def _by_task(pairs: Sequence[Pair]) -> Iterator[tuple[Task, list[Callable[[], Method]]]]:
    for _, group in groupby(pairs, lambda pair: pair[0].name):
        consecutive = list(group)
        yield consecutive[0][0], [make for _, make in consecutive]


def _config(task: Task, method: str, seed: int, options: Options) -> Config:
    return Config(
        task=task.name,
        method=method,
        seed=seed,
        preset=options.preset,
        budget=options.budget.kind,
        device=options.device.type,
        **asdict(task.protocol),
    )


def _is_finished(folder: Path, config: Config) -> bool:
    path = records.path_of(folder, config)
    if not records.is_there(path):
        return False
    different = records.differences(config, records.read(path).config)
    if different:
        msg = f"{path} has another configuration: {different}; choose another folder, because finished runs are kept"
        raise InputError(msg)
    return True


def _environment(options: Options) -> dict[str, str | int]:
    return {
        "commit": machine.git(Path(__file__).parent, "rev-parse", "HEAD"),
        "cpu": machine.cpu_model(),
        "gpu": torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "",
        "threads": options.num_threads,
        **machine.versions(),
        "imbalanced-learn": version("imbalanced-learn"),
    }
