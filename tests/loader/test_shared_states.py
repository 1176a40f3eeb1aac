"""States shared by all ranks: a single one is enough to resume on any number of ranks."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from l2m_fast import ClassLoss, Learn2Mix, Loader, Proportional
from loader.ranks import on_ranks
from loader.small import window_sums

N = 60
CLASSES = np.repeat([0, 1, 3], [30, 18, 12])  # class 2 has no rows
GLOBAL_BATCH = 12
STEPS = 5


def make(rank: int, world_size: int, all_reduce: Any, **options: Any) -> Loader:
    usual: dict[str, Any] = {"classes": CLASSES, "mixing": Learn2Mix(0.5), "seed": 0, "format": "numpy"}
    return Loader(
        np.arange(N),
        batch_size=GLOBAL_BATCH // world_size,
        rank=rank,
        world_size=world_size,
        all_reduce=all_reduce,
        num_threads=0,
        **usual | options,
    )


def losses_of(rows: Any) -> Any:
    """Return losses whose sums a float64 would have to round."""
    return np.exp2(-5.0 * (rows % 7)) * np.sqrt(CLASSES[rows] + 1.0)


def drive(loader: Loader, steps: int) -> list[Any]:
    """Return the rows of this number of batches and the proportions after each; record losses."""
    seen: list[Any] = []
    while len(seen) < steps:
        for rows in islice(loader, steps - len(seen)):
            seen.append((rows.tolist(), loader.proportions.tolist()))
            loader.record(losses_of(rows))
    return seen


def resumed(world_size: int, states: Any, steps: int, **options: Any) -> list[Any]:
    """Resume from states on this number of ranks; return global batches as sorted rows, and the proportions."""

    def work(rank: int, all_reduce: Any) -> list[Any]:
        loader = make(rank, world_size, all_reduce, **options)
        loader.load_state_dict(states)
        return drive(loader, steps)

    return [
        (sorted(row for rows, _ in of_ranks for row in rows), *(proportions for _, proportions in of_ranks[:1]))
        for of_ranks in zip(*on_ranks(world_size, work), strict=True)
    ]


# ---- what it is


@pytest.mark.parametrize("after", [1, 2, 3, 6])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"update_every": 3}, {"update_every": 2, "lookahead": 2}], ids=str)
def test_it_is_the_same_on_all_ranks_and_resumes_like_the_list_of_states(
    options: Any, world_size: int, after: int
) -> None:
    for steps in (0, 2, STEPS, STEPS + 2):

        def save(rank: int, all_reduce: Any, steps: int = steps) -> tuple[Any, Any]:
            loader = make(rank, world_size, all_reduce, **options)
            drive(loader, steps)
            return loader.state_dict(shared=True), loader.state_dict()

        shared, own = zip(*on_ranks(world_size, save), strict=True)
        assert all(state == shared[0] for state in shared)
        assert (shared[0]["rank"], shared[0]["world_size"]) == (0, 1)
        rest = resumed(after, shared[0], 2 * STEPS, **options)
        assert rest == resumed(after, list(own), 2 * STEPS, **options)
        (alone,) = on_ranks(1, lambda rank, all_reduce: drive(make(rank, 1, all_reduce, **options), 3 * STEPS + 2))
        assert rest == [(sorted(rows), shares) for rows, shares in alone[steps : steps + 2 * STEPS]]


def test_pending_losses_are_those_of_all_ranks() -> None:
    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 3, all_reduce)
        loader.record([1.0 + rank, 10.0], [0, rank])
        if rank == 1:
            loader.record([0.5], [3])
        return loader.state_dict(shared=True)

    for state in on_ranks(3, save):
        assert window_sums(state) == [[1 + 10 + 2 + 3, 10, 10, 0.5]]
        assert state["window_counts"] == [[4, 1, 1, 1]]


def test_losses_of_two_open_windows_are_kept_apart() -> None:
    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 2, all_reduce, update_every=2, lookahead=2, steps_per_epoch=9)
        for step, _ in enumerate(islice(loader, 4)):
            loader.record([2.0**step + rank], [0])
        return loader.state_dict(shared=True), loader.state_dict(shared=True, step=1)

    for newest, earlier in on_ranks(2, save):
        assert window_sums(newest) == [[2 * 3 + 2, 0, 0, 0], [2 * 12 + 2, 0, 0, 0]]
        assert newest["window_counts"] == [[4, 0, 0, 0]] * 2
        assert (earlier["total_step"], window_sums(earlier)) == (2, [[2 * 3 + 2, 0, 0, 0]])


@pytest.mark.parametrize("recorded", [[], [0], [0, 3]])
def test_unknown_class_losses_stay_unknown(recorded: list[int]) -> None:
    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 2, all_reduce)
        if recorded:
            loader.record(np.full(len(recorded), rank * 2.0), recorded)
            loader.update()
        return loader.state_dict(shared=True)

    for state in on_ranks(2, save):
        assert state["class_losses"] == [1.0 if k in recorded else None for k in range(4)]


def test_a_policy_that_does_not_follow_losses_shares_the_class_losses_of_rank_0() -> None:
    """Without a reduction, every rank has its own class losses."""

    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 2, all_reduce, mixing=Proportional())
        loader.record([1.0 + rank], [rank])
        loader.update()
        return loader.state_dict(shared=True)

    states = on_ranks(2, save)
    assert states[0] == states[1]


def test_saving_changes_nothing_and_may_be_repeated() -> None:
    def save(rank: int, all_reduce: Any) -> Any:
        loader, twin = (make(rank, 2, all_reduce, update_every=3) for _ in range(2))
        batches = loader.forever()
        for rows, _ in drive(twin, 2 * STEPS):
            assert next(batches).tolist() == rows
            loader.record(losses_of(np.array(rows)))
            before = loader.state_dict()
            assert loader.state_dict(shared=True) == loader.state_dict(shared=True)
            assert loader.state_dict() == before
        return True

    assert on_ranks(2, save) == [True, True]


def test_sums_are_clamped() -> None:
    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 2, all_reduce)
        loader.record(ClassLoss(np.array([2.0**167, -(2.0**168), 0, 0]), np.array([2**41, 2**41, 0, 0])))
        return loader.state_dict(shared=True)

    for state in on_ranks(2, save):
        assert window_sums(state) == [[2.0**168, -(2.0**168), 0, 0]]
        make(0, 1, None).load_state_dict(state)


# ---- what it needs


def test_one_rank_shares_its_state_with_itself_and_reduces_nothing() -> None:
    loader = make(0, 1, None)
    drive(loader, 2)
    assert loader.state_dict(shared=True) == loader.state_dict()


def test_it_needs_all_reduce_on_several_ranks() -> None:
    loader = make(1, 2, None, mixing=Proportional())
    with pytest.raises(
        ValueError, match=r"all_reduce must be a callable for state_dict\(shared=True\) on 2 ranks \(got None\)"
    ):
        loader.state_dict(shared=True)
    assert loader.state_dict()["rank"] == 1


def test_ranks_whose_states_are_of_different_steps_raise() -> None:
    """By default, a state describes the run after the last batch with losses, which may be earlier on one rank."""

    def save(rank: int, all_reduce: Any) -> Any:
        loader = make(rank, 3, all_reduce, update_every=2, lookahead=2)
        list(islice(loader, 4))
        loader.record([1.0], [0], step=rank + 1)
        before = loader.state_dict()
        with pytest.raises(RuntimeError, match=r"same batch on all ranks \(got the steps \[1, 2, 3\]\): pass step="):
            loader.state_dict(shared=True)
        assert loader.state_dict() == before
        return loader.state_dict(shared=True, step=2)

    for state in on_ranks(3, save):
        assert (state["total_step"], window_sums(state)) == (3, [[1, 0, 0, 0], [1, 0, 0, 0]])


def test_an_all_reduce_that_does_not_sum_raises_and_the_loader_stays_usable() -> None:
    loader = make(0, 2, lambda sums: sums)
    drive(loader, 2)
    before = loader.state_dict()
    with pytest.raises(RuntimeError, match=r"all_reduce must sum a float64 array over all 2 ranks"):
        loader.state_dict(shared=True)
    assert loader.state_dict() == before


def test_an_error_in_all_reduce_is_raised_and_the_loader_stays_usable() -> None:
    def failing(_: Any) -> Any:
        raise ConnectionError

    loader = make(0, 2, failing)
    drive(loader, 2)
    before = loader.state_dict()
    with pytest.raises(ConnectionError):
        loader.state_dict(shared=True)
    assert loader.state_dict() == before


def test_both_arguments_are_keyword_only() -> None:
    loader = make(0, 1, None)
    with pytest.raises(TypeError):
        loader.state_dict(True)  # type: ignore[call-arg]


@pytest.mark.parametrize("shared", ["no", 1])
def test_shared_is_true_or_false(shared: Any) -> None:
    with pytest.raises(TypeError, match="shared must be True or False"):
        Loader(np.arange(6), batch_size=2, format="numpy", seed=0).state_dict(shared=shared)
