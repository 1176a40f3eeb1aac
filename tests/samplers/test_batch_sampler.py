"""Batches of a DataLoader by `BatchSampler` and `Sampler`: the rows and the mix of a `Loader`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from l2m_fast import Balanced, BatchSampler, GroupDRO, Learn2Mix, Loader, MixingPolicy, Sampler
from loader.ranks import on_ranks

N = 120
CLASSES = np.arange(N) % 5 % 3
POLICIES: list[MixingPolicy | None] = [None, Balanced(), Learn2Mix(0.5), GroupDRO(0.5)]


class Rows(Dataset[int]):
    """Dataset whose samples are their row ids."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> int:
        assert type(row) is int
        return row


def losses_of(rows: torch.Tensor) -> torch.Tensor:
    """Return losses that are a function of the row and differ by class."""
    return torch.from_numpy(CLASSES)[rows] + 1 + rows % 7 / 7


def make(**options: Any) -> BatchSampler:
    return BatchSampler(CLASSES, **{"batch_size": 8, "seed": 3, **options})


def expected_batches(num_epochs: int, **options: Any) -> Iterator[list[int]]:
    """Yield the rows of the batches of a `Loader` in a plain loop."""
    loader = Loader(torch.arange(N), classes=CLASSES, include=("step",), **{"batch_size": 8, "seed": 3, **options})
    for _ in range(num_epochs):
        for rows, step in loader:
            loader.record(losses_of(rows), step=step)
            yield rows.tolist()


def batches_of(sampler: BatchSampler, data: DataLoader[Any], num_epochs: int) -> Iterator[list[int]]:
    """Yield the rows of the batches of a DataLoader, and record their losses."""
    for _ in range(num_epochs):
        for rows in data:
            sampler.record(losses_of(rows), rows=rows)
            yield rows.tolist()


@pytest.mark.parametrize("mixing", POLICIES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_every": 4},
        {"update_every": 5, "lookahead": 5},
        {"order": "grouped", "rows": np.arange(3, N)},
        {"shuffle": False, "steps_per_epoch": 7},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:shuffle=False")
def test_batches_have_the_rows_of_those_of_a_loader(mixing: MixingPolicy | None, options: dict[str, Any]) -> None:
    sampler = make(mixing=mixing, **options)
    data = DataLoader(Rows(), batch_sampler=sampler)
    expected = list(expected_batches(3, mixing=mixing, **options))
    assert list(batches_of(sampler, data, 3)) == expected
    assert len(data) == len(sampler) == len(expected) // 3


@pytest.mark.parametrize("update_every", [None, 6])
@pytest.mark.parametrize("workers", [{}, {"persistent_workers": True}, {"multiprocessing_context": "spawn"}], ids=str)
def test_workers_draw_ahead_without_changing_anything(update_every: int | None, workers: dict[str, Any]) -> None:
    options = {"mixing": Learn2Mix(0.5), "lookahead": 4, "update_every": update_every}
    sampler = make(**options)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=2, **workers)
    expected = list(expected_batches(3, **options))
    assert list(batches_of(sampler, data, 3)) == expected
    assert len({tuple(record["proportions"]) for record in sampler.history}) > 1  # the mix has changed


def test_ranks_share_global_batches() -> None:
    options = {"mixing": Balanced(), "world_size": 3, "batch_size": 5}
    for rank in range(3):
        sampler = make(**options, rank=rank)
        assert list(sampler) == list(expected_batches(1, **options, rank=rank))


@pytest.mark.parametrize("lookahead", [0, 3])
def test_drawing_further_ahead_than_allowed_raises(lookahead: int) -> None:
    sampler = make(mixing=Learn2Mix(), lookahead=lookahead)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(lookahead + 1)]
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=rf"lookahead must be at least .*\(got {lookahead}, and {lookahead + 1} "
        ):
            next(batches)
    sampler.record(losses_of(torch.tensor(drawn[0])))
    assert [*drawn, next(batches)] == list(expected_batches(1))[: lookahead + 2]
    assert sampler.total_step == lookahead + 2


