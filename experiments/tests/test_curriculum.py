"""Curriculum learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from l2m_experiments.methods import method
from made_up_batches import SIZES, data_of, start_of, task_of


def test_the_curriculum_uses_the_easiest_rows_of_each_class_and_more_every_ten_epochs() -> None:
    data, scores = data_of(), np.random.default_rng(1).permutation(sum(SIZES)).astype(np.float32)
    fitted = []

    def fit() -> torch.Tensor:
        fitted.append(1)
        return torch.from_numpy(scores)

    steps = 60  # enough for all rows of the smallest class to be seen
    batches = method("curriculum").batches(start_of(data, task_of(), steps=steps, fit=fit))
    assert fitted == [1]
    classes = data.train.classes.numpy()
    for epoch in range(45):
        fraction = min(1, 0.5 * 1.2 ** (epoch // 10))
        easiest: set[int] = set()
        for k, size in enumerate(SIZES):
            of_class = np.flatnonzero(classes == k)
            easiest |= set(of_class[np.argsort(scores[of_class])][: int(np.ceil(fraction * size))].tolist())
        seen = {int(row) for batch in batches for row in batch["inputs"][:, 0, 0]}
        assert seen == easiest, epoch
        np.testing.assert_allclose(batches.proportions, np.array(SIZES) / sum(SIZES))
    assert fitted == [1]
    batches.close()


@pytest.mark.parametrize(("epochs", "pace"), [(600, 10), (60, 10), (30, 5), (12, 2), (4, 1)])
def test_the_pace_is_ten_epochs_or_a_sixth_of_fewer_than_sixty(epochs: int, pace: int) -> None:
    batches = method("curriculum").batches(start_of(data_of(), task_of(epochs=epochs), steps=40))
    rows = [len({int(row) for batch in batches for row in batch["inputs"][:, 0, 0]}) for _ in range(4 * pace + 1)]
    # 1/2, 3/5, 18/25, 108/125 of the classes, rounded up, and all.
    assert rows == [*np.repeat([20 + 10 + 5 + 3, 24 + 12 + 6 + 4, 29 + 15 + 8 + 5, 35 + 18 + 9 + 6], pace), 76]
    batches.close()
