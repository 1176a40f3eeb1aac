"""The parts of a method: how it forms batches, and what it minimizes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.task import Kind, Rows, Task, TaskData
from l2m_fast import Loader, MixingPolicy, mixing


class Batches(Protocol):
    """Batches of a method; `l2m_fast.Loader` is one implementation."""

    @property
    def proportions(self) -> NDArray[np.float64]:
        """Class proportions of the next batch, `[K]`."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Start the next epoch; a batch has "inputs", "classes" and, except for reconstruction, "targets"."""

    def record(self, losses: torch.Tensor) -> None:
        """Record the loss of each row of the last batch, `[B]`."""

    def close(self) -> None:
        """Stop its threads."""


@dataclass(frozen=True)
class Start:
    """Everything a method needs to begin a run.

    Attributes:
        data: Data of the seed.
        task: Task of the run.
        seed: Seed of the run.
        steps: Steps per epoch, the same for every method: N // batch_size, at least 1.
        fit: Trains a new model classically for the epochs of the protocol; returns the loss of each training row, `[N]`.
    """

    data: TaskData
    task: Task
    seed: int
    steps: int
    fit: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Refusal:
    """A case in which a method makes no sense.

    Attributes:
        where: Description of the case.
        reason: Reason why the method makes no sense.
        holds: Returns whether a task is such a case; without data, a check that needs them returns False.
    """

    where: str
    reason: str
    holds: Callable[[Task, TaskData | None], bool]


def refuse_kind(kind: Kind, reason: str) -> Refusal:
    """Refuse every task of a kind."""
    return Refusal(kind, reason, lambda task, _: task.kind == kind)


class Method:
    """Base class of methods; by default classical training: batches of proportional classes, and the mean loss.

    Create a new instance for each run, because a method keeps state from `batches` to `objective`.

    Attributes:
        name: Name on the command line and in records, including parameters that differ from their defaults.
        update_every: Steps per window of losses, after which the proportions follow them; None: an epoch.
        records_plain: Whether the losses recorded are those of the model's outputs, not of what `outputs()` returns.
        refusals: Cases in which the method makes no sense.
    """

    name: str
    update_every: int | None = None
    records_plain: bool = False
    refusals: ClassVar[tuple[Refusal, ...]] = ()

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the policy that determines the class proportions of the batches."""
        return mixing.Proportional()

    def refusal(self, task: Task, data: TaskData | None = None) -> str | None:
        """Return why the method makes no sense on a task, or on its data if given; None if it does."""
        return next((refusal.reason for refusal in self.refusals if refusal.holds(task, data)), None)

    def batches(self, start: Start) -> Batches:
        """Create the batches of a run. The time until the first batch counts as warm-up."""
        return loader_of(start, self.policy(start.task), start.data.train, update_every=self.update_every)

    def outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the model for the last batch as the loss takes them in training, `[B, ...]`."""
        return outputs

    def test_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the model for test rows as they are evaluated, `[N, ...]`."""
        return outputs

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the scalar to minimize.

        Args:
            losses: Loss of each row of the batch, `[B]`, attached to the graph.
            classes: Class of each row, int64 `[B]`.
        """
        return losses.mean()

    def end_epoch(self, measure: Callable[[Rows], torch.Tensor]) -> None:
        """Take note of the model at the end of an epoch; this counts as training time.

        Args:
            measure: Returns the loss of each row of the model, `[N]`.
        """


def class_sizes(data: TaskData) -> NDArray[np.int64]:
    """Return the number of training rows of each class, `[K]`."""
    return np.bincount(data.train.classes.cpu().numpy(), minlength=len(data.class_names))


def fields_of(train: Rows) -> dict[str, torch.Tensor]:
    """Return the fields of a batch, see `Batches`."""
    fields = {"inputs": train.inputs, "classes": train.classes}
    return fields if train.targets is None else {**fields, "targets": train.targets}


def loader_of(
    start: Start,
    policy: MixingPolicy,
    train: Rows,
    rows: NDArray[np.int64] | None = None,
    update_every: int | None = None,
) -> Loader:
    """Create the loader of a run.

    Args:
        start: Start of the run.
        policy: Policy of the class proportions.
        train: Training set.
        rows: Ids of the rows to draw from; None: all.
        update_every: See `Method`.
    """
    return Loader(
        fields_of(train),
        batch_size=start.task.protocol.batch_size,
        classes=train.classes,
        mixing=policy,
        rows=rows,
        steps_per_epoch=start.steps,
        total_steps=start.steps * start.task.protocol.epochs,
        update_every=update_every,
        seed=start.seed,
    )