def test_a_policy_that_follows_no_losses_needs_none() -> None:
    sampler = make(mixing=Balanced())
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=2)
    assert [rows.tolist() for rows in data] == list(expected_batches(1, mixing=Balanced()))
    with pytest.raises(RuntimeError, match="lookahead must be at least"):
        sampler.record(torch.ones(8))


def test_losses_belong_to_the_oldest_batch_without_any() -> None:
    sampler = make(mixing=Learn2Mix(), lookahead=3)
    with pytest.raises(RuntimeError, match="a batch must be drawn before its losses"):
        sampler.record(torch.ones(8))
    batches = iter(sampler)
    first, second, third = (torch.tensor(next(batches)) for _ in range(3))
    for wrong in (second, first[:7], first.tolist()[::-1]):
        with pytest.raises(ValueError, match=r"rows must be those of the oldest batch without losses, \["):
            sampler.record(losses_of(second), rows=wrong)
    with pytest.raises(ValueError, match="one value for each"):
        sampler.record(torch.ones(7))
    sampler.record(losses_of(first), rows=first)
    sampler.skip()
    sampler.record(torch.ones(2), torch.tensor([0, 1]), rows=third)
    for late in (sampler.skip, lambda: sampler.record(torch.ones(8))):
        with pytest.raises(RuntimeError, match="a batch must be drawn before its losses"):
            late()
    (terms,) = sampler.state_dict()["window_sums"]
    sums = [sum(of_class) for of_class in terms]
    expected = np.bincount([*CLASSES[first], 0, 1], [*losses_of(first), 1, 1], 3)
    np.testing.assert_allclose(sums, expected)


def in_pieces(data: Any, record: Callable[..., None], lengths: list[int]) -> Iterator[list[int]]:
    """Yield the rows of the first batches of several epochs."""
    for length in lengths:
        for i, rows in enumerate(data):
            record(rows)
            yield rows.tolist()
            if i + 1 == length:
                break


@pytest.mark.parametrize("update_every", [None, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_that_is_left_early_ends_at_the_last_batch_delivered(
    update_every: int | None, num_workers: int
) -> None:
    lengths = [3, 1, 20, 7, 2, 20]
    options: dict[str, Any] = {"mixing": Learn2Mix(0.5), "lookahead": 2 * num_workers, "update_every": update_every}
    loader = Loader(torch.arange(N), classes=CLASSES, batch_size=8, seed=3, **options)
    expected = list(in_pieces(loader, lambda rows: loader.record(losses_of(rows)), lengths))
    sampler = make(**options)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=num_workers)
    assert list(in_pieces(data, lambda rows: sampler.record(losses_of(rows), rows=rows), lengths)) == expected
    assert [r["proportions"].tolist() for r in sampler.history] == [r["proportions"].tolist() for r in loader.history]
    assert sampler.total_step == loader.total_step == len(expected)


@pytest.mark.parametrize("update_every", [None, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_after_the_end_of_an_epoch_begins_the_next(update_every: int | None, num_workers: int) -> None:
    options: dict[str, Any] = {"mixing": Learn2Mix(0.5), "lookahead": 2 * num_workers, "update_every": update_every}
    expected = list(
        in_pieces(
            loader := Loader(torch.arange(N), classes=CLASSES, batch_size=8, seed=3, **options),
            lambda rows: loader.record(losses_of(rows)),
            [3, 20, 5],
        )
    )
    sampler = make(**options)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=num_workers)
    taken = list(in_pieces(data, lambda rows: sampler.record(losses_of(rows), rows=rows), [3]))
    sampler.end_epoch()
    sampler.end_epoch()  # between epochs, nothing happens
    resumed = make(**options)
    resumed.load_state_dict(sampler.state_dict())
    data = DataLoader(Rows(), batch_sampler=resumed, num_workers=num_workers)
    taken += in_pieces(data, lambda rows: resumed.record(losses_of(rows), rows=rows), [20, 5])
    assert taken == expected


def test_two_iterators_before_the_first_batch_take_the_same_batches() -> None:
    sampler = make(mixing=Learn2Mix(), lookahead=4)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=2)
    iter(data)  # draws four batches
    assert [rows.tolist() for rows in zip(range(1), data, strict=False) for rows in rows[1:]] == list(
        expected_batches(1)
    )[:1]


@pytest.mark.parametrize("update_every", [None, 4])
def test_a_batch_that_failed_is_the_last_of_its_epoch(update_every: int | None) -> None:
    options: dict[str, Any] = {"mixing": Learn2Mix(0.5), "lookahead": 4, "update_every": update_every}
    loader = Loader(torch.arange(N), classes=CLASSES, batch_size=8, seed=3, include=("step",), **options)
    sampler = make(**options)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=2)
    for _ in range(3):  # each epoch ends with a batch without losses
        for i, ((expected, step), rows) in enumerate(zip(loader, data, strict=True)):
            assert torch.equal(expected, rows)
            if i == 3:
                break
            loader.record(losses_of(rows), step=step)
            sampler.record(losses_of(rows), rows=rows)
    sampler.end_epoch()
    assert sampler.total_step == loader.total_step == 12


