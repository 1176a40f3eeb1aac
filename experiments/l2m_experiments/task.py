"""The parts of a task: its data, its protocol, its model, and the figures that the paper reports for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

Kind = Literal["classification", "regression", "reconstruction"]
OptimizerName = Literal["adam", "adam-fused", "adamw", "rmsprop", "sgd"]
ScheduleName = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Rows:
    """A training or test set in memory.

    Attributes:
        inputs: `[N, ...]`, in the dtype they are stored in: uint8 images, float32 columns, int64 token ids.
        classes: Class of each row, int64 `[N]`; for regression and reconstruction, a categorical column.
        targets: `[N]`: int64 class ids (classification: `classes` itself), float32 values (regression), or None
            (reconstruction, which predicts the inputs).
    """

    inputs: torch.Tensor
    classes: torch.Tensor
    targets: torch.Tensor | None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Rows:
        """Apply a function to every tensor, for example to select rows or to move them to another device."""
        targets = None if self.targets is None else function(self.targets)
        return Rows(function(self.inputs), function(self.classes), targets)


@dataclass(frozen=True)
class TaskData:
    """The data of one seed.

    Attributes:
        train: Training set with rows of every class.
        test: Test set with rows of every class.
        class_names: Name of each class.
        source: Names of the data files, for the record: "cifar10_jpeg.npz (lossy)".
        later_train: Training set of the second half of training if the data shift, else None.
        unscored: Class whose test rows count neither in the test error nor as the worst class; None: all count.
    """

    train: Rows
    test: Rows
    class_names: tuple[str, ...]
    source: str
    later_train: Rows | None = None
    unscored: int | None = None


@dataclass(frozen=True)
class Protocol:
    """Budget and hyperparameters of a task, the same for every method.

    Attributes:
        batch_size: Rows per batch, M in the paper.
        learning_rate: Learning rate at the beginning, eta in the paper.
        mixing_rate: Mixing rate of Learn2Mix, gamma in the paper.
        epochs: Budget in epochs; an epoch has N // batch_size steps for every method.
        seconds: Budget in seconds of training, E in the paper.
        optimizer: Key of `training.OPTIMIZERS`.
        schedule: Key of `training.SCHEDULES`.
    """

    batch_size: int
    learning_rate: float
    mixing_rate: float
    epochs: int
    seconds: float
    optimizer: OptimizerName = "adam"
    schedule: ScheduleName = "constant"


@dataclass(frozen=True)
class Task:
    """One task in one preset.

    Attributes:
        name: Name on the command line.
        kind: Kind of the task; determines loss and error.
        description: One line about data, imbalance and model.
        load: Loads the data of a seed; raises InputError if a file is missing or damaged.
        model: Creates a model for the data, with weights from torch's global generator.
        prepare: Converts stored inputs `[B, ...]` to model inputs, float32 or token ids, on the same device.
        protocol: Budget and hyperparameters.
        learned: Largest final test error of classical training for which comparisons are valid: percent, or mean
            squared error.
        paper: Figures of the paper, `{"0.25E" | "0.5E" | "E": {method: (mean, spread)}}`: accuracy in percent, or MSE.
    """

    name: str
    kind: Kind
    description: str
    load: Callable[[int], TaskData]
    model: Callable[[TaskData], nn.Module]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    protocol: Protocol
    learned: float
    paper: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    def losses(self, outputs: torch.Tensor, prepared: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of each row, `[B]`: cross entropy, or the squared error summed over outputs."""
        if self.kind == "classification":
            assert targets is not None
            return functional.cross_entropy(outputs, targets, reduction="none")
        expected = prepared if targets is None else targets
        return (outputs.reshape(len(outputs), -1) - expected.reshape(len(outputs), -1)).square().sum(dim=1)

    def errors(self, outputs: torch.Tensor, prepared: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return the error of each row, float32 `[B]`: 100 for a wrong class and 0 for the right one, or the squared error.

        The error is NaN if an output is non-finite, because argmax over NaN would return some class.
        """
        if self.kind == "classification":
            assert targets is not None
            errors = 100 * (outputs.argmax(dim=1) != targets).float()
            return errors.masked_fill(~outputs.isfinite().all(dim=1), torch.nan)
        return self.losses(outputs, prepared, targets)
