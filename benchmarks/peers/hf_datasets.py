"""Hugging Face datasets: an Arrow table in memory, read one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import SEED, Fields


def hf_datasets(fields: Fields, batch_size: int) -> Peer:
    """Return a dataset whose rows are read in a new order each epoch."""
    return _shuffled("HF datasets", _dataset(fields), fields, batch_size)


def interleave(fields: Fields, batch_size: int) -> Peer:
    """Return one dataset per class, interleaved once with equal probabilities until all are exhausted, then shuffled."""
    from datasets import interleave_datasets

    rows_by_class = [fields.y == label for label in fields.y.unique()]
    parts = [_dataset(Fields(fields.x[rows], fields.y[rows])) for rows in rows_by_class]
    mixed = interleave_datasets(parts, [1 / len(parts)] * len(parts), seed=SEED, stopping_strategy="all_exhausted")
    return _shuffled("HF interleave_datasets", mixed, fields, batch_size)


def _dataset(fields: Fields) -> Any:
    """Return a dataset of lists of one length, which Arrow stores as one block."""
    import pyarrow as pa
    from datasets import Dataset

    x = fields.x.numpy().reshape(len(fields.y), -1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    return Dataset(pa.table({"x": lists, "y": fields.y.numpy()}))


def _shuffled(name: str, dataset: Any, fields: Fields, batch_size: int) -> Peer:
    """Read with the arrow format, which torch can view. The torch format would convert every pixel to int64."""
    arrow = dataset.with_format("arrow")
    shape = fields.x.shape[1:]

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(arrow)).split(batch_size):
            table = arrow[rows.numpy()]
            x = table["x"].combine_chunks().flatten().to_numpy()
            yield torch.from_numpy(x).view(-1, *shape), torch.from_numpy(table["y"].to_numpy())

    return Peer.iterated(name, Epochs(batches))


_INSTALL = Install(("datasets==5.2.0",))
RIVALS = (Rival(hf_datasets, install=_INSTALL), Rival(interleave, "balanced on average", install=_INSTALL))
