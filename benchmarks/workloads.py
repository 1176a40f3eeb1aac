"""Data of the benchmarks, and the check that every contestant delivers them.

Labels are row ids, and every row of `x` is a function of its id, so that an epoch can be checked row by row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

SEED = 0
NUM_THREADS = 2
REAL_DATA = (
    "L2M_DATA" in os.environ
)  # L2M_DATA names the folder; without it, data are synthetic and nothing is downloaded

_STEP = 0x9E3779B1  # between the first words of two rows; odd, to be invertible
_INVERSE = pow(_STEP, -1, 2**32)


@dataclass(frozen=True)
class Fields:
    """Arrays of a workload, in memory that torch allocated (64-byte aligned).

    Attributes:
        x: Samples, shape `[num_rows, ...]`.
        y: Row ids, int64, shape `[num_rows]`.
    """

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Workload:
    """Shape and batch size of an epoch, and the goals of the loader on it (None: no goal).

    Attributes:
        vs_data_loader: Speedup over torch's DataLoader with its better number of workers.
        vs_index_select: Speedup over `torch.index_select(out=)`.
        vs_limit: Share of the rows per second of the limit.
    """

    num_rows: int
    row_shape: tuple[int, ...]
    dtype: torch.dtype
    batch_size: int
    vs_data_loader: float | None
    vs_index_select: float | None
    vs_limit: float

    def __str__(self) -> str:
        """Return rows, width and batch size: the name of the workload in reports."""
        return f"{self.num_rows:,} x {prod(self.row_shape) * self.dtype.itemsize} B, batch {self.batch_size}"

    def fields(self) -> Fields:
        """Return the arrays. Bytes count up in 32-bit words by odd steps, floats count up by one."""
        ids = np.arange(self.num_rows)
        x = torch.empty((self.num_rows, *self.row_shape), dtype=self.dtype)
        values = x.numpy().reshape(self.num_rows, -1)
        if self.dtype == torch.uint8:
            words = values.view(np.uint32)
            columns = np.arange(words.shape[1], dtype=np.uint32)
            np.add.outer(ids.astype(np.uint32) * np.uint32(_STEP), columns * np.uint32(0x85EBCA6B), out=words)
        else:
            np.add.outer(ids * values.shape[1], np.arange(values.shape[1]), out=values, casting="same_kind")
        return Fields(x, torch.from_numpy(ids))

    def row_ids(self, x: torch.Tensor) -> torch.Tensor:
        """Return the ids of rows, computed from the first value of each."""
        values = x.numpy().reshape(len(x), -1)
        if self.dtype == torch.uint8:
            words = np.ascontiguousarray(values[:, :4]).view(np.uint32)[:, 0]
            return torch.from_numpy((words * np.uint32(_INVERSE)).astype(np.int64))
        return torch.from_numpy((values[:, 0] / values.shape[1]).astype(np.int64))


IMAGES_3072 = Workload(50_000, (3, 32, 32), torch.uint8, 512, vs_data_loader=15, vs_index_select=1.5, vs_limit=0.9)
IMAGES_784 = Workload(60_000, (28, 28), torch.uint8, 512, vs_data_loader=40, vs_index_select=1.8, vs_limit=0.9)
TABLE_64 = Workload(500_000, (16,), torch.float32, 512, vs_data_loader=60, vs_index_select=2, vs_limit=0.5)
TABLE_64_LARGE = Workload(500_000, (16,), torch.float32, 4096, vs_data_loader=None, vs_index_select=None, vs_limit=0.85)
WORKLOADS = (IMAGES_3072, IMAGES_784, TABLE_64, TABLE_64_LARGE)


def check_epoch(batches: Iterable[Sequence[torch.Tensor]], fields: Fields) -> None:
    """Assert that an epoch delivers every row exactly once, with its label."""
    ids = []
    for x, y in batches:
        assert torch.equal(x, fields.x[y])
        ids.append(y.clone())
    assert torch.equal(torch.cat(ids).sort().values, fields.y)


def permutations(num_rows: int) -> NDArray[np.uint32]:
    """Return four random orders of the rows, shape `[4, num_rows]`.

    There are several, because a single order repeated over data a little larger than the cache never hits a cached row.
    """
    rng = np.random.default_rng(SEED)
    return np.stack([rng.permutation(num_rows).astype(np.uint32) for _ in range(4)])