def test_a_policy_that_follows_no_losses_may_get_some_in_some_epochs() -> None:
    sampler = make(mixing=Balanced(), lookahead=4)
    data = DataLoader(Rows(), batch_sampler=sampler, num_workers=2)
    expected = list(expected_batches(4, mixing=Balanced(), lookahead=4))
    taken = list(batches_of(sampler, data, 1))
    taken += [rows.tolist() for _ in range(2) for rows in data]
    assert taken + list(batches_of(sampler, data, 1)) == expected


def test_update_needs_the_losses_of_all_batches_drawn() -> None:
    sampler = make(mixing=Learn2Mix(), lookahead=4)
    batches = iter(sampler)
    next(batches), next(batches)
    sampler.skip()
    with pytest.raises(
        RuntimeError, match=r"every batch drawn must have losses when update\(\) is called \(got 1 without\)"
    ):
        sampler.update()
    sampler.record(torch.ones(8))
    sampler.update()
    assert sampler.state_dict()["total_step"] == 2


@pytest.mark.parametrize("lookahead", [0, 4])
@pytest.mark.parametrize("update_every", [None, 5])
@pytest.mark.parametrize("mixing", [None, Learn2Mix(0.5)], ids=str)
def test_a_state_resumes_after_the_last_batch_delivered(
    mixing: MixingPolicy | None, update_every: int | None, lookahead: int
) -> None:
    options = {"mixing": mixing, "lookahead": lookahead, "update_every": update_every}
    expected = list(expected_batches(3, **options))
    per_epoch = len(expected) // 3
    for consumed in (0, 1, 2, 4, 6, per_epoch - 1, per_epoch, per_epoch + 1, per_epoch + 6):
        sampler = make(**options)
        data = DataLoader(Rows(), batch_sampler=sampler, num_workers=lookahead // 2)
        run = batches_of(sampler, data, 3)
        assert [next(run) for _ in range(consumed)] == expected[:consumed]
        state = copy.deepcopy(sampler.state_dict())
        resumed = make(**options)
        resumed.load_state_dict(state)
        data = DataLoader(Rows(), batch_sampler=resumed, num_workers=lookahead // 2)
        rest = batches_of(resumed, data, 3 if consumed % per_epoch or consumed == 0 else 2)
        assert [next(rest) for _ in range(10)] == expected[consumed : consumed + 10]


def test_a_state_without_records_leaves_out_what_workers_hold() -> None:
    expected = list(expected_batches(1))
    for consumed in (1, 5, 9):
        sampler = make(lookahead=4)
        data = iter(DataLoader(Rows(), batch_sampler=sampler, num_workers=2))
        for _ in range(consumed):
            next(data)
        resumed = make(lookahead=4)
        resumed.load_state_dict(sampler.state_dict())
        assert list(resumed) == expected[consumed:]


def test_skipped_batches_are_consumed() -> None:
    sampler = make(mixing=Learn2Mix(), lookahead=2)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(3)]
    sampler.record(torch.ones(8))
    sampler.skip()
    resumed = make(mixing=Learn2Mix(), lookahead=2)
    resumed.load_state_dict(sampler.state_dict())
    assert next(iter(resumed)) == drawn[2]


# ---- torchdata

STATEFUL: dict[str, tuple[int, dict[str, Any]]] = {
    "no losses": (0, {"mixing": Balanced()}),
    "losses": (0, {"mixing": Learn2Mix(0.5), "update_every": 4}),
    "workers, no losses": (2, {"mixing": Balanced(), "lookahead": 4}),
    "workers, losses": (2, {"mixing": Learn2Mix(0.5), "update_every": 5, "lookahead": 4}),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("case", STATEFUL)
def test_a_stateful_dataloader_resumes_at_the_same_batch(case: str) -> None:
    num_workers, options = STATEFUL[case]
    expected = list(expected_batches(3, **options))
    per_epoch = len(expected) // 3

    def new() -> tuple[BatchSampler, StatefulDataLoader[Any]]:
        sampler = make(**options)
        return sampler, StatefulDataLoader(Rows(), batch_sampler=sampler, num_workers=num_workers)

    for consumed in (1, 2, 3, 7, per_epoch):
        sampler, data = new()
        run = batches_of(sampler, data, 2)
        assert [next(run) for _ in range(consumed)] == expected[:consumed]
        state = data.state_dict()
        resumed, data = new()
        data.load_state_dict(state)
        # Losses of batches that workers held are missing, which changes the mix from the next window on.
        same = 8 if num_workers == 0 or "no losses" in case else 2
        rest = batches_of(resumed, data, 3)
        assert [next(rest) for _ in range(same)] == expected[consumed : consumed + same], consumed


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_dataloader_resumes_the_flat_form(num_workers: int) -> None:
    options: dict[str, Any] = {"mixing": Balanced(), "lookahead": 2 * num_workers}
    expected = list(expected_batches(2, **options))
    for consumed in (1, 5, 9):
        sampler = Sampler(CLASSES, 8, seed=3, **options)
        data = StatefulDataLoader(Rows(), batch_size=8, sampler=sampler, num_workers=num_workers)
        batches = iter(data)
        assert [next(batches).tolist() for _ in range(consumed)] == expected[:consumed]
        state = data.state_dict()
        sampler = Sampler(CLASSES, 8, seed=3, **options)
        data = StatefulDataLoader(Rows(), batch_size=8, sampler=sampler, num_workers=num_workers)
        data.load_state_dict(state)
        assert [rows.tolist() for rows in data] == expected[consumed : len(expected) // 2]


def test_a_position_within_a_batch_of_the_flat_form_is_restored() -> None:
    rows = list(Sampler(CLASSES, 8, seed=3))
    for consumed in (0, 1, 7, 8, 13):
        batches: Any = iter(Sampler(CLASSES, 8, seed=3))
        taken = [next(batches) for _ in range(consumed)]
        resumed: Any = iter(Sampler(CLASSES, 8, seed=3))
        resumed.load_state_dict(batches.state_dict())
        assert taken + list(resumed) == rows


# ---- the flat form


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_flat_form_delivers_the_same_batches(num_workers: int) -> None:
    options: dict[str, Any] = {"mixing": Learn2Mix(0.5), "lookahead": 2 * num_workers, "update_every": 5}
    sampler = Sampler(CLASSES, 8, seed=3, **options)
    data = DataLoader(Rows(), batch_size=8, sampler=sampler, num_workers=num_workers)
    expected = list(expected_batches(3, **options))
    assert list(batches_of(sampler, data, 3)) == expected
    assert len(sampler) == 8 * len(data) == 8 * len(expected) // 3


@pytest.mark.parametrize("options", [{}, {"order": "grouped"}, {"shuffle": False}], ids=str)
@pytest.mark.filterwarnings("ignore:shuffle=False")
def test_the_flat_form_lists_the_batches_of_all_ranks(options: dict[str, Any]) -> None:
    common: dict[str, Any] = {"mixing": Balanced(), "seed": 3, "world_size": 3, **options}
    of_ranks = [list(BatchSampler(CLASSES, 5, rank=rank, **common)) for rank in range(3)]
    expected = [row for batches in zip(*of_ranks, strict=True) for batch in batches for row in batch]
    for rank in range(3):
        sampler = Sampler(CLASSES, 5, rank=rank, **common)
        assert sampler.batch_size == 5
        assert list(sampler) == expected
        assert len(sampler) == len(expected)


@pytest.mark.parametrize("update_every", [None, 3])
def test_ranks_of_the_flat_form_follow_the_losses_of_all(update_every: int | None) -> None:
    def run(kind: type[BatchSampler], rank: int, all_reduce: Any) -> tuple[list[Any], Any]:
        sampler = kind(
            CLASSES, 5, mixing=Learn2Mix(0.5), seed=3, rank=rank, world_size=3, all_reduce=all_reduce,
            update_every=update_every, lookahead=2,
        )  # fmt: skip
        taken: list[Any] = []
        for _ in range(3):
            for item in sampler:
                taken.append(item)
                if kind is Sampler and len(taken) % 15 > 0:
                    continue
                own = item if kind is BatchSampler else taken[-15:][rank * 5 : rank * 5 + 5]
                sampler.record(losses_of(torch.tensor(own)), rows=own)
        state = sampler.state_dict(shared=True)
        return taken, ([record["proportions"].tolist() for record in sampler.history], state)

    of_batches = on_ranks(3, lambda rank, all_reduce: run(BatchSampler, rank, all_reduce))
    of_rows = on_ranks(3, lambda rank, all_reduce: run(Sampler, rank, all_reduce))
    expected = [row for batches in zip(*(taken for taken, _ in of_batches), strict=True) for b in batches for row in b]
    for rank in range(3):
        assert of_rows[rank][0] == expected
        assert of_rows[rank][1] == of_batches[rank][1]


# ---- arguments


@pytest.mark.parametrize("kind", [BatchSampler, Sampler])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": None}, TypeError, "classes must be an array with the class of each row"),
        ({"classes": 3}, TypeError, "classes must be an array with the class of each row"),
        ({"classes": []}, ValueError, "classes must have at least one row"),
        ({"classes": np.array(3)}, TypeError, "classes must be an array with the class of each row"),
        ({"classes": [0.5, 1.5]}, TypeError, "classes must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"batch_size": "8"}, TypeError, "batch_size must be"),
        ({"mixing": "Learn2Mix"}, TypeError, "mixing must be a policy"),
        ({"lookahead": 3, "update_every": 2}, ValueError, "lookahead must be"),
        ({"rank": 1}, ValueError, "rank must be"),
        ({"world_size": 2, "rank": 0}, ValueError, "seed must be"),
        ({"drop_last": True}, TypeError, "drop_last"),
    ],
)
def test_wrong_arguments_are_refused(
    kind: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**{"classes": CLASSES, "batch_size": 8, **arguments})


@pytest.mark.parametrize("sampler", [BatchSampler, Sampler])
def test_samplers_need_torch(monkeypatch: pytest.MonkeyPatch, sampler: type[BatchSampler]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=rf"^{sampler.__name__} needs torch: pip install "):
        sampler(CLASSES, 4)


def test_trainers_find_no_attribute_that_they_would_misuse() -> None:
    # Accelerate calls set_epoch() with a counter that restarts on resume; Lightning rebuilds a sampler with drop_last.
    sampler = make()
    assert not hasattr(sampler, "set_epoch")
    assert not hasattr(sampler, "drop_last")
    assert sampler.batch_size == 8


def test_the_seed_is_drawn_from_the_generator_of_torch() -> None:
    torch.manual_seed(5)
    one = list(BatchSampler(CLASSES, 8))
    torch.manual_seed(5)
    assert list(BatchSampler(CLASSES, 8)) == one != list(BatchSampler(CLASSES, 8))
