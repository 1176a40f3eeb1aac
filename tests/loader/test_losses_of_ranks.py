"""Losses summed over ranks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from l2m_fast import (
    Balanced,
    Learn2Mix,
    _core,
)
from loader.small import START, STEPS, make, record_means, stepped


def test_stop_iteration_from_all_reduce_is_an_error_and_does_not_end_the_epoch() -> None:
    def all_reduce(sums: Any) -> None:  # noqa: ARG001
        raise StopIteration

    loader = make(mixing=Learn2Mix(), update_every=2, rank=0, world_size=2, all_reduce=all_reduce)
    with pytest.raises(RuntimeError, match=r"all_reduce.* raised StopIteration"):
        list(loader)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_with_all_reduce_follow_the_losses_of_all(world_size: int, every: Any) -> None:
    mailbox: list[Any] = []

    def all_reduce(sums: Any) -> None:
        assert sums.dtype == np.float64
        assert sums.shape == (4 * 11 + 2,)
        assert (sums == np.floor(sums)).all()
        sums[:] = [*np.sum(mailbox, axis=0), world_size * (2**32 - 1), world_size]

    def post() -> None:
        states = [loader.state_dict() for loader in ranks]
        mailbox[:] = [_core.values_of_losses(state)[0] for state in states]

    options: dict[str, Any] = {"update_every": every, "steps_per_epoch": 4}
    whole = make(batch_size=6, **options)
    ranks = [
        make(batch_size=6 // world_size, rank=rank, world_size=world_size, all_reduce=all_reduce, **options)
        for rank in range(world_size)
    ]
    for _ in range(4):
        post()
        iterators = [iter(loader) for loader in ranks]
        for rows in whole:
            whole.record(np.sqrt(rows + 1.0))
            post()
            parts = [next(batches) for batches in iterators]
            assert sorted(np.concatenate(parts).tolist()) == sorted(rows.tolist())
            for loader, part in zip(ranks, parts, strict=True):
                loader.record(np.sqrt(part + 1.0))
        post()
        assert [next(batches, None) for batches in iterators] == [None] * world_size
        for loader in ranks:
            assert loader.proportions.tolist() == whole.proportions.tolist()
    assert len(whole.history) == len(ranks[0].history) > 1


def test_a_rank_without_losses_still_takes_part() -> None:
    def all_reduce(sums: Any) -> None:
        sums += [*_core.values_of_losses(other.state_dict())[0], 2**32 - 1, 1]

    other = make()
    other.record([1.0, 2.0, 3.0], [0, 1, 3])
    loader = make(batch_size=3, rank=0, world_size=2, all_reduce=all_reduce)
    list(loader)
    np.testing.assert_allclose(loader.proportions, stepped(START, [1, 2, 0, 3]))


def test_a_fixed_policy_needs_no_all_reduce() -> None:
    def never(_: Any) -> None:
        pytest.fail("a fixed policy communicates nothing")

    for all_reduce in (None, never):
        loader = make(mixing=Balanced(), batch_size=3, rank=1, world_size=2, all_reduce=all_reduce)
        for _batch in loader:
            loader.record(np.ones(3))
    assert loader.class_losses[[0, 1, 3]].tolist() == [1, 1, 1]


def test_after_an_error_in_all_reduce_no_losses_are_lost() -> None:
    works = [False]

    def all_reduce(sums: Any) -> None:
        sums *= 2
        if not works[0]:
            msg = "the network is gone"
            raise OSError(msg)

    loader = make(batch_size=3, rank=0, world_size=2, all_reduce=all_reduce)
    batches = iter(loader)
    for _batch in itertools.islice(batches, STEPS):
        record_means(loader, 1.0, 2.0, 3.0)
    before = loader.state_dict()
    for _ in range(2):
        with pytest.raises(OSError, match="the network is gone"):
            next(batches)
        assert loader.state_dict() == before
    works[0] = True
    assert list(batches) == []
    assert loader.history[0]["counts"].tolist() == [2 * STEPS, 2 * STEPS, 0, 2 * STEPS]
