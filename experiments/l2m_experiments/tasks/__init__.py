"""All tasks by name. A task is registered by a module in this folder; every module here is imported."""

from __future__ import annotations

import importlib
import pkgutil

from l2m_experiments.presets import TASKS, Preset
from l2m_experiments.task import Task
from l2m_experiments.user_input import lookup

__all__ = ["TASKS", "Preset", "task"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def task(name: str, preset: Preset) -> Task:
    """Create a task by its name.

    Raises:
        InputError: No task has this name.
    """
    return lookup("task", name, TASKS)(preset)
