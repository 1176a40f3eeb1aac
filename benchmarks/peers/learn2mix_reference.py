"""The way the authors of Learn2Mix form batches, written from a description of it.

Each epoch draws a permutation a class. A batch takes the next `int(proportion * batch_size)` rows of each class, starting
over in the same permutation at its end; slices are concatenated to the class's part and the parts to the batch, which
so is in the order of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.workloads import Fields


def learn2mix_reference(fields: Fields, batch_size: int) -> Peer:
    """Makes the authors' batches with equal proportions, from tensors of their own for each class."""
    parts = [Fields(fields.x[rows], fields.y[rows]) for rows in (fields.y == label for label in fields.y.unique())]
    proportions = torch.full((len(parts),), 1 / len(parts))
    steps = len(fields.y) // batch_size

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        orders = [torch.randperm(len(part.y)) for part in parts]
        starts = [0] * len(parts)
        for _ in range(steps):
            xs, ys = [], []
            for label, (part, order) in enumerate(zip(parts, orders, strict=True)):
                part_xs, part_ys = [], []
                wanted = int(proportions[label].item() * batch_size)
                while wanted > 0:
                    rows = order[starts[label] : starts[label] + wanted]
                    part_xs.append(part.x[rows])
                    part_ys.append(part.y[rows])
                    wanted -= len(rows)
                    starts[label] = (starts[label] + len(rows)) % len(order)
                xs.append(torch.cat(part_xs))
                ys.append(torch.cat(part_ys))
            yield torch.cat(xs), torch.cat(ys)

    return Peer.iterated("the authors' way", Epochs(batches))
