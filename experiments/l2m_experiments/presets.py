"""Registration of tasks, each with its two presets.

Preset "paper" follows table 3 of the paper (appendix C). Where the table contradicts the rest of the paper or cannot be read
with certainty, the authors' code decides. Mixing rates are 0.1 where the table has 0.5, which is outside of the [0.01, 0.1]
that the paper recommends, and 0.05 for housing. Learning rates are those of the table even where the code has others: with
the code's 1e-4, classical training reaches 94.7 % on MNIST and 78 % on Fashion-MNIST after a quarter of the authors' epochs
(table 1: 93.1 and 74.1); with the code's 5e-3 it reaches 98.9 and 89.5 %, more than table 1 has at the end. Every task uses
Adam, as the paper says. Budgets are in seconds for classification and in epochs for the rest; the other unit is the
authors' number of epochs of classical training, or a number of seconds of our choice. Tasks that are not in the paper are
trained in the same way.

Preset "quick" is for two CPU cores: fixed shares of the rows, smaller batches and larger learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from l2m_experiments.paper import FIGURES
from l2m_experiments.task import Kind, Protocol, Task, TaskData

Preset = Literal["quick", "paper"]


@dataclass(frozen=True)
class Variant:
    """A task's protocol and amount of data in one preset.

    Attributes:
        protocol: Budget and hyperparameters.
        learned: Largest final test error of classical training for which comparisons are valid: percent, or squared error.
        train_share: Share of each class of the imbalanced training set that is used.
        test_share: Share of each class of the test set that is used.
    """

    protocol: Protocol
    learned: float
    train_share: float = 1.0
    test_share: float = 1.0


@dataclass(frozen=True)
class Draft:
    """Name, preset and variant of a task; the function of the task adds the rest.

    Attributes:
        name: Name of the task.
        preset: Name of the preset.
        variant: The task's variant in this preset.
    """

    name: str
    preset: Preset
    variant: Variant

    def task(
        self,
        kind: Kind,
        description: str,
        load: Callable[[int], TaskData],
        model: Callable[[TaskData], nn.Module],
        prepare: Callable[[torch.Tensor], torch.Tensor],
    ) -> Task:
        """Create the task; see `Task` for the arguments."""
        return Task(
            self.name,
            kind,
            description,
            load,
            model,
            prepare,
            self.variant.protocol,
            self.variant.learned,
            FIGURES.get(self.name, {}),
        )


@dataclass(frozen=True)
class Registered:
    """A registered task.

    Attributes:
        name: Name on the command line.
        variants: Variant of each preset.
        make: Creates the task from a draft.
    """

    name: str
    variants: Mapping[Preset, Variant]
    make: Callable[[Draft], Task]

    def __call__(self, preset: Preset) -> Task:
        """Create the task in a preset."""
        return self.make(Draft(self.name, preset, self.variants[preset]))


TASKS: dict[str, Registered] = {}
"""Every registered task by its name."""


def register(
    name: str, *, quick: Variant, paper: Variant
) -> Callable[[Callable[[Draft], Task]], Callable[[Draft], Task]]:
    """Register the decorated function as a task of the command line.

    Args:
        name: Name of the task; must be new.
        quick: Variant for two CPU cores.
        paper: Variant of the paper.
    """
    assert name not in TASKS, f"two tasks are named {name}"

    def add(make: Callable[[Draft], Task]) -> Callable[[Draft], Task]:
        TASKS[name] = Registered(name, {"quick": quick, "paper": paper}, make)
        return make

    return add
