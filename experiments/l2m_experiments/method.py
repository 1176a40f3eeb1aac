"""What a method is: how it forms its batches, and what it minimises on them."""

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
    """What a method trains on; `l2m_fast.Loader` is one."""

    @property
    def proportions(self) -> NDArray[np.float64]:
        """Class proportions of the next batch, `[K]`."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Begins the next epoch; a batch has "inputs", "classes" and, unless it is a reconstruction, "targets"."""

    def record(self, losses: torch.Tensor) -> None:
        """Takes the loss of each row of the last batch, `[B]`."""

    def close(self) -> None:
        """Ends its threads."""


@dataclass(frozen=True)
class Start:
    """What a method begins a run with.

    Attributes:
        data: The data of the seed.
        task: What is learned.
        seed: Of the run.
        steps: Of an epoch, the same for every method: N // batch_size, at least 1.
        fit: Trains a fresh model classically for the epochs of the protocol; returns the loss of each training row, `[N]`.
    """

    data: TaskData
    task: Task
    seed: int
    steps: int
    fit: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Refusal:
    """Where a method makes no sense.

    Attributes:
        where: On what, in words.
        reason: Why not.
        holds: Whether a task is of that sort; what needs to see the data does not hold before they are loaded.
    """

    where: str
    reason: str
    holds: Callable[[Task, TaskData | None], bool]


def of_kind(kind: Kind, reason: str) -> Refusal:
    """Refuses every task of a kind."""
    return Refusal(kind, reason, lambda task, _: task.kind == kind)


class Method:
    """One method; by default classical training: batches of proportional classes, and the mean loss.

    Make a new one for each run: what a run needs is kept from `batches` to `objective`.

    Attributes:
        name: As on the command line and in records; with the parameters that are not the default ones.
        update_every: Steps of a window of losses, after which the proportions follow them; None: an epoch.
        refusals: Where the method makes no sense.
    """

    name: str
    update_every: int | None = None
    refusals: ClassVar[tuple[Refusal, ...]] = ()

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """How the class proportions of the batches evolve."""
        return mixing.Proportional()

    def refusal(self, task: Task, data: TaskData | None = None) -> str | None:
        """Why the method makes no sense on a task, or on its data where they are given; None: it does."""
        return next((refusal.reason for refusal in self.refusals if refusal.holds(task, data)), None)

    def batches(self, start: Start) -> Batches:
        """Makes the batches of a run. What it does before the first of them counts as warm-up."""
        return loader_of(start, self.policy(start.task), start.data.train, update_every=self.update_every)

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """What is minimised, a scalar.

        Args:
            losses: Of each row of the batch, `[B]`, attached to the graph.
            classes: Of each row, int64 `[B]`.
        """
        return losses.mean()


def class_sizes(data: TaskData) -> NDArray[np.int64]:
    """Training rows of each class, `[K]`."""
    return np.bincount(data.train.classes.cpu().numpy(), minlength=len(data.class_names))


def fields_of(train: Rows) -> dict[str, torch.Tensor]:
    """What a batch is made of, see `Batches`."""
    fields = {"inputs": train.inputs, "classes": train.classes}
    return fields if train.targets is None else {**fields, "targets": train.targets}


def loader_of(
    start: Start,
    policy: MixingPolicy,
    train: Rows,
    rows: NDArray[np.int64] | None = None,
    update_every: int | None = None,
) -> Loader:
    """Makes the loader of a run.

    Args:
        start: Of the run.
        policy: How the class proportions evolve.
        train: The training set.
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
        update_every=update_every,
        seed=start.seed,
    )
