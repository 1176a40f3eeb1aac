"""The batches of 1,024 ranks: disjoint, complete, and balanced by class."""

from __future__ import annotations

import numpy as np
import pytest

from l2m_fast import BatchSampler, Static

WORLD_SIZE, BATCH_SIZE = 1024, 4
NUM_ROWS = 16_384
CLASSES = np.arange(NUM_ROWS) % 16 % 5
SHARES = [0.5, 0.25, 0.125, 0.1, 0.025]


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_batches_of_1024_ranks(order: str) -> None:
    global_batch = WORLD_SIZE * BATCH_SIZE
    steps = []
    for rank in range(WORLD_SIZE):
        sampler = BatchSampler(
            CLASSES, BATCH_SIZE, mixing=Static(SHARES), seed=4, rank=rank, world_size=WORLD_SIZE, order=order  # type: ignore[arg-type]
        )  # fmt: skip
        steps.append(list(sampler)[:2])
    for step in range(2):
        rows = np.array([of_rank[step] for of_rank in steps])
        counts = np.apply_along_axis(np.bincount, 1, CLASSES[rows], minlength=5)
        quotas = counts.sum(0)
        assert (np.abs(quotas - np.array(SHARES) * global_batch) < 1).all()
        assert (counts >= np.floor(quotas / WORLD_SIZE)).all()
        assert (counts <= np.ceil(quotas / WORLD_SIZE)).all()
        ids, repeats = np.unique(rows, return_counts=True)
        assert len(ids) + (repeats - 1).sum() == global_batch
        small = CLASSES[ids[repeats > 1]]  # only classes with fewer rows than their quota repeat rows
        assert (np.bincount(CLASSES)[small] < quotas[small]).all()
