"""Learn2Mix as in its authors' program, written from a description of it, to measure the effect of the differences.

It differs from this package's Learn2Mix as follows: quotas are rounded down, so a batch can lack up to one row per class; a
class that runs out of rows repeats the order of the epoch; the rows of a batch are sorted by class; and class losses are
those of the last batch of an epoch.
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
    """Form the batches of one epoch, with no more work than the authors' program does, so that it can be timed.

    An epoch draws a permutation of each class. A batch takes the next `int(proportion * batch_size)` rows of each class and
    starts the same permutation again at its end. Slices are concatenated to the class's part, and parts to the batch. A class
    whose quota is rounded down to 0 is left out; their program would raise.

    Args:
        parts: Fields of the rows of each class, `[n, ...]`.
        proportions: Share of each class, `[K]`, float; at least one must give a row.
        batch_size: Rows per batch before rounding, M in the paper.
        steps: Number of batches.
        generator: Generator of the permutations; None: torch's global one.

    Yields:
        Fields of a batch, each `[B, ...]` with B <= batch_size.
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
    """Epochs of the authors' batches, with their update of the proportions at the end of each epoch.

    Their program repeats the forward pass on the last batch after its step; this class uses the losses recorded before that
    step, as their older scripts do. A class without rows in the last batch has loss 0, as in a guard that their program never
    reaches: its share shrinks by the mixing rate in each epoch, and it never returns.

    The rows are a deterministic function of the seed and the recorded losses.

    Args:
        fields: `"classes"`, int64 `[N]`, and other fields `[N, ...]`. They are copied class by class, as in their program.
        num_classes: Number of classes K; every class has rows.
        batch_size: See `form_batches`; above K, because a smaller batch can be empty.
        steps: Batches per epoch.
        mixing_rate: Mixing rate, gamma in the paper.
        seed: Seed of the permutations.

    Attributes:
        proportions: Class proportions of the next batch, float64 `[K]`.
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
        """Form the batches of the next epoch; the proportions are updated after the last one."""
        proportions = torch.from_numpy(self.proportions)
        for tensors in form_batches(self._parts, proportions, self._batch_size, self._steps, self._generator):
            batch = dict(zip(self._names, tensors, strict=True))
            self._classes, self._losses = batch["classes"], None
            yield batch
        self._update()

    def record(self, losses: torch.Tensor) -> None:
        """Record the losses of the last batch, `[B]`."""
        self._losses = losses.detach()

    def close(self) -> None:
        """Do nothing, because there are no threads."""

    def _update(self) -> None:
        if self._losses is None or self._classes is None:
            return
        last = class_loss(self._losses.cpu(), self._classes, len(self._parts))
        class_losses = last.sum / np.maximum(last.count, 1)
        self.proportions = self._policy.update(Window.of(self.proportions, class_losses, self._class_sizes))
