"""The command `l2m-experiments run`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator

import torch

from l2m_experiments import runs
from l2m_experiments.methods import METHODS, method
from l2m_experiments.studies import STUDIES, study
from l2m_experiments.tasks import TASKS, task
from l2m_experiments.user_input import InputError


def run(arguments: Namespace, say: Callable[[str], None]) -> None:
    """Execute the runs that the arguments ask for, or list the available tasks, methods and studies.

    Args:
        arguments: tasks, methods, study, seeds, budget, preset, device, num_threads, out and list.
        say: Called with each text to print.

    Raises:
        InputError: An argument is out of range, data are missing, or the folder has runs of another configuration.
    """
    if arguments.list:
        say("\n".join(_catalog()))
        return
    tasks = [task(name, arguments.preset) for name in dict.fromkeys(arguments.tasks)]
    if arguments.study is not None:
        make_pairs = study(arguments.study)
        pairs = [pair for each in tasks for pair in make_pairs(each)]
    else:
        names = METHODS if arguments.methods == "all" else dict.fromkeys(arguments.methods.split(","))
        for name in names:
            method(name)
        pairs = [(each, METHODS[name]) for each in tasks for name in names]
    options = runs.Options(
        preset=arguments.preset,
        budget=runs.Budget.parse(arguments.budget),
        seeds=arguments.seeds,
        device=_device(arguments.device),
        num_threads=arguments.num_threads,
        folder=arguments.out,
    )
    planned = runs.plan(pairs, options)
    for task_name, method_name, reason in planned.refused:
        say(f"skipped: {method_name} on {task_name}: {reason}")
    say(f"{len(planned.runs)} runs to do, {planned.finished} already finished, in {options.folder}")
    runs.execute(planned, options)
    say(f"done; for the results: l2m-experiments report {options.folder}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        msg = "device cuda needs a GPU, and a torch that is built for it"
        raise InputError(msg)
    return torch.device(name)


def _catalog() -> Iterator[str]:
    yield "tasks:"
    for name in TASKS:
        yield f"  {name}: {task(name, 'quick').description}"
    yield "methods:"
    for name in METHODS:
        yield f"  {name}"
    yield "studies:"
    for name in STUDIES:
        yield f"  {name}"
