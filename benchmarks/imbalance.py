"""Data of the class-mixing race: long-tailed classes to be drawn in equal shares, and the check that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks.workloads import SEED, Fields, Workload

NUM_CLASSES = 10
RATIOS = (1, 100, 10_000)
WORKLOAD = Workload(60_000, (28, 28), torch.uint8, 500, vs_data_loader=None, vs_index_select=None, vs_limit=0.0)


def long_tailed_fields(ratio: int) -> Fields:
    """Return rows with their classes in `y`. Class sizes fall geometrically to 1 / `ratio` of the largest."""
    shares = float(ratio) ** -np.linspace(0, 1, NUM_CLASSES)
    ends = np.cumsum(shares / shares.sum() * WORKLOAD.num_rows).astype(np.int64)
    ends[-1] = WORKLOAD.num_rows
    classes = np.repeat(np.arange(NUM_CLASSES), np.diff(ends, prepend=0))
    return Fields(WORKLOAD.fields().x, torch.from_numpy(np.random.default_rng(SEED).permutation(classes)))


def case(ratio: int) -> str:
    """Return the name of the race in reports."""
    return f"{WORKLOAD}, {NUM_CLASSES} classes 1:{ratio:,} drawn balanced"


def check_balance(batches: Iterable[Sequence[torch.Tensor]], fields: Fields, exact: bool) -> int:
    """Assert that an epoch delivers unchanged rows with their classes, and all classes in equal shares.

    Args:
        batches: Batches of an epoch.
        fields: Data of the epoch.
        exact: Check the shares in every batch, up to rounding. False: check them over the epoch, within five standard
            deviations of random draws.

    Returns:
        Number of rows in the epoch.
    """
    total = np.zeros(NUM_CLASSES, np.int64)
    for x, y in batches:
        rows = WORKLOAD.row_ids(x)
        assert torch.equal(x, fields.x[rows])
        assert torch.equal(y, fields.y[rows])
        counts = np.bincount(y, minlength=NUM_CLASSES)
        total += counts
        if exact:
            assert set(counts) <= {len(y) // NUM_CLASSES, -(-len(y) // NUM_CLASSES)}
    mean = total.mean()
    assert abs(total - mean).max() <= 5 * np.sqrt(mean)
    return int(total.sum())
