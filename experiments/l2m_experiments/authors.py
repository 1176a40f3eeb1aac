"""Learn2Mix the way its authors' program does it, written from a description of it, to measure what the differences do.

Where it departs from this package's Learn2Mix: quotas are floored, so that a batch is short by up to a row a class; classes
wrap in the order of the epoch; batches are in the order of their classes; class losses are those of an epoch's last batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from l2m_fast import Learn2Mix, Window, class_loss


def form_batches(
    parts: Sequence[Sequence[torch.Tensor]],
    proportions: torch.Tensor,
    batch_size: int,
    steps: int,
    generator: torch.Generator | None = None,
) -> Iterator[list[torch.Tensor]]:
    """Forms the batches of one epoch; no more work than the authors' program does for them, so that it can be timed.

    An epoch draws a permutation of each class. A batch takes the next `int(proportion * batch_size)` rows of each class,
    starting over in the same permutation at its end; slices are concatenated to the class's part and the parts to the
    batch. A class that is floored to no rows is left out, where their program would raise.

    Args:
        parts: For each class the fields of its rows, `[n, ...]`.
        proportions: Share of each class, `[K]`, float; at least one must give a row.
        batch_size: Rows of a batch before they are floored, M in the paper.
        steps: Batches.
        generator: Of the permutations; None: torch's global one.

    Yields:
        The fields of a batch, each `[B, ...]` with B <= batch_size.
    """
    orders = [torch.randperm(len(part[0]), generator=generator) for part in parts]
    sizes, starts = [len(order) for order in orders], [0] * len(parts)
    for _ in range(steps):
        batch: list[list[torch.Tensor]] = [[] for _ in parts[0]]
        for label, part in enumerate(parts):
            slices = []
            wanted, start = int(proportions[label].item() * batch_size), starts[label]
            while wanted > 0:
                stop = min(start + wanted, sizes[label])
                slices.append(orders[label][start:stop])
                wanted -= stop - start
                start = stop % sizes[label]
            starts[label] = start
            if slices:
                for i, field in enumerate(part):
                    batch[i].append(torch.cat([field[rows] for rows in slices]))
        yield [torch.cat(of_classes) for of_classes in batch]


class AuthorsBatches:
    """Epochs of the authors' batches, and their update of the proportions at the end of each.

    Their program repeats the forward pass on the last batch, after its step; here the losses recorded before that step
    are taken, as their older scripts do. A class without a row in the last batch has loss 0, as a guard of theirs has it
    that their program never reaches: its share goes down by the mixing rate in each epoch, and it never comes back.

    Deterministic: the rows are a function of the seed and of the recorded losses.

    Args:
        fields: `"classes"`, int64 `[N]`, and other fields `[N, ...]`. Copied, class by class, as theirs are.
        num_classes: K; every class has rows.
        batch_size: See `form_batches`; above K, since with fewer rows a batch may be floored to none.
        steps: Batches of an epoch.
        mixing_rate: Gamma in the paper.
        seed: Of the permutations.

    Attributes:
        proportions: Of the next batch, float64 `[K]`.
    """

    def __init__(
        self,
        fields: Mapping[str, torch.Tensor],
        num_classes: int,
        *,
        batch_size: int,
        steps: int,
        mixing_rate: float,
        seed: int,
    ) -> None:
        rows = [fields["classes"] == k for k in range(num_classes)]
        self._names = tuple(fields)
        self._parts = [[field[of_class] for field in fields.values()] for of_class in rows]
        self._class_sizes = np.array([len(part[0]) for part in self._parts])
        self._batch_size, self._steps = batch_size, steps
        self._policy = Learn2Mix(mixing_rate)
        self._generator = torch.Generator().manual_seed(seed)
        self._classes: torch.Tensor | None = None  # of the last batch
        self._losses: torch.Tensor | None = None
        self.proportions = self._policy.initial(self._class_sizes)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Forms the batches of the next epoch; the proportions are updated when they have all been taken."""
        proportions = torch.from_numpy(self.proportions)
        for tensors in form_batches(self._parts, proportions, self._batch_size, self._steps, self._generator):
            batch = dict(zip(self._names, tensors, strict=True))
            self._classes, self._losses = batch["classes"], None
            yield batch
        self._update()

    def record(self, losses: torch.Tensor) -> None:
        """Takes note of the losses of the last batch, `[B]`."""
        self._losses = losses.detach()

    def close(self) -> None:
        """Does nothing: there are no threads."""

    def _update(self) -> None:
        if self._losses is None or self._classes is None:
            return
        last = class_loss(self._losses.cpu(), self._classes, len(self._parts))
        class_losses = last.sum / np.maximum(last.count, 1)
        self.proportions = self._policy.update(Window.of(self.proportions, class_losses, self._class_sizes))
