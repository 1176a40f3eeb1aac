"""What a task is: its data, its model, its protocol, and what the paper reports of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

Kind = Literal["classification", "regression", "reconstruction"]
OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd"]


@dataclass(frozen=True)
class Rows:
    """A training or test set, as it lies in memory.

    Attributes:
        inputs: `[N, ...]`, in the dtype they are stored in: uint8 images, float32 columns, int64 token ids.
        classes: `[N]`, int64: the class of each row; for regression and reconstruction a categorical column.
        targets: `[N]`: int64 class ids (classification: `classes` itself), float32 values (regression), None where the
            inputs are what is to be predicted (reconstruction).
    """

    inputs: torch.Tensor
    classes: torch.Tensor
    targets: torch.Tensor | None

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Rows:
        """Returns rows of which each tensor is changed alike: some of them, or all of them on another device."""
        return Rows(change(self.inputs), change(self.classes), None if self.targets is None else change(self.targets))


@dataclass(frozen=True)
class TaskData:
    """The data of one seed.

    Attributes:
        train: Training set, every class in it.
        test: Test set, every class in it.
        class_names: One of each class.
        source: Which files it was made of, for the record: "cifar10_jpeg.npz (lossy)".
        later_train: Training set of the second half of training, where the data shift; None: the same throughout.
    """

    train: Rows
    test: Rows
    class_names: tuple[str, ...]
    source: str
    later_train: Rows | None = None


@dataclass(frozen=True)
class Protocol:
    """How long, and with what, a task is trained; the same for every method.

    Attributes:
        batch_size: Rows of a batch, M in the paper.
        learning_rate: Eta in the paper.
        mixing_rate: Of Learn2Mix, gamma in the paper.
        epochs: Budget in epochs, each of N // batch_size steps whatever the method.
        seconds: Budget in seconds of training, E in the paper.
        optimizer: Which of `training.OPTIMIZERS`.
    """

    batch_size: int
    learning_rate: float
    mixing_rate: float
    epochs: int
    seconds: float
    optimizer: OptimizerName = "adam"


@dataclass(frozen=True)
class Task:
    """One task in one preset.

    Attributes:
        name: As on the command line.
        kind: What is learned; decides loss and error.
        description: Data, imbalance and model in a line.
        load: Makes the data of a seed; raises InputError where a file is missing or broken.
        model: Makes a model for the data, its weights from torch's global generator.
        prepare: Stored inputs `[B, ...]` -> what the model takes, float32 or token ids, on the same device.
        protocol: Of the preset.
        learned: Test error that classical training has to reach for a comparison to count: percent, or mean squared error.
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
        """Returns the loss of each sample, `[B]`: cross entropy, or the squared error summed over outputs."""
        if self.kind == "classification":
            assert targets is not None
            return functional.cross_entropy(outputs, targets, reduction="none")
        wanted = prepared if targets is None else targets
        return (outputs.reshape(len(outputs), -1) - wanted.reshape(len(outputs), -1)).square().sum(dim=1)

    def errors(self, outputs: torch.Tensor, prepared: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Returns the error of each sample, `[B]`, float32: 100 where the class is wrong else 0, or the squared error.

        NaN where an output is not finite: the largest of NaNs would be a class like any other.
        """
        if self.kind == "classification":
            assert targets is not None
            errors = 100 * (outputs.argmax(dim=1) != targets).float()
            return errors.masked_fill(~outputs.isfinite().all(dim=1), torch.nan)
        return self.losses(outputs, prepared, targets)
