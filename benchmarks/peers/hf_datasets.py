"""Hugging Face datasets: an Arrow table with the torch format, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.peers import Epochs, Peer
from benchmarks.workloads import SEED, Fields


def hf_datasets(fields: Fields, batch_size: int) -> Peer:
    """Makes a dataset that is indexed with a batch of rows, in a new order each epoch."""
    return _shuffled("HF datasets", _dataset(fields), fields, batch_size)


def interleave(fields: Fields, batch_size: int) -> Peer:
    """Makes an interleaved dataset of one a class, all equally likely, until all are exhausted; made once, then shuffled."""
    from datasets import interleave_datasets

    parts = [_dataset(Fields(fields.x[rows], fields.y[rows])) for rows in _rows_by_class(fields.y)]
    mixed = interleave_datasets(
        parts, [1 / len(parts)] * len(parts), seed=SEED, stopping_strategy="all_exhausted"
    ).with_format("torch")
    return _shuffled("HF interleave_datasets", mixed, fields, batch_size)


def _rows_by_class(y: torch.Tensor) -> list[torch.Tensor]:
    return [torch.nonzero(y == label).flatten() for label in y.unique()]


def _dataset(fields: Fields) -> Any:
    """Makes a dataset with fixed shapes, which Arrow keeps without an offset a row."""
    from datasets import Dataset, Features, List, Value

    width = fields.x[0].numel()
    dtype = str(fields.x.numpy().dtype)
    features = Features({"x": List(Value(dtype), length=width), "y": Value("int64")})
    data = {"x": fields.x.reshape(-1, width).numpy(), "y": fields.y.numpy()}
    return Dataset.from_dict(data, features).with_format("torch")


def _shuffled(name: str, dataset: Any, fields: Fields, batch_size: int) -> Peer:
    """Reads rows in a new order each epoch; only the check gives the samples their shape back, for that costs nothing."""

    def batches() -> Iterator[Any]:
        for rows in torch.randperm(len(dataset)).split(batch_size):
            yield dataset[rows.numpy()]

    def pair(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["x"].reshape(-1, *fields.x.shape[1:]), batch["y"]

    return Peer.iterated(name, Epochs(batches), pair)
