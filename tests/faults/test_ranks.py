"""Several ranks: reductions that do not sum, lost rows, and missing ranks."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, Learn2Mix, Loader

N = 96
CLASSES = np.arange(N) % 4


def make(all_reduce: Any, *, world_size: int = 2, **options: Any) -> Loader:
    usual: dict[str, Any] = {
        "batch_size": 8,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "format": "numpy",
        "seed": 0,
    }
    return Loader(np.arange(N), rank=0, world_size=world_size, all_reduce=all_reduce, **usual | options)


def one_epoch(loader: Loader) -> None:
    for rows in loader:
        loader.record(1.0 + CLASSES[rows])


WORKING: dict[str, Any] = {
    "in place": lambda sums: np.copyto(sums, sums * 2),
    "returned": lambda sums: sums * 2,
    "returned as a list": lambda sums: (sums * 2).tolist(),
    "returned as a tensor": lambda sums: torch.from_numpy(sums) * 2,
    "in place, something else returned": lambda sums: (np.multiply(sums, 2, out=sums), object())[1],
    "in place and returned": lambda sums: np.multiply(sums, 2, out=sums),
}


@pytest.mark.parametrize("all_reduce", WORKING.values(), ids=WORKING.keys())
def test_sums_may_be_returned_or_written_in_place(all_reduce: Any) -> None:
    loader, expected = make(all_reduce), make(lambda sums: sums * 2)
    for one in (loader, expected):
        one_epoch(one)
    assert loader.proportions.tolist() == expected.proportions.tolist()
    assert loader.history[0]["counts"].tolist() == [2 * 12] * 4


BROKEN: dict[str, tuple[Any, str]] = {
    "nothing": (lambda sums: None, "got 1 instead of 2 for a value that is 1 on every rank"),  # noqa: ARG005
    "the argument": (lambda sums: sums, "got 1 instead of 2 for a value that is 1 on every rank"),
    "a mean": (lambda sums: sums * 2 / 2, "and 1 in place of a value that is 1 on every rank"),
    "another group": (lambda sums: sums * 4, "got <ndarray of shape \\(46,\\) and float64>"),
    "another shape": (lambda sums: (sums * 2)[:-1], "<ndarray of shape \\(45,\\)"),
    "two dimensions": (lambda sums: (sums * 2)[None], "<ndarray of shape \\(1, 46\\)"),
    "NaN": (lambda sums: sums * np.nan, "got <ndarray"),
    "a word": (lambda sums: "done", "got 'done'"),  # noqa: ARG005
    "float32": (lambda sums: sums.astype(np.float32) * np.float32(2), r"not rounded \(got \d+\).* use float64"),
    "NaN sums": (lambda sums: np.append(np.nan * sums[:-1], 2.0), r"sums of integers .* \(got nan\)"),
    "sums that overflowed": (lambda sums: np.append(sums[:-1] + np.inf, 2.0), r"got inf.* use float64"),
    "sums of another kind": (lambda sums: np.append(sums[:-1] * 1.03, 2.0), r"got \d+\.\d+.* use float64"),
    "sums beyond what is counted": (lambda sums: np.append(sums[:-1] * 2.0**60, 2.0), "up to 2\\*\\*53"),
}


@pytest.mark.parametrize(("all_reduce", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_reduction_that_does_not_sum_raises_at_its_first_use(all_reduce: Any, message: str) -> None:
    loader = make(all_reduce)
    batches = iter(loader)
    for rows in itertools.islice(batches, len(loader)):
        loader.record(1.0 + CLASSES[rows])
    before = loader.state_dict()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"all_reduce must .*{message}"):
            next(batches)
        assert loader.state_dict() == before


def test_torch_distributed_all_reduce_is_refused_with_an_example() -> None:
    for function in (torch.distributed.all_reduce, functools.partial(torch.distributed.all_reduce, async_op=True)):
        with pytest.raises(TypeError, match="takes a tensor") as raised:
            make(function)
        assert "torch.distributed.all_reduce(torch.from_numpy(sums))" in str(raised.value)


def test_the_example_in_the_error_works(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)

    def all_reduce(sums: Any) -> Any:
        torch.distributed.all_reduce(torch.from_numpy(sums))
        sums *= 2  # one process plays two ranks with the same losses
        return sums

    try:
        loader = make(all_reduce)
        one_epoch(loader)
        assert loader.history[0]["counts"].tolist() == [24] * 4
    finally:
        torch.distributed.destroy_process_group()


# ---- dataset order


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_rows", [1, 8, 9, 16, 17, 23, 100])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_in_dataset_order_every_row_is_delivered_exactly_once(num_rows: int, batch_size: int, world_size: int) -> None:
    ranks = [
        Loader(np.arange(num_rows), batch_size=batch_size, shuffle=False, rank=r, world_size=world_size, format="numpy")
        for r in range(world_size)
    ]
    for epoch in range(3):
        batches = [[batch.tolist() for batch in loader] for loader in ranks]
        assert [len(of_rank) for of_rank in batches] == [len(loader) for loader in ranks]
        for rank, of_rank in enumerate(batches):
            assert [row for batch in of_rank for row in batch] == list(range(rank, num_rows, world_size))
        assert {loader.epoch for loader in ranks} == {epoch + 1}
        assert len({loader.state_dict()["total_step"] for loader in ranks}) == 1


@pytest.mark.parametrize("update_every", [1, 2, 3])
def test_a_rank_without_rows_in_the_last_batch_closes_its_windows_like_the_others(update_every: int) -> None:
    ranks = [
        Loader(
            np.arange(9), batch_size=2, shuffle=False, rank=r, world_size=2, format="numpy", update_every=update_every
        )
        for r in range(2)
    ]
    for _ in range(3):
        for loader in ranks:
            for batch in loader:
                loader.record(np.ones(len(batch)))
    states = [loader.state_dict() for loader in ranks]
    assert states[0]["windows"] == states[1]["windows"]
    assert states[0]["total_step"] == states[1]["total_step"]


def test_states_after_the_last_batch_are_of_the_same_step_on_all_ranks() -> None:
    def make(rank: int, world_size: int, batch_size: int) -> Loader:
        return Loader(
            np.arange(9), batch_size=batch_size, shuffle=False, rank=rank, world_size=world_size, format="numpy"
        )

    ranks = [make(rank, 2, 4) for rank in range(2)]
    batches = [iter(loader) for loader in ranks]
    for loader, iterator in zip(ranks, batches, strict=True):
        for _ in range(len(loader)):
            next(iterator)
    states = [loader.state_dict() for loader in ranks]
    assert [loader.batch_rows.tolist() for loader in ranks] == [[8], [1, 3, 5, 7]]
    for state, iterator in zip(states, batches, strict=True):
        resumed = make(state["rank"], 2, 4)
        resumed.load_state_dict(state)
        assert [batch.tolist() for batch in resumed] == [
            list(range(9))[state["rank"] :: 2][i : i + 4] for i in range(0, len(range(state["rank"], 9, 2)), 4)
        ]
        assert resumed.epoch == 2
        assert list(iterator) == []
    alone = make(0, 1, 8)
    alone.load_state_dict(states)
    assert [batch.tolist() for batch in alone] == [list(range(8)), [8]]


def test_in_training_a_remainder_smaller_than_the_number_of_ranks_is_dropped() -> None:
    ranks = [Loader(np.arange(17), batch_size=4, rank=r, world_size=4, format="numpy", seed=0) for r in range(4)]
    rows = [row for loader in ranks for batch in loader for row in batch.tolist()]
    assert len(rows) == len(set(rows)) == 16


def test_a_state_in_dataset_order_resumes_in_the_middle_on_other_ranks() -> None:
    ranks = [Loader(np.arange(17), batch_size=4, shuffle=False, rank=r, world_size=2, format="numpy") for r in range(2)]
    for loader in ranks:
        next(iter(loader))
    states = [loader.state_dict() for loader in ranks]
    resumed = [
        Loader(np.arange(17), batch_size=2, shuffle=False, rank=r, world_size=4, format="numpy") for r in range(4)
    ]
    for loader in resumed:
        loader.load_state_dict(states)
    rows = [row for loader in resumed for batch in loader for row in batch.tolist()]
    assert sorted(rows) == list(range(8, 17))


# ---- seeds of several ranks


def test_several_ranks_need_a_seed_if_anything_is_random() -> None:
    with pytest.raises(ValueError, match="the same on all 2 ranks"):
        Loader(np.arange(8), batch_size=2, rank=0, world_size=2, format="numpy")
    with pytest.raises(ValueError, match="the same on all 2 ranks"):
        Loader(
            np.arange(8),
            batch_size=2,
            classes=np.arange(8) % 2,
            mixing=Balanced(),
            rank=0,
            world_size=2,
            format="numpy",
        )
    Loader(np.arange(8), batch_size=2, shuffle=False, rank=0, world_size=2, format="numpy")
