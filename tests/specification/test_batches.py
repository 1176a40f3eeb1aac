"""Batches of the oracle, on one rank and on several."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from oracle import Balanced, OracleLoader, Proportional, sequence, throw_dice
from specification.cases import assert_uniform, epoch_of, long_tail, rows_of


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_slice_the_global_plan(world_size: int, shuffle: bool) -> None:
    def batches_of(rank: int, world_size: int, order: str) -> list[tuple[list[int], list[int]]]:
        options: dict[str, Any] = {"shuffle": shuffle, "order": order, "rank": rank, "world_size": world_size}
        size = 12 // world_size
        return epoch_of(OracleLoader(60, batch_size=size, classes=long_tail(), mixing=Proportional(), **options))

    grouped = [batches_of(rank, world_size, "grouped") for rank in range(world_size)]
    shuffled = [batches_of(rank, world_size, "shuffled") for rank in range(world_size)]
    assert (shuffled == grouped) == (not shuffle)
    for step, (rows, classes) in enumerate(batches_of(0, 1, "grouped")):
        (offset,) = throw_dice(sequence(0, 3, 0, step), [world_size])
        for rank in range(world_size):
            start = (rank - offset) % world_size
            part = (rows[start::world_size], classes[start::world_size])
            assert grouped[rank][step] == part
            assert sorted(zip(*shuffled[rank][step], strict=True)) == sorted(zip(*part, strict=True))


def test_rows_follow_their_classes_in_a_shuffled_batch() -> None:
    classes = long_tail()
    loader = OracleLoader(60, batch_size=16, classes=classes, mixing=Balanced())
    for rows, batch_classes in loader:
        assert np.array_equal(classes[rows], batch_classes)
        assert np.array_equal(np.bincount(batch_classes, minlength=5), loader.quotas)
        assert (np.diff(batch_classes) < 0).any()


def test_order_within_a_shuffled_batch_is_uniform() -> None:
    classes = np.arange(4)
    loader = OracleLoader(4, batch_size=4, classes=classes, mixing=Proportional(), steps_per_epoch=2400)
    assert_uniform(list(Counter(tuple(rows.tolist()) for rows, _ in loader).values()))


def test_only_the_given_rows_are_drawn_and_classes_are_numbered_over_all() -> None:
    classes = np.array([0, 1, 2, 0, 1, 5])
    rows = np.array([4, 0, 3])
    loader = OracleLoader(6, batch_size=2, classes=classes, mixing=Proportional(), rows=rows, shuffle=False)
    assert loader.class_sizes.tolist() == [2, 1, 0, 0, 0, 0]
    assert Counter(row for _ in range(30) for row in rows_of(loader)) == {0: 20, 3: 20, 4: 20}
    assert epoch_of(OracleLoader(6, batch_size=3, mixing=Proportional(), rows=rows, shuffle=False)) == [
        ([4, 0, 3], [0] * 3)  # in the order given
    ]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 16, 17, 23, 24, 25])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_in_dataset_order_every_row_is_delivered_once_over_all_ranks(num_rows: int, world_size: int) -> None:
    options: dict[str, Any] = {"batch_size": 3, "mixing": Proportional(), "shuffle": False, "world_size": world_size}
    loaders = [OracleLoader(num_rows, rank=rank, **options) for rank in range(world_size)]
    for _ in range(2):
        batches = [[rows.tolist() for rows, _ in loader] for loader in loaders]
        for rank, of_rank in enumerate(batches):
            assert [row for rows in of_rank for row in rows] == list(range(rank, num_rows, world_size))
            assert len(of_rank) == len(loaders[rank])
        assert {loader.epoch for loader in loaders} == {loaders[0].epoch}
        assert len({loader.state_dict()["total_step"] for loader in loaders}) == 1
