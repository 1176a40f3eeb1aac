"""Many runs: what is to be run, what of it is finished already, and the rest one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from l2m_experiments import machine, records
from l2m_experiments.errors import InputError
from l2m_experiments.method import Method, class_sizes
from l2m_experiments.protocols import Preset
from l2m_experiments.records import Config, Record
from l2m_experiments.task import Task
from l2m_experiments.training import BudgetKind, train

Pair = tuple[Task, Callable[[], Method]]


@dataclass(frozen=True)
class Budget:
    """What ends training.

    Attributes:
        kind: Whether the epochs or the seconds of the protocol do.
        amount: How many instead of those of the protocol; None: the protocol's.
    """

    kind: BudgetKind
    amount: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads "epochs", "seconds", "epochs=N" or "seconds=S".

        Raises:
            InputError: It is none of these, N is no whole number above 0, or S no finite number above 0.
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
            f"budget must be epochs, seconds, epochs=N or seconds=S, with N a whole number, both above 0 (got {text!r})"
        )
        raise InputError(msg)

    def of(self, task: Task) -> Task:
        """Returns the task with this budget in its protocol."""
        if self.amount is None:
            return task
        if self.kind == "epochs":
            return replace(task, protocol=replace(task.protocol, epochs=int(self.amount)))
        return replace(task, protocol=replace(task.protocol, seconds=self.amount))


@dataclass(frozen=True)
class Settings:
    """What all runs have in common.

    Attributes:
        preset: That the tasks were made for, for the record.
        budget: What ends training.
        seeds: Runs of each pair, with seeds 0 .. seeds - 1; at least 1.
        device: Where models are trained.
        num_threads: Of torch on the CPU; the loader takes its own default.
        folder: Where records go and are looked for.
    """

    preset: Preset
    budget: Budget
    seeds: int
    device: torch.device
    num_threads: int
    folder: Path


@dataclass(frozen=True)
class Run:
    """One run that is to be done."""

    task: Task
    make: Callable[[], Method]
    config: Config


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        runs: Those that are not finished, seeds outermost, so that what there is after an interruption is balanced.
        finished: How many are.
        refused: Task, method and reason of each pair that makes no sense.
    """

    runs: tuple[Run, ...]
    finished: int
    refused: tuple[tuple[str, str, str], ...]


def plan(pairs: Sequence[Pair], settings: Settings) -> Plan:
    """Says what is to be done; loads the data of every task once, so that a missing file is not found hours later.

    Args:
        pairs: Tasks and what makes their methods; pairs of one task one after another.
        settings: Of all runs.

    Raises:
        InputError: A setting is out of range, data are missing or broken, a network cannot be made, every pair is refused, or
            the folder has a run of another configuration or cannot be written.
    """
    for name, value in (("seeds", settings.seeds), ("num_threads", settings.num_threads)):
        if value < 1:
            msg = f"{name} must be at least 1 (got {value})"
            raise InputError(msg)
    refused, sensible = [], []
    for task, of_task in _by_task(pairs):
        data = task.load(0)
        task.model(data)
        for make in of_task:
            method = make()
            reason = method.refusal(task, data)
            if reason is None:
                sensible.append((settings.budget.of(task), make, method.name))
            else:
                refused.append((task.name, method.name, reason))
    if not sensible:
        msg = "; ".join(f"{method} makes no sense on {task}: {reason}" for task, method, reason in refused)
        raise InputError(msg or "there is nothing to run")
    runs = [
        Run(task, make, _config(task, name, seed, settings))
        for seed in range(settings.seeds)
        for task, make, name in sensible
    ]
    unfinished = [run for run in runs if not _is_finished(settings.folder, run.config)]
    records.make_folder(settings.folder)
    return Plan(tuple(unfinished), len(runs) - len(unfinished), tuple(refused))


def execute(planned: Plan, settings: Settings) -> None:
    """Does the runs of a plan, with a progress bar on stderr; writes a record as each is finished.

    Sets torch's number of threads for the whole process. What another process has finished meanwhile is not done again.

    Raises:
        InputError: A record cannot be written, data have gone, or the budget is too short for them.
    """
    if not planned.runs:
        return
    torch.set_num_threads(settings.num_threads)
    environment = _environment(settings)  # now: what is loaded is what is run, whatever happens to the checkout
    # A run is as long as its protocol says, more or less, or the time left would mean nothing on tasks of many sizes.
    total = sum(_length(run) for run in planned.runs)
    bar_format = "{percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    with tqdm(total=total, bar_format=bar_format, dynamic_ncols=True) as bar:
        for _, of_data in groupby(planned.runs, lambda run: (run.task.name, run.config.seed)):
            some = list(of_data)
            data = some[0].task.load(some[0].config.seed)
            for run in some:
                bar.set_postfix_str(f"{run.config.task}, {run.config.method}, seed {run.config.seed}")
                method, kind, advance = run.make(), settings.budget.kind, _advance(bar, _length(run))
                if _is_finished(settings.folder, run.config):
                    advance(1.0)
                    continue
                warm_up, points = train(run.task, data, method, run.config.seed, kind, settings.device, advance)
                record = Record(
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
                records.write(settings.folder, record)


def _length(run: Run) -> int:
    # Whole numbers: a bar whose parts add up to a little more than the whole complains.
    return round(1000 * run.config.seconds)


def _advance(bar: tqdm[NoReturn], length: int) -> Callable[[float], None]:
    """Returns what moves the bar to a share of the run that begins now."""
    before = int(bar.n)

    def advance(share: float) -> None:
        bar.update(before + round(share * length) - bar.n)

    return advance


def _by_task(pairs: Sequence[Pair]) -> Iterator[tuple[Task, list[Callable[[], Method]]]]:
    for _, of_task in groupby(pairs, lambda pair: pair[0].name):
        some = list(of_task)
        yield some[0][0], [make for _, make in some]


def _config(task: Task, method: str, seed: int, settings: Settings) -> Config:
    return Config(
        task=task.name,
        method=method,
        seed=seed,
        preset=settings.preset,
        budget=settings.budget.kind,
        device=settings.device.type,
        **asdict(task.protocol),
    )


def _is_finished(folder: Path, config: Config) -> bool:
    path = records.path_of(folder, config)
    if not records.is_there(path):
        return False
    different = records.differences(config, records.read(path).config)
    if different:
        msg = f"{path} is of another configuration: {different}; choose another folder, finished runs are kept"
        raise InputError(msg)
    return True


def _environment(settings: Settings) -> dict[str, str | int]:
    return {
        "commit": machine.git(Path(__file__).parent, "rev-parse", "HEAD"),
        "cpu": machine.cpu_model(),
        "gpu": torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else "",
        "threads": settings.num_threads,
        **machine.versions(),
        "imbalanced-learn": version("imbalanced-learn"),
    }
