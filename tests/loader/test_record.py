"""Recorded losses, the windows they are gathered in, and what policies make of them."""

from __future__ import annotations

import itertools
import math
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_fast import (
    Balanced,
    ClassLoss,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Loader,
    Proportional,
    Static,
    Temperature,
    class_loss,
)

N = 40
CLASSES = np.repeat([0, 1, 3], [20, 12, 8])  # class 2 has no rows
SIZES = np.array([20, 12, 0, 8])
STEPS = 6
START = SIZES / N


def make(**options: Any) -> Loader:
    usual: dict[str, Any] = {
        "seed": 0,
        "batch_size": 6,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "format": "numpy",
    }
    return Loader(np.arange(N), **usual | {"num_threads": 1} | options)


def stepped(proportions: Any, losses: Any, rate: float = 0.5) -> Any:
    """Algorithm 2 of the paper."""
    return np.asarray(proportions) + rate * (np.asarray(losses) / np.sum(losses) - np.asarray(proportions))


def record_means(loader: Loader, *means: float) -> None:
    """One loss of each of the classes 0, 1 and 3."""
    loader.record(np.array(means), classes=[0, 1, 3][: len(means)])


class Spy:
    """A policy that notes what it is given, and answers with what `answer` makes of it."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[Any] = []
        self._answer = answer or (lambda proportions: proportions)

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, proportions: Any, class_losses: Any, class_sizes: Any) -> Any:
        self.calls.append((proportions.tolist(), class_losses.tolist(), class_sizes.tolist()))
        return self._answer(proportions)

    def __repr__(self) -> str:
        return "Spy()"


# ---- what is recorded


@pytest.mark.parametrize(
    "convert",
    [
        np.float16,
        np.float32,
        np.float64,
        torch.tensor,
        lambda losses: torch.tensor(losses, dtype=torch.bfloat16),
        lambda losses: torch.tensor(losses, dtype=torch.float16, requires_grad=True),
        lambda losses: torch.tensor(losses, requires_grad=True) * 1,
        lambda losses: np.repeat(losses, 2)[::2],
        lambda losses: np.array(losses, ">f4"),
        list,
    ],
)
@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_the_losses_of_a_batch_are_those_of_its_classes(convert: Any, batch_format: Any) -> None:
    loader = make(format=batch_format)
    total, count = np.zeros(4), np.zeros(4, np.int64)
    for rows in loader:
        losses = np.asarray(rows) * 0.5
        loader.record(convert(losses.tolist()))
        np.add.at(total, CLASSES[np.asarray(rows)], losses)
        np.add.at(count, CLASSES[np.asarray(rows)], 1)
        state = loader.state_dict()
        assert state["window_sum"] == total.tolist()
        assert state["window_count"] == count.tolist()


def test_two_calls_for_one_batch_add_up() -> None:
    loader = make()
    next(iter(loader))
    loader.record(np.ones(6))
    once = loader.state_dict()
    loader.record(np.full(6, 2.0))
    twice = loader.state_dict()
    assert twice["window_sum"] == [3 * total for total in once["window_sum"]]
    assert twice["window_count"] == [2 * count for count in once["window_count"]]


def test_the_classes_given_decide_and_any_length_will_do() -> None:
    loader = make()
    next(iter(loader))
    loader.record([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], classes=torch.tensor([3, 3, 0, 1, 0, 3, 1]))
    loader.record(np.zeros(0), classes=np.zeros(0, np.int64))
    state = loader.state_dict()
    assert state["window_sum"] == [20, 72, 0, 35]
    assert state["window_count"] == [2, 2, 0, 3]


def test_a_class_loss_adds_its_sums_and_counts() -> None:
    loader, other = make(), make()
    for rows, _ in zip(loader, other, strict=True):
        losses = np.sqrt(rows)
        loader.record(losses)
        other.record(class_loss(losses, CLASSES[rows], 4))
    np.testing.assert_allclose(other.state_dict()["window_sum"], loader.state_dict()["window_sum"], rtol=1e-14)
    assert other.state_dict()["window_count"] == loader.state_dict()["window_count"]


def test_losses_that_are_not_finite_are_left_out_with_one_warning() -> None:
    loader = make()
    batches = iter(loader)
    next(batches)
    with pytest.warns(RuntimeWarning, match="not finite were recorded; they are left out") as caught:
        loader.record([math.nan, 2.0, math.inf, 4.0, -math.inf], classes=[0, 0, 1, 1, 3])
    assert len(caught) == 1
    loader.record([math.nan], classes=[0])
    list(batches)
    assert loader.class_losses.tolist()[:2] == [2, 4]
    np.testing.assert_allclose(loader.proportions, stepped(START, [2, 4, 0, 3]))


def test_a_class_loss_that_is_not_finite_counts_for_no_class_that_has_it() -> None:
    loader = make()
    with pytest.warns(RuntimeWarning, match="not finite"):
        loader.record(ClassLoss(np.array([math.nan, 2.0, 0.0, math.inf]), np.array([3, 1, 0, 1])))
    assert loader.state_dict()["window_count"] == [0, 1, 0, 0]
    assert loader.state_dict()["window_sum"] == [0, 2, 0, 0]


def test_a_window_without_any_finite_loss_changesnullcontext() -> None:
    loader = make()
    for _ in loader:
        with pytest.warns(RuntimeWarning, match="not finite") if loader.step == 1 else nullcontext():
            loader.record(np.full(6, math.nan))
    assert loader.proportions.tolist() == START.tolist()
    assert np.isnan(loader.class_losses).all()
    assert loader.history == []


def test_negative_class_means_count_as_zero_with_one_warning() -> None:
    loader = make()
    for epoch in range(2):
        batches = iter(loader)
        record_means(loader, -3.0, 1.0, 1.0)
        with pytest.warns(RuntimeWarning, match="mean loss of a class is negative") if epoch == 0 else nullcontext():
            list(batches)
    assert loader.class_losses.tolist()[:2] == [0, 1]
    np.testing.assert_allclose(loader.proportions, stepped(stepped(START, [0, 1, 0, 1]), [0, 1, 0, 1]))


def test_single_negative_losses_are_no_cause_for_a_warning() -> None:
    loader = make()
    loader.record([-1.0, 3.0], classes=[0, 0])
    loader.update()
    assert loader.class_losses[0] == 1


def test_where_all_losses_are_zero_the_proportions_stay() -> None:
    loader = make()
    for _ in loader:
        loader.record(np.zeros(6))
    assert loader.proportions.tolist() == START.tolist()
    assert loader.class_losses[[0, 1, 3]].tolist() == [0, 0, 0]


def test_a_class_without_a_loss_keeps_its_last_and_one_that_never_had_any_takes_the_mean() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    record_means(loader, 2.0, 6.0)
    loader.update()
    assert repr(loader.class_losses.tolist()) == "[2.0, 6.0, nan, nan]"
    loader.record([3.0], classes=[0])
    loader.update()
    record_means(loader, 3.0, 6.0, 9.0)
    loader.update()
    loader.record([5.0], classes=[0])
    loader.update()
    assert [losses for _, losses, _ in spy.calls] == [[2, 6, 0, 4], [3, 6, 0, 4.5], [3, 6, 0, 9], [5, 6, 0, 9]]
    assert loader.class_losses.tolist()[:2] == [5, 6]


def test_losses_of_a_class_without_rows_are_left_out_of_everything() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    loader.record([100.0], classes=[2])
    loader.update()
    assert spy.calls == []
    loader.record([100.0, 1.0], classes=[2, 0])
    loader.update()
    assert spy.calls[0][1] == [1, 1, 0, 1]
    assert math.isnan(loader.class_losses[2])


# ---- when it acts


def test_an_epoch_is_a_window_and_acts_from_the_next() -> None:
    loader = make(prefetch=4)
    expected = START
    for _ in range(3):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
            assert loader.proportions.tolist() == pytest.approx(expected.tolist(), abs=1e-15)
        expected = stepped(expected, [1, 2, 0, 3])
    assert loader.proportions.tolist() == pytest.approx(expected.tolist(), abs=1e-15)
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)
    assert loader.proportions[2] == 0


def test_an_epoch_left_unfinished_counts_when_the_next_begins() -> None:
    loader = make()
    for _ in itertools.islice(loader, 2):
        record_means(loader, 1.0, 2.0, 3.0)
    assert loader.proportions.tolist() == START.tolist()
    next(iter(loader))
    np.testing.assert_allclose(loader.proportions, stepped(START, [1, 2, 0, 3]))
    assert [(update["epoch"], update["total_step"]) for update in loader.history] == [(0, 2)]


def test_an_epoch_without_losses_leaves_no_update() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    list(loader)
    with pytest.warns(RuntimeWarning, match=r"Spy\(\) follows losses, and none was recorded"):
        list(loader)
    list(loader)
    assert spy.calls == []
    assert loader.history == []


@pytest.mark.parametrize("every", [1, 2, 4, 6, 7, 15])
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (1, 1), (2, 4), (1, 30)])
def test_window_w_acts_from_the_first_batch_of_window_w_plus_2(every: int, num_threads: int, prefetch: int) -> None:
    loader = make(update_every=every, num_threads=num_threads, prefetch=prefetch)
    means = [START]  # after so many windows
    total = 0
    for _ in range(5):
        for rows in loader:
            window = total // every
            np.testing.assert_allclose(
                np.bincount(CLASSES[rows], minlength=4) / 6, means[max(window - 1, 0)], atol=1 / 6
            )
            record_means(loader, 1.0 + window, 2.0, 3.0)
            total += 1
            if total % every == 0:
                means.append(stepped(means[-1], [1.0 + window, 2, 0, 3]))
            of_next = max(total // every - 1, 0)
            np.testing.assert_allclose(loader.proportions, means[of_next], rtol=1e-13)
    closed = (total - 1) // every
    assert len(loader.history) == closed
    assert [update["total_step"] for update in loader.history] == [every * (w + 1) for w in range(closed)]


def test_the_batches_that_follow_are_drawn_with_the_new_proportions() -> None:
    loader = make(mixing=Learn2Mix(1.0), update_every=2, steps_per_epoch=8, prefetch=4)
    shares = []
    for rows in loader:
        shares.append(np.bincount(CLASSES[rows], minlength=4).tolist())
        loader.record([1.0, 0.0, 0.0], classes=[3, 0, 1])
    assert shares[4:] == [[0, 0, 0, 6]] * 4
    assert all(max(share) < 6 for share in shares[:4])


def test_update_between_epochs_acts_from_the_coming_one() -> None:
    loader = make(prefetch=4)
    list(loader)
    record_means(loader, 1.0, 2.0, 3.0)
    assert loader.proportions.tolist() == START.tolist()
    loader.update()
    expected = stepped(START, [1, 2, 0, 3])
    np.testing.assert_allclose(loader.proportions, expected)
    list(loader)
    np.testing.assert_allclose(loader.proportions, expected)
    assert [update["epoch"] for update in loader.history] == [1]


def test_update_before_the_first_epoch_acts_on_it() -> None:
    loader = make(mixing=Learn2Mix(1.0))
    loader.record([1.0, 0.0, 0.0], classes=[1, 0, 3])
    loader.update()
    assert loader.proportions.tolist() == [0, 1, 0, 0]
    assert all((CLASSES[rows] == 1).all() for rows in loader)


def test_update_in_mid_epoch_acts_from_the_next() -> None:
    loader = make(prefetch=4)
    expected = START
    for rows in loader:
        record_means(loader, 1.0, 2.0, 3.0)
        loader.update()
        expected = stepped(expected, [1, 2, 0, 3])
        assert loader.proportions.tolist() == START.tolist()
        assert len(rows) == 6
    np.testing.assert_allclose(loader.proportions, expected)
    assert len(loader.history) == STEPS
    list(loader)
    np.testing.assert_allclose(loader.proportions, expected)


def test_update_without_losses_changesnullcontext() -> None:
    loader = make()
    loader.update()
    list(loader)
    loader.update()
    assert loader.history == []
    assert loader.proportions.tolist() == START.tolist()


def test_losses_recorded_after_an_epoch_belong_to_the_next_window() -> None:
    loader = make()
    list(loader)
    loader.record(np.ones(6))
    assert loader.history == []
    assert sum(loader.state_dict()["window_count"]) == 6
    list(loader)
    assert [update["epoch"] for update in loader.history] == [1]
    assert loader.history[0]["counts"].sum() == 6


# ---- the history


def test_the_history_has_one_record_an_update() -> None:
    loader = make()
    for epoch in range(3):
        for _batch in loader:
            record_means(loader, 1.0, 2.0 + epoch)
    assert len(loader.history) == 3
    before = START
    for epoch, update in enumerate(loader.history):
        assert set(update) == {"epoch", "total_step", "proportions", "class_losses", "counts"}
        assert (update["epoch"], update["total_step"]) == (epoch, (epoch + 1) * STEPS)
        losses = [1, 2 + epoch, 0, (3 + epoch) / 2]
        assert update["class_losses"].tolist() == losses
        assert update["counts"].tolist() == [STEPS, STEPS, 0, 0]
        np.testing.assert_allclose(update["proportions"], stepped(before, losses))
        before = update["proportions"]
    assert loader.proportions.tolist() == before.tolist()


def test_what_is_given_out_is_the_users_own() -> None:
    loader = make()
    for _batch in loader:
        record_means(loader, 1.0, 2.0, 3.0)
    before = loader.state_dict()
    for array in (loader.proportions, loader.class_losses, loader.class_sizes):
        array[:] = 7
    for array in (loader.history[0]["proportions"], next(iter(loader.history))["class_losses"]):
        array[:] = 7
    assert loader.state_dict() == before
    assert len(loader.history) == 1
    assert loader.history[0]["proportions"].sum() == pytest.approx(1)
    assert loader.class_sizes.tolist() == SIZES.tolist()


def test_the_history_keeps_the_newest_64_megabytes() -> None:
    num_classes = 1 << 20
    data = np.arange(num_classes)
    loader = Loader(
        data, batch_size=4, classes=data, mixing=Learn2Mix(), format="numpy", num_threads=0, prefetch=0, seed=0
    )
    for k in range(4):
        loader.record([1.0], classes=[k])
        loader.update()
    kept = loader.history
    assert len(kept) == 2
    assert [np.flatnonzero(update["counts"]).tolist() for update in kept] == [[2], [3]]


# ---- policies


@pytest.mark.parametrize(
    "mixing",
    [None, Proportional(), Balanced(), Static([0.25, 0.5, 0, 0.25]), EffectiveNumber(0.9), Temperature(2)],
    ids=str,
)
@pytest.mark.parametrize("every", [None, 2])
def test_a_fixed_policy_keeps_its_proportions_and_still_knows_the_losses(mixing: Any, every: Any) -> None:
    loader = make(mixing=mixing, update_every=every)
    before = loader.proportions.tolist()
    for _ in range(2):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
            assert loader.proportions.tolist() == before
    assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
    assert loader.history == []
    assert loader.proportions.tolist() == before


def test_a_custom_policy_is_called_with_copies() -> None:
    class Vandal(Spy):
        def initial(self, class_sizes: Any) -> Any:
            shares = class_sizes / class_sizes.sum()
            class_sizes[:] = 0
            return shares

        def update(self, proportions: Any, class_losses: Any, class_sizes: Any) -> Any:
            super().update(proportions, class_losses, class_sizes)
            for array in (proportions, class_losses, class_sizes):
                array[:] = 0
            return [0.5, 0.25, 0, 0.25]

    spy = Vandal()
    loader = make(mixing=spy)
    for _ in range(2):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
    assert loader.class_sizes.tolist() == SIZES.tolist()
    assert [sizes for _, _, sizes in spy.calls] == [SIZES.tolist()] * 2
    assert [before for before, _, _ in spy.calls] == [START.tolist(), [0.5, 0.25, 0, 0.25]]
    assert loader.class_losses[[0, 1, 3]].tolist() == [1, 2, 3]


def test_a_custom_policy_may_return_a_list_or_a_tensor() -> None:
    for answer in ([0.5, 0.25, 0, 0.25], (0.5, 0.25, 0, 0.25), torch.tensor([0.5, 0.25, 0, 0.25])):
        loader = make(mixing=Spy(lambda _, answer=answer: answer))
        record_means(loader, 1.0)
        loader.update()
        assert loader.proportions.tolist() == [0.5, 0.25, 0, 0.25]


def test_proportions_that_nearly_sum_to_one_are_made_to() -> None:
    loader = make(mixing=Spy(lambda p: p * (1 + 5e-7)))
    record_means(loader, 1.0)
    loader.update()
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)


MISBEHAVIOUR: dict[str, tuple[Any, Any, str]] = {
    "too short": (lambda p: p[:3], ValueError, r"shape \(4,\) \(got \(3,\) from (initial|update)\(\) of Spy"),
    "too long": (lambda p: np.append(p, 0), ValueError, "4"),
    "two dimensions": (lambda p: p[None], ValueError, r"shape \(4,\) \(got \(1, 4\)"),
    "a number": (lambda p: 0.25, ValueError, "proportions must"),  # noqa: ARG005
    "NaN": (lambda p: p * math.nan, ValueError, "finite"),
    "infinite": (lambda p: p * math.inf, (ValueError, RuntimeWarning), "finite|invalid value"),
    "negative": (lambda p: p - [0, 0, 0.5, -0.5], ValueError, ">= 0"),
    "too much": (lambda p: p * 2, ValueError, "sum to 1"),
    "share for an empty class": (lambda p: p[[0, 1, 3, 2]], ValueError, r"without rows must have proportion 0"),
    "strings": (lambda p: ["a"] * 4, TypeError, "proportions must be numbers"),  # noqa: ARG005
    "None": (lambda p: None, TypeError, r"proportions must be numbers \(got None"),  # noqa: ARG005
    "complex": (lambda p: p + 0j, TypeError, "proportions must be numbers"),
    "ragged": (lambda p: [[0.5], 0.5], TypeError, "proportions must be numbers"),  # noqa: ARG005
    "raises": (lambda p: p["x"], IndexError, "only integers"),
}


@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_misbehaving_policy_raises_and_no_losses_are_lost(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]
    behaves = [False]
    loader = make(mixing=Spy(lambda p: p if behaves[0] else answer(p)))
    for _ in range(2):
        batches = iter(loader)
        for _batch in itertools.islice(batches, STEPS):
            record_means(loader, 1.0, 2.0, 3.0)
        before = loader.state_dict()
        with pytest.raises(error, match=message):
            next(batches)
        assert loader.state_dict() == before
        behaves[0] = True
        assert list(batches) == []
        assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
        assert loader.history[-1]["counts"].tolist() == [STEPS, STEPS, 0, STEPS]
        behaves[0] = False


@pytest.mark.filterwarnings("ignore:.* follows losses, and none was recorded")
@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_misbehaving_policy_raises_where_the_window_of_steps_ends(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]
    behaves = [False]
    loader = make(mixing=Spy(lambda p: p if behaves[0] else answer(p)), update_every=2, prefetch=4)
    twin = make(mixing=Spy(), update_every=2)
    expected = [batch.tolist() for batch in twin]
    batches, got = iter(loader), []
    for _ in range(2):
        got.append(next(batches).tolist())
        record_means(loader, 1.0, 2.0, 3.0)
    before = loader.state_dict()
    with pytest.raises(error, match=message):
        next(batches)
    assert loader.state_dict() == before
    behaves[0] = True
    got += [batch.tolist() for batch in batches]
    assert got == expected
    assert loader.history[0]["counts"].tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_policy_that_keeps_misbehaving_does_not_keep_the_run_from_going_on(how: str, every: Any) -> None:
    answer, error, _ = MISBEHAVIOUR[how]
    loader = make(mixing=Spy(answer), update_every=every)
    expected = [batch.tolist() for batch in make(mixing=Proportional(), steps_per_epoch=2 * STEPS)]
    got: list[list[int]] = []
    batches, failed = iter(loader), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while len(got) < 2 * STEPS:
            try:
                batch = next(batches, None)
            except error:
                failed += 1
                continue
            if batch is None:
                batches = iter(loader)
                continue
            got.append(batch.tolist())
            record_means(loader, 1.0, 2.0, 3.0)
    assert failed == sum("failed again on the same losses" in str(warning.message) for warning in caught) > 0
    assert [len(batch) for batch in got] == [6] * 2 * STEPS
    assert loader.history == []
    assert loader.proportions.tolist() == START.tolist()
    assert repr(loader.class_losses.tolist()) == "[1.0, 2.0, nan, 3.0]"
    assert got[:STEPS] == expected[:STEPS]


@pytest.mark.parametrize("how", [how for how in MISBEHAVIOUR if how != "raises"])
def test_wrong_initial_proportions_are_refused(how: str) -> None:
    answer, error, message = MISBEHAVIOUR[how]

    class Wrong(Spy):
        def initial(self, class_sizes: Any) -> Any:
            return answer(class_sizes / class_sizes.sum())

    with pytest.raises(error, match=message):
        make(mixing=Wrong())


def test_group_dro_goes_on_where_a_share_has_become_nothing() -> None:
    policy = GroupDRO(1.0)
    proportions = np.array([0.5, 0.5])
    for losses in ([1000.0, 0.0], [1000.0, 0.0], [0.0, 2000.0]):
        proportions = policy.update(proportions, np.array(losses), np.array([10, 10]))
    assert proportions.tolist() == [1, 0]


# ---- several ranks


def test_stop_iteration_of_all_reduce_is_an_error_and_no_end_of_the_epoch() -> None:
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
        assert sums.shape == (9,)
        sums[:] = [*np.sum(mailbox, axis=0), world_size]

    def post() -> None:
        states = [loader.state_dict() for loader in ranks]
        mailbox[:] = [np.array(state["window_sum"] + state["window_count"]) for state in states]

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
            np.testing.assert_allclose(loader.proportions, whole.proportions, rtol=1e-13)
    assert len(whole.history) == len(ranks[0].history) > 1


def test_a_rank_that_recorded_nothing_still_takes_part() -> None:
    def all_reduce(sums: Any) -> None:
        sums += [1, 2, 0, 3, 1, 1, 0, 1, 1]

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


def test_an_all_reduce_that_raises_loses_no_losses() -> None:
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


# ---- properties


@pytest.mark.filterwarnings("ignore:losses that are not finite", "ignore:the mean loss of a class is negative")
@settings(max_examples=150, deadline=None)
@given(
    losses=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3]), st.floats(width=32) | st.floats(0, 10)), min_size=1, max_size=30
    ),
    mixing=st.sampled_from([Learn2Mix(0.3), Learn2Mix(1.0, min_share=0.05), GroupDRO(0.5)]),
)
def test_whatever_is_recorded_the_proportions_stay_proportions(losses: list[tuple[int, float]], mixing: Any) -> None:
    loader = make(mixing=mixing, num_threads=0, prefetch=0)
    for _ in range(2):
        loader.record([loss for _, loss in losses], classes=[k for k, _ in losses])
        loader.update()
        p = loader.proportions
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        assert p[2] == 0
        assert p.sum() == pytest.approx(1, abs=1e-12)
    assert next(iter(loader)).shape == (6,)


def test_a_policy_that_raises_stop_iteration_does_not_end_the_epoch() -> None:
    class Stopping:
        def initial(self, class_sizes: Any) -> Any:
            return class_sizes / class_sizes.sum()

        def update(self, *_: Any) -> Any:
            return next(iter(()))

    loader = Loader(
        np.arange(96),
        batch_size=8,
        classes=np.arange(96) % 4,
        mixing=Stopping(),
        update_every=3,
        format="numpy",
        seed=0,
    )
    batches = iter(loader)
    for _ in range(3):
        next(batches)
        loader.record(np.ones(8))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        next(batches)
