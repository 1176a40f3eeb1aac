"""The rivals: other ways to form the batches of an epoch, one file for each library or idiom.

A file has a tuple `RIVALS` of `Rival`, which is all that the benchmarks need: they discover the files of this folder. A factory
imports its library itself, so that a file can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Batches = Iterable[Sequence[torch.Tensor]]


def _nothing() -> None:
    """Close a peer that has nothing to close."""


@dataclass(frozen=True)
class Epochs:
    """An iterable that calls `start` for the batches of an epoch at each iteration."""

    start: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        """Start an epoch."""
        return iter(self.start())


@dataclass(frozen=True)
class Peer:
    """One way to form batches.

    Attributes:
        name: Name in reports.
        batches: Iterable that yields the `(x, y)` batches of one epoch per iteration. A batch is valid until the next is taken.
        run: Function that delivers a number of epochs to a consumer that does nothing. This is what is timed.
        close: Function that ends threads and processes and removes files.
    """

    name: str
    batches: Batches
    run: Callable[[int], None]
    close: Callable[[], object] = _nothing

    @classmethod
    def iterated(
        cls,
        name: str,
        batches: Iterable[Any],
        pair: Callable[[Any], Sequence[torch.Tensor]] | None = None,
        close: Callable[[], object] = _nothing,
    ) -> Peer:
        """Return a peer that is timed by iterating over its batches.

        Args:
            name: See `Peer`.
            batches: Batches in the form in which the rival delivers them.
            pair: Function that converts such a batch to `(x, y)` for the check. None: it is such a pair already.
            close: See `Peer`.
        """

        def run(epochs: int) -> None:
            for _ in range(epochs):
                for _ in batches:
                    pass

        return cls(name, batches if pair is None else Epochs(lambda: map(pair, batches)), run, close)


def numpy_pair(batch: Sequence[Any]) -> Sequence[torch.Tensor]:
    """Convert a pair of arrays to tensors; see `Peer.iterated`."""
    x, y = batch
    return torch.as_tensor(x), torch.as_tensor(y)


def named_pair(batch: Any) -> Sequence[torch.Tensor]:
    """Return the tensors "x" and "y" of a mapping; see `Peer.iterated`."""
    return batch["x"], batch["y"]
