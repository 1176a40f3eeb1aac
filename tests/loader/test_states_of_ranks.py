"""States of several ranks, resumed on any number of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from l2m_fast import Balanced, ClassLoss, Loader, _core
from loader.small import FORMATS, losses_of, make, window_sums

# ---- ranks


def _ranks(world_size: int, mailbox: list[Any], **options: Any) -> list[Loader]:
    """Return the loaders of all ranks in one process, which take reduced sums from the mailbox filled by `_post()`."""
    return [
        make(
            batch_size=12 // world_size,
            rank=rank,
            world_size=world_size,
            all_reduce=lambda sums: np.copyto(sums, [*sum(mailbox), world_size * (2**32 - 1), world_size]),
            **options,
        )
        for rank in range(world_size)
    ]


def _steps(ranks: list[Loader], steps: int) -> list[Any]:
    """Iterate over this number of steps on all ranks and record losses; return global batches as sorted rows."""
    batches = [iter(loader) for loader in ranks]
    seen = []
    for _ in range(steps):
        parts = [next(of_rank) for of_rank in batches]
        seen.append(sorted(np.concatenate(parts).tolist()))
        for loader, part in zip(ranks, parts, strict=True):
            loader.record(losses_of(part))
    return seen


def _post(ranks: list[Loader], mailbox: list[Any]) -> None:
    mailbox[:] = [_core.values_of_losses(loader.state_dict())[0] for loader in ranks]


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_the_states_of_all_ranks_resume_on_any_number_of_ranks(before: int, after: int) -> None:
    def end_epoch(ranks: list[Loader], mailbox: list[Any]) -> list[float]:
        """End the epoch on all ranks, with their recorded losses."""
        _post(ranks, mailbox)
        for loader in ranks:
            next(iter(loader))
        shares = {tuple(loader.proportions.tolist()) for loader in ranks}
        assert len(shares) == 1
        return list(shares.pop())

    mailbox: list[Any] = []
    ranks = _ranks(before, mailbox)
    _steps(ranks, 2)
    states = FORMATS["json"]([loader.state_dict() for loader in ranks])
    resumed_mailbox: list[Any] = []
    resumed = _ranks(after, resumed_mailbox)
    for loader in resumed:
        loader.load_state_dict(states)
    pending = np.sum([_core.values_of_losses(loader.state_dict()) for loader in resumed], axis=0)
    saved = np.sum([_core.values_of_losses(state) for state in states], axis=0)
    assert _core.with_values_of_losses(states[0], pending) == _core.with_values_of_losses(states[0], saved)

    same_ranks = _ranks(before, mailbox)
    for loader, state in zip(same_ranks, states, strict=True):
        loader.load_state_dict(state)
    assert _steps(resumed, len(ranks[0]) - 2) == _steps(same_ranks, len(ranks[0]) - 2)
    np.testing.assert_allclose(end_epoch(resumed, resumed_mailbox), end_epoch(same_ranks, mailbox), rtol=1e-13)


def test_a_state_without_pending_losses_resumes_on_other_ranks_alone() -> None:
    states = [loader.state_dict() for loader in _ranks(2, [])]
    (whole,) = _ranks(1, [])
    whole.load_state_dict(states[1])
    assert len(list(whole)) == 3


def test_pending_losses_of_the_other_ranks_are_restored() -> None:
    ranks = _ranks(2, [])
    for loader in ranks:
        loader.record(losses_of(next(iter(loader))))
    (whole,) = _ranks(1, [])
    before = whole.state_dict()
    with pytest.raises(ValueError, match=r"rank 1 of 2, cannot resume as rank 0 of 1 alone"):
        whole.load_state_dict(ranks[1].state_dict())
    assert whole.state_dict() == before


def test_a_list_must_contain_the_states_of_all_ranks_at_the_same_step() -> None:
    states = [loader.state_dict() for loader in _ranks(3, [])]
    (whole,) = _ranks(1, [])
    later = {**states[2], "total_step": 1, "step": 1}
    for given, message in (
        ([], "an empty list"),
        (states[:2], r"each of the 3 ranks once \(got ranks \[0, 1\]\)"),
        ([states[0], states[0], states[1]], r"got ranks \[0, 0, 1\]"),
        ([*states, states[0]], r"got ranks \[0, 0, 1, 2\]"),
        ([*states[:2], later], "saved at different steps: step, total_step differ"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.load_state_dict(given)
    whole.load_state_dict(states[::-1])
    assert len(list(whole)) == 3


def test_ranks_that_do_not_reduce_keep_their_own_class_losses() -> None:
    def half(rank: int) -> Loader:
        return Loader(
            np.arange(60), batch_size=5, classes=np.arange(60) % 3, mixing=Balanced(), update_every=2, format="numpy", seed=0,
            rank=rank, world_size=2,
        )  # fmt: skip

    ranks = [half(rank) for rank in range(2)]
    for rank, loader in enumerate(ranks):
        for _ in zip(range(4), loader, strict=False):
            loader.record(np.full(5, 1.0 + rank))
    states = [loader.state_dict() for loader in ranks]
    assert ranks[0].class_losses.tolist() != ranks[1].class_losses.tolist()
    for rank in range(2):
        resumed = half(rank)
        resumed.load_state_dict(states)
        assert resumed.class_losses.tolist() == ranks[rank].class_losses.tolist()
        assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in list(half(rank))[4:]]


def test_a_schedule_on_several_ranks_sees_no_losses_of_one_of_them() -> None:
    seen: list[Any] = []

    class Schedule:
        schedule = True

        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, window: Any) -> Any:
            seen.append((window.class_losses.tolist(), window.counts.tolist()))
            return window.proportions

    for world_size in (1, 2):
        seen.clear()
        loader = Loader(
            np.arange(60), batch_size=5, classes=np.arange(60) % 3, mixing=Schedule(), update_every=2, format="numpy", seed=0,
            rank=0, world_size=world_size,
        )  # fmt: skip
        for _ in zip(range(4), loader, strict=False):
            loader.record(np.ones(5))
        assert seen
        assert all((sum(counts) == 0) == (world_size == 2) == (sum(losses) == 0) for losses, counts in seen)


# ---- states that do not fit


@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_sum_of_one_rank_is_not_hidden_by_the_others(rank: int) -> None:
    ranks = _ranks(2, [])
    for loader in ranks:
        loader.record([1.0], [0])
    states = [loader.state_dict() for loader in ranks]
    states[rank]["window_counts"][0][0] = 0
    with pytest.raises(
        ValueError, match=r"window_sums of the state must be 0 for a class without losses \(got 1 for class 0"
    ):
        _ranks(1, [])[0].load_state_dict(states)


def test_sums_of_ranks_are_clamped() -> None:
    mailbox: list[Any] = []
    ranks = _ranks(2, mailbox)
    for loader in ranks:
        loader.record(ClassLoss(np.full(loader.num_classes, 2.0**168), np.full(loader.num_classes, 2**50)))
    state = [json.loads(json.dumps(loader.state_dict())) for loader in ranks]
    resumed = _ranks(2, mailbox)[0]
    resumed.load_state_dict(state)
    assert window_sums(resumed.state_dict())[0] == [2.0**168] * resumed.num_classes
