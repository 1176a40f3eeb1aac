"""Rows that SMOTE interpolates between rows of a class."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from l2m_experiments.methods import method
from made_up_batches import SIZES, counts_of, data_of, start_of, task_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("sizes", [SIZES, (30, 2, 9), (8, 8)])
def test_smote_equalizes_classes_with_rows_between_rows_of_a_class(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    data = data_of(sizes, dtype=dtype)
    # One batch has all rows of the equalized classes.
    task = task_of(batch_size=len(sizes) * max(sizes))
    batches = method("smote").batches(start_of(data, task, steps=1))
    np.testing.assert_allclose(batches.proportions, 1 / len(sizes))
    (batch,) = batches
    batches.close()
    assert batch["inputs"].dtype == dtype
    np.testing.assert_array_equal(counts_of(batch["classes"], len(sizes)), max(sizes))
    slack = 0.5 if dtype == torch.uint8 else 1e-3
    for k, size in enumerate(sizes):
        old = data.train.inputs[data.train.classes == k].flatten(1).double().numpy()
        rows = batch["inputs"][batch["classes"] == k].flatten(1).double().numpy()
        segments = [(old[i], old[j]) for i, j in product(range(size), repeat=2)]
        for row in rows:
            assert any(lies_between(row, *segment, slack) for segment in segments)
        for row in old:
            assert (np.abs(rows - row).max(axis=1) == 0).any()


def lies_between(
    point: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], slack: float
) -> bool:
    """Return whether a point is on a segment, up to `slack` in each column."""
    along = other - one
    length = along @ along
    share = 0.0 if length == 0 else float(np.clip((point - one) @ along / length, 0, 1))
    return bool((abs(one + share * along - point) <= 2 * slack).all())


def test_smote_refuses_token_ids_and_classes_of_one_row() -> None:
    smote, task = method("smote"), task_of()
    assert smote.refusal(task, data_of()) is None
    assert "token" in (smote.refusal(task, data_of(dtype=torch.int64)) or "")
    assert "one row" in (smote.refusal(task, data_of((5, 1))) or "")
