"""The rivals, one file each, and the limit: other ways to form the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

Batches = Iterable[Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Peer:
    """One way to form batches.

    Attributes:
        name: What reports call it.
        batches: Each iteration delivers the `(x, y)` batches of one epoch; a batch is valid until the next is taken.
        run: Delivers as many epochs as it is told, to a consumer that does nothing; this is what is timed.
    """

    name: str
    batches: Batches
    run: Callable[[int], None]

    @classmethod
    def iterated(cls, name: str, batches: Batches) -> Peer:
        """Makes a peer that is timed by iterating over its batches."""

        def run(epochs: int) -> None:
            for _ in range(epochs):
                for _ in batches:
                    pass

        return cls(name, batches, run)
