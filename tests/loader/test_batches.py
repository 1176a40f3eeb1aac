"""Batches are a function of seed, data and proportions; epochs and quotas are exact."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_fast import Balanced, Learn2Mix, Loader, Proportional, Static
from loader.batches import CLASSES, IMAGES, N

ROWS_OF = np.split(np.arange(N), [30, 50, 59])


# ---- a pure function


def run_of(num_threads: int, prefetch: int, **options: Any) -> list[Any]:
    """Return rows, classes and proportions of every batch of four epochs, the third left unfinished."""
    all_options: dict[str, Any] = {"batch_size": 6, "classes": CLASSES, "seed": 0} | options
    loader = Loader(np.arange(N), format="numpy", num_threads=num_threads, prefetch=prefetch, **all_options)
    run: list[Any] = []
    for epoch in range(4):
        for step, rows in enumerate(loader):
            run.append((rows.tolist(), np.asarray(loader.batch_classes).tolist(), loader.proportions.tolist()))
            loader.record(1.0 / (1 + rows) + np.asarray(loader.batch_classes))
            if (epoch, step) == (2, 3):
                break
    loader.close()
    return run


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("num_threads", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"classes": None},
        {"mixing": Learn2Mix(0.5)},
        {"mixing": Learn2Mix(0.5), "update_every": 3, "order": "grouped"},
        {"mixing": Balanced(), "shuffle": False, "batch_size": 17},
    ],
    ids=str,
)
def test_batches_do_not_depend_on_threads_or_prefetch(options: Any, num_threads: int, prefetch: int) -> None:
    assert run_of(num_threads, prefetch, **options) == run_of(0, 0, **options)


def test_the_seed_decides_the_batches() -> None:
    assert run_of(1, 2, seed=3) == run_of(1, 2, seed=3)
    assert run_of(1, 2, seed=3) != run_of(1, 2, seed=4)
    assert run_of(1, 2, seed=2**64 - 1) != run_of(1, 2, seed=0)


def test_the_next_seed_is_not_the_next_epoch() -> None:
    first, second = (Loader(np.arange(N), batch_size=N, seed=seed, format="numpy") for seed in (0, 1))
    of_first = [batch.tolist() for _ in range(3) for batch in first]
    of_second = [batch.tolist() for _ in range(3) for batch in second]
    assert not any(batch in of_first for batch in of_second)


# ---- epochs


@pytest.mark.filterwarnings("ignore:a batch of .* repeats rows")
@settings(max_examples=150, deadline=None)
@given(
    num_rows=st.integers(1, 50),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
    with_classes=st.booleans(),
    steps=st.none() | st.integers(1, 12),
)
def test_the_length_is_the_number_of_batches_on_every_rank(
    num_rows: int, batch_size: int, world_size: int, drop_last: bool, with_classes: bool, steps: int | None
) -> None:
    total = batch_size * world_size
    expected = steps
    if steps is None:
        expected = max(num_rows // total, 1)
        if not with_classes:
            short = num_rows % total
            expected = num_rows // total + (not drop_last and short >= world_size)

    def make(rank: int) -> Loader:
        return Loader(
            np.arange(num_rows),
            batch_size=batch_size,
            classes=np.zeros(num_rows, int) if with_classes else None,
            drop_last=drop_last,
            steps_per_epoch=steps,
            rank=rank,
            world_size=world_size,
            format="numpy",
            num_threads=0,
            seed=0,
        )

    if expected == 0:
        with pytest.raises(ValueError, match="at most the number of rows"):
            make(0)
        return
    ranks = [make(rank) for rank in range(world_size)]
    for _ in range(2):
        epochs = [list(loader) for loader in ranks]
        assert [len(epoch) for epoch in epochs] == [expected] * world_size == [len(loader) for loader in ranks]
        if with_classes or steps is not None:
            assert {len(batch) for epoch in epochs for batch in epoch} == {batch_size}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 60, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_without_classes_an_epoch_has_every_row_once(shuffle: bool, batch_size: int, world_size: int) -> None:
    ranks = [
        Loader(IMAGES, batch_size=batch_size, shuffle=shuffle, rank=rank, world_size=world_size, num_threads=1, seed=0)
        for rank in range(world_size)
    ]
    orders = []
    for _ in range(3):
        of_ranks = [list(loader) for loader in ranks]
        assert [len(batches) for batches in of_ranks] == [len(loader) for loader in ranks]
        steps = itertools.zip_longest(*of_ranks, fillvalue=IMAGES[:0])
        rows = [row for batches in steps for batch in batches for row in batch[:, 0] // 300]
        assert sorted(rows) == list(range(N))
        orders.append(rows)
    if world_size == 1:
        assert (orders[0] == list(range(N))) is not shuffle
        assert (orders[0] == orders[1]) is not shuffle


def test_drop_last_drops_the_short_batch() -> None:
    loader = Loader(np.arange(10), batch_size=4, drop_last=True, format="numpy", seed=0)
    assert len(loader) == 2
    missing = set()
    for _ in range(20):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [4, 4]
        rows = np.concatenate(batches).tolist()
        assert len(set(rows)) == 8
        missing |= set(range(10)) - set(rows)
    assert len(missing) > 2


def test_drop_last_has_no_effect_with_classes() -> None:
    for drop_last in (False, True):
        with pytest.warns(RuntimeWarning, match="a batch of 100 rows repeats rows, because there are only 60"):
            loader = Loader(np.arange(N), batch_size=100, classes=CLASSES, drop_last=drop_last, format="numpy", seed=0)
        assert [len(batch) for batch in loader] == [100]


def test_steps_per_epoch_continues_through_the_data() -> None:
    loader = Loader(np.arange(12), batch_size=4, steps_per_epoch=2, format="numpy", seed=0)
    rows = [row for _ in range(6) for batch in loader for row in batch.tolist()]
    assert all(sorted(rows[start : start + 12]) == list(range(12)) for start in range(0, 48, 12))


def test_without_shuffling_rows_ascend_from_row_0_in_each_epoch() -> None:
    loader = Loader(np.arange(10), batch_size=4, shuffle=False, format="numpy", seed=0)
    for _ in range(3):
        assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.filterwarnings("ignore:shuffle=False with classes=")
def test_without_shuffling_rows_ascend_within_a_class() -> None:
    loader = Loader(
        np.arange(N), batch_size=6, classes=CLASSES, mixing=Balanced(), shuffle=False, format="numpy", seed=0
    )
    seen: dict[int, list[int]] = {k: [] for k in range(4)}
    for _ in range(4):
        for batch in loader:
            classes = CLASSES[batch]
            assert (np.diff(classes) >= 0).all()
            for row in batch.tolist():
                seen[int(CLASSES[row])].append(row)
    for k, rows in seen.items():
        assert rows == np.resize(ROWS_OF[k], len(rows)).tolist()


def test_grouped_batches_are_ordered_by_class_and_have_the_same_rows() -> None:
    grouped, shuffled = (
        Loader(np.arange(N), batch_size=20, classes=CLASSES, order=order, format="numpy", seed=0)
        for order in ("grouped", "shuffled")
    )
    in_order = []
    for one, other in zip(grouped, shuffled, strict=True):
        assert sorted(one.tolist()) == sorted(other.tolist())
        assert (np.diff(CLASSES[one]) >= 0).all()
        in_order.append((np.diff(CLASSES[other]) >= 0).all())
    assert not all(in_order)


@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
def test_batch_rows_and_batch_classes_are_those_of_the_last_batch(batch_format: Any) -> None:
    loader = Loader(IMAGES, batch_size=6, classes=CLASSES, prefetch=8, format=batch_format, seed=0)
    for batch in loader:
        rows, classes = loader.batch_rows, loader.batch_classes
        assert type(rows) is type(classes) is type(batch)
        assert str(rows.dtype).endswith("int64")
        assert str(classes.dtype).endswith("int64")
        np.testing.assert_array_equal(np.asarray(batch)[:, 0] // 300, np.asarray(rows))
        np.testing.assert_array_equal(np.asarray(classes), CLASSES[np.asarray(rows)])
    np.testing.assert_array_equal(np.asarray(loader.batch_rows), np.asarray(rows))


@settings(max_examples=100, deadline=None)
@given(
    shares=st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
)
def test_quotas_are_exact_and_do_not_drift(shares: list[int], batch_size: int, seed: int) -> None:
    p = np.array(shares) / sum(shares)
    classes = np.arange(len(p) * 50) % len(p)
    loader = Loader(
        np.arange(len(classes)),
        batch_size=batch_size,
        classes=classes,
        mixing=Static(p),
        seed=seed,
        steps_per_epoch=40,
        format="numpy",
        num_threads=0,
    )
    total = np.zeros(len(p))
    for batch in itertools.chain(loader, loader):
        assert len(batch) == batch_size
        quota = np.bincount(classes[batch], minlength=len(p))
        assert (quota >= np.floor(p * batch_size - 1e-9)).all()
        assert (quota <= np.ceil(p * batch_size + 1e-9)).all()
        total += quota
    assert np.abs(total - 80 * batch_size * p).max() < 4


def test_no_row_repeats_before_all_rows_of_its_class_were_drawn() -> None:
    loader = Loader(np.arange(N), batch_size=6, classes=CLASSES, format="numpy", seed=5)
    rows = [row for _ in range(12) for batch in loader for row in batch.tolist()]
    for k, of_class in enumerate(ROWS_OF):
        drawn = [row for row in rows if CLASSES[row] == k]
        assert sorted(drawn[: len(of_class)]) == of_class.tolist()
        counts = np.bincount(drawn, minlength=N)[of_class]
        assert counts.max() - counts.min() <= 1 + (len(drawn) % len(of_class) > 0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_slice_one_global_plan(world_size: int) -> None:
    mixing = Static([0.5, 0.25, 0.2, 0.05])
    options: dict[str, Any] = {"classes": CLASSES, "mixing": mixing, "format": "numpy", "seed": 0}
    whole = Loader(np.arange(N), batch_size=12, **options)
    ranks = [
        Loader(np.arange(N), batch_size=12 // world_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for _ in range(2):
        for expected, *parts in zip(whole, *ranks, strict=True):
            assert [len(part) for part in parts] == [12 // world_size] * world_size
            assert sorted(np.concatenate(parts).tolist()) == sorted(expected.tolist())


def test_two_loaders_over_the_same_data_do_not_disturb_each_other() -> None:
    one, other = (Loader(IMAGES, batch_size=6, classes=CLASSES, num_threads=2, seed=0) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_a_million_classes_still_give_exact_batches() -> None:
    num_classes = 1_000_000
    data = np.arange(num_classes, dtype=np.int32)
    loader = Loader(data, batch_size=1024, classes=data, mixing=Proportional(), format="numpy", seed=0)
    assert all(len(set(batch.tolist())) == 1024 for batch in itertools.islice(loader, 20))


def test_a_memory_map_larger_than_memory_is_delivered(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    row_bytes = 1 << 20
    num_rows = 2 * memory // row_bytes
    path = tmp_path / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(num_rows * row_bytes)  # a sparse file needs no space
    data = np.memmap(path, np.uint8, "r+", shape=(num_rows, row_bytes))
    last = np.array([num_rows - 1, num_rows // 2, 5])
    data[last, -1] = [1, 2, 3]
    loader = Loader(data, batch_size=2, prefetch=1, num_threads=2, seed=0)
    rows: list[int] = []
    for batch in itertools.islice(loader, 4):
        np.testing.assert_array_equal(batch[:, -1], data[loader.batch_rows, -1])
        rows += loader.batch_rows.tolist()
    assert max(rows) > num_rows // 4
    chosen = Loader(data, batch_size=3, rows=last, shuffle=False, num_threads=2)
    (batch,) = chosen
    assert batch[:, -1].tolist() == [1, 2, 3]
    assert batch.count_nonzero() == 3
