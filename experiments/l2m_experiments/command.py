"""What `l2m-experiments run` does with its arguments."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator

import torch

from l2m_experiments import runs
from l2m_experiments.errors import InputError
from l2m_experiments.methods import METHODS, method
from l2m_experiments.studies import STUDIES, study
from l2m_experiments.tasks import TASKS, task


def experiment(arguments: Namespace, say: Callable[[str], None]) -> None:
    """Runs what the arguments ask for, or lists what can be asked for.

    Args:
        arguments: tasks, methods, study, seeds, budget, preset, device, num_threads, out and list.
        say: Takes each line of what there is to say.

    Raises:
        InputError: An argument is out of range, data are missing, or the folder has runs of another configuration.
    """
    if arguments.list:
        say("\n".join(_catalogue()))
        return
    tasks = [task(name, arguments.preset) for name in dict.fromkeys(arguments.tasks)]
    if arguments.study is not None:
        chosen = study(arguments.study)
        pairs = [pair for some in tasks for pair in chosen(some)]
    else:
        names = METHODS if arguments.methods == "all" else dict.fromkeys(arguments.methods.split(","))
        for name in names:
            method(name)
        pairs = [(some, METHODS[name]) for some in tasks for name in names]
    settings = runs.Settings(
        preset=arguments.preset,
        budget=runs.Budget.parse(arguments.budget),
        seeds=arguments.seeds,
        device=_device(arguments.device),
        num_threads=arguments.num_threads,
        folder=arguments.out,
    )
    planned = runs.plan(pairs, settings)
    for of, name, reason in planned.refused:
        say(f"left out: {name} on {of}: {reason}")
    say(f"{len(planned.runs)} runs to do, {planned.finished} finished already, in {settings.folder}")
    runs.execute(planned, settings)
    say(f"done; what came out: l2m-experiments report {settings.folder}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        msg = "device cuda needs a GPU, and a torch that is built for it"
        raise InputError(msg)
    return torch.device(name)


def _catalogue() -> Iterator[str]:
    yield "tasks:"
    for name in TASKS:
        yield f"  {name}: {task(name, 'quick').description}"
    yield "methods:"
    for name in METHODS:
        yield f"  {name}"
    yield "studies:"
    for name in STUDIES:
        yield f"  {name}"
