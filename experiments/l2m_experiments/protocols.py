"""How each task is trained in each preset.

Preset "paper" follows table 3 of the paper (appendix C). Where it contradicts the rest of the paper, or could not be read with
certainty, the authors' code decides: mixing rates are 0.1 where the table says 0.5, outside of the [0.01, 0.1] that the paper
advises, and 0.05 for housing. Learning rates are the table's, also where the code has others: with its 1e-4 classical
training reaches 94.7 % on MNIST and 78 % on Fashion-MNIST after a quarter of the authors' epochs (table 1: 93.1 and 74.1),
with the 5e-3 of the code 98.9 and 89.5 %, more than table 1 has at the end. Everything is trained with Adam, as the paper says.
Its budgets are in seconds for classification and in epochs for the rest; the other unit is the authors' number of epochs
of classical training, or seconds of our own choice. Tasks that the paper does not have are trained alike.

Preset "quick" is for two CPU cores: fixed shares of the rows, thinned alike; smaller batches and larger learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from l2m_experiments.paper import FIGURES
from l2m_experiments.task import Kind, Protocol, Task, TaskData

Preset = Literal["quick", "paper"]


@dataclass(frozen=True)
class Setting:
    """What a preset decides of a task.

    Attributes:
        protocol: How it is trained.
        learned: Test error that classical training has to reach for a comparison to count: percent, or squared error.
        train_share: Share of each class of the thinned training set that is used.
        test_share: Share of each class of the test set.
    """

    protocol: Protocol
    learned: float
    train_share: float = 1.0
    test_share: float = 1.0


# batch size, learning rate, mixing rate, epochs, seconds
SETTINGS: dict[str, dict[Preset, Setting]] = {
    "digits": {
        "quick": Setting(Protocol(32, 5e-4, 0.1, 80, 3), 15.0),
        "paper": Setting(Protocol(32, 1e-3, 0.1, 80, 12), 15.0),
    },
    "mnist": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 15, 10), 5.0, 0.2, 0.2),
        "paper": Setting(Protocol(1000, 1e-4, 0.1, 45, 50), 5.0),
    },
    "fashion-mnist": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 30, 20), 20.0, 0.2, 0.2),
        "paper": Setting(Protocol(1000, 1e-4, 0.1, 56, 50), 20.0),
    },
    "fashion-mnist-long-tail": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 30, 20), 30.0, 0.7, 0.2),
        "paper": Setting(Protocol(1000, 1e-4, 0.1, 200, 50), 35.0),
    },
    "cifar10": {
        "quick": Setting(Protocol(100, 1e-3, 0.1, 10, 40), 50.0, 0.2, 0.2),
        "paper": Setting(Protocol(1000, 7e-5, 0.1, 125, 200), 45.0),
    },
    "cifar100": {
        "quick": Setting(Protocol(100, 1e-3, 0.1, 10, 40), 90.0, 0.8, 0.5),
        "paper": Setting(Protocol(5000, 1e-4, 0.1, 125, 50), 90.0),
    },
    "tiny-imagenet100": {
        "quick": Setting(Protocol(100, 1e-3, 0.1, 10, 40), 90.0, 0.8),
        "paper": Setting(Protocol(5000, 1e-4, 0.1, 125, 50), 90.0),
    },
    "imagenette": {
        "quick": Setting(Protocol(50, 1e-3, 0.1, 5, 120), 60.0, 0.5, 0.2),
        "paper": Setting(Protocol(100, 1e-6, 0.1, 60, 230), 70.0),
    },
    "imdb": {
        "quick": Setting(Protocol(50, 1e-3, 0.1, 6, 40), 35.0, 0.2, 0.2),
        "paper": Setting(Protocol(500, 1e-4, 0.1, 40, 150), 25.0),
    },
    "adult": {
        "quick": Setting(Protocol(250, 1e-3, 0.1, 15, 6), 16.0),
        "paper": Setting(Protocol(1000, 1e-3, 0.1, 50, 20), 16.0),
    },
    "mean-estimation": {
        "quick": Setting(Protocol(500, 5e-4, 0.05, 200, 3), 1.5),
        "paper": Setting(Protocol(500, 5e-5, 0.01, 500, 20), 2.0),
    },
    "wine": {
        "quick": Setting(Protocol(100, 1e-3, 0.1, 150, 3), 1.0),
        "paper": Setting(Protocol(100, 1e-4, 0.05, 300, 20), 3.0),
    },
    "housing": {
        "quick": Setting(Protocol(500, 1e-3, 0.1, 200, 3), 0.8),
        "paper": Setting(Protocol(1000, 5e-5, 0.05, 1200, 40), 1.5),
    },
    "mnist-reconstruction": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 40, 10), 12.0, 0.3, 0.2),
        "paper": Setting(Protocol(1000, 5e-4, 0.1, 40, 40), 15.0),
    },
    "fashion-mnist-reconstruction": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 40, 10), 20.0, 0.3, 0.2),
        "paper": Setting(Protocol(1000, 1e-5, 0.1, 70, 60), 60.0),
    },
    "cifar10-reconstruction": {
        "quick": Setting(Protocol(100, 5e-4, 0.1, 30, 20), 80.0, 0.6, 0.2),
        "paper": Setting(Protocol(1000, 1e-5, 0.1, 110, 60), 160.0),
    },
}


def assemble(
    name: str,
    preset: Preset,
    kind: Kind,
    description: str,
    load: Callable[[int, Setting], TaskData],
    model: Callable[[TaskData], nn.Module],
    prepare: Callable[[torch.Tensor], torch.Tensor],
) -> Task:
    """Returns the task, with what its preset and the paper say of it; `load` takes a seed and the setting."""
    setting = SETTINGS[name][preset]
    return Task(
        name,
        kind,
        description,
        lambda seed: load(seed, setting),
        model,
        prepare,
        setting.protocol,
        setting.learned,
        FIGURES.get(name, {}),
    )
