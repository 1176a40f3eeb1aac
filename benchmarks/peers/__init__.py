"""The rivals, one file each, and the limit: other ways to form the batches of an epoch.

A factory takes the fields and the batch size; where classes are mixed, `y` is the class of a row. It imports its library
itself, so that a module can be imported without it: ImportError of the factory says that a rival is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Batches = Iterable[Sequence[torch.Tensor]]


def _nothing() -> None:
    """Closes what needs no closing."""


@dataclass(frozen=True)
class Epochs:
    """An iterable each of whose iterations calls `start` for the batches of the next epoch."""

    start: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        """Starts an epoch."""
        return iter(self.start())


@dataclass(frozen=True)
class Peer:
    """One way to form batches.

    Attributes:
        name: What reports call it.
        batches: Each iteration delivers the `(x, y)` batches of one epoch; a batch is valid until the next is taken.
        run: Delivers as many epochs as it is told, to a consumer that does nothing; this is what is timed.
        close: Ends its threads and processes and removes its files, where it has any.
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
        """Makes a peer that is timed by iterating over its batches.

        Args:
            name: See `Peer`.
            batches: See `Peer`, in whatever form the rival delivers them.
            pair: Makes `(x, y)` of such a batch, to check it; None: it is one.
            close: See `Peer`.
        """

        def run(epochs: int) -> None:
            for _ in range(epochs):
                for _ in batches:
                    pass

        return cls(name, batches if pair is None else Epochs(lambda: map(pair, batches)), run, close)


def numpy_pair(batch: Sequence[Any]) -> Sequence[torch.Tensor]:
    """Makes tensors of a pair of arrays; see `Peer.iterated`."""
    x, y = batch
    return torch.as_tensor(x), torch.as_tensor(y)


def named_pair(batch: Any) -> Sequence[torch.Tensor]:
    """Takes the tensors out of a mapping of both; see `Peer.iterated`."""
    return batch["x"], batch["y"]
