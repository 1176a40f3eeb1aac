"""Loaders that replace a DataLoader of torch."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.utils.data as torch_data
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from l2m_fast import Balanced, Loader

StackDataset: Any = torch_data.StackDataset  # also of tensors, which its annotation does not say
X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20)
DATA = TensorDataset(X, Y)


def batches(data: Any) -> list[list[Any]]:
    return [[field.tolist() for field in batch] for batch in data]


@pytest.mark.parametrize(
    "dataset",
    [DATA, StackDataset(X, Y), Subset(DATA, [3, 1, 4, 15, 9]), Subset(Subset(DATA, range(5, 15)), [2, 0, 7])],
    ids=["tensors", "stack", "subset", "subset of a subset"],
)
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_in_order_are_those_of_the_dataloader(dataset: Any, drop_last: bool) -> None:
    data = DataLoader(dataset, batch_size=3, drop_last=drop_last)
    loader = Loader.from_dataloader(data)
    assert batches(loader) == batches(data)
    assert len(loader) == len(data)


def test_a_dict_and_a_bare_tensor() -> None:
    data = DataLoader(StackDataset(x=X, y=Y), batch_size=6)
    loader = Loader.from_dataloader(data)
    assert [batch["y"].tolist() for batch in loader] == [batch["y"].tolist() for batch in data]
    bare = Loader.from_dataloader(DataLoader(Y, batch_size=6))  # type: ignore[arg-type]
    assert [batch.tolist() for batch in bare] == [batch.tolist() for batch in DataLoader(Y, batch_size=6)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (DataLoader(DATA, batch_size=4, shuffle=True, num_workers=2), range(20)),
        (DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler([1, 5, 7, 8])), [1, 5, 7, 8]),
        (DataLoader(Subset(DATA, [2, 3, 5, 7]), batch_size=4, shuffle=True), [2, 3, 5, 7]),
        (DataLoader(Subset(DATA, [2, 3, 5, 7]), batch_size=4, sampler=SubsetRandomSampler([3, 1])), [3, 7]),
    ],
    ids=["shuffle", "SubsetRandomSampler", "Subset", "SubsetRandomSampler of a Subset"],
)
def test_a_shuffled_epoch_has_the_same_rows(data: DataLoader[Any], rows: Any) -> None:
    loader = Loader.from_dataloader(data)
    first, second = (torch.cat([y for _, y in loader]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(rows)
    assert first != second or len(first) < 5


def test_options_add_to_and_replace_those_of_the_dataloader() -> None:
    loader = Loader.from_dataloader(
        DataLoader(DATA, 4, shuffle=True), classes=Y % 2, mixing=Balanced(), batch_size=10, seed=1
    )
    for x, y in loader:
        assert (y % 2).sum() == 5
        assert torch.equal(x, X[y])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


class Doubled(DataLoader[Any]):
    def __iter__(self) -> Any:
        return ([2 * field for field in batch] for batch in super().__iter__())


class Transformed(TensorDataset):
    pass


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DataLoader(DATA, collate_fn=list), "it has a collate_fn"),
        (DataLoader(DATA, generator=torch.Generator()), "it has a generator"),
        (DataLoader(DATA, worker_init_fn=print), "it has a worker_init_fn"),
        (DataLoader(Transformed(X)), "its dataset is a Transformed"),
        (DataLoader([1, 2, 3]), "its dataset is a list"),  # type: ignore[arg-type]
        (DataLoader(Stream()), "its dataset is a Stream"),
        (DataLoader(StackDataset(X, [*range(20)])), "its dataset is a StackDataset"),
        (
            DataLoader(DATA, batch_size=None, collate_fn=torch.utils.data.default_collate),
            "it has a batch_sampler, or batch_s",
        ),
        (DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 20, 20)), "it has a WeightedRandomSampler"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), "its sampler draws with replacement"),
        (
            DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=5)),
            "its sampler draws .* or another number of rows",
        ),
        (DataLoader(DATA, sampler=[1, 2]), "it has a list"),
        (DataLoader(DATA, sampler=SequentialSampler(range(5))), "its sampler draws .* or another number of rows"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, generator=torch.Generator())), "its sampler has a generator"),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 7, False)), "it has a batch_sampler"),
        (Doubled(DATA), "it is a Doubled"),
    ],
)
def test_a_dataloader_that_cannot_be_replaced_says_why(data: DataLoader[Any], reason: str) -> None:
    with pytest.raises(
        ValueError, match=rf"dataloader must be plain, over tensors in memory: .*; {reason}.*BatchSampler"
    ):
        Loader.from_dataloader(data)


def test_a_batch_sampler_of_its_own_is_refused() -> None:
    class Own(BatchSampler):
        pass

    with pytest.raises(ValueError, match="it has a batch_sampler"):
        Loader.from_dataloader(DataLoader(DATA, batch_sampler=Own(SequentialSampler(DATA), 2, False)))


def test_another_object_is_refused() -> None:
    with pytest.raises(TypeError, match=r"dataloader must be a DataLoader of torch \(got list\)"):
        Loader.from_dataloader([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(Subset(DATA, [1, 3, 5]), batch_size=2),
        DataLoader(DATA, batch_size=2, sampler=SubsetRandomSampler([1, 3, 5])),
    ],
)
def test_rows_cannot_be_selected_twice(data: DataLoader[Any]) -> None:
    for rows in (range(2), None):
        with pytest.raises(
            ValueError, match=rf"rows must not be given with a DataLoader of a Subset .* \(got {re.escape(str(rows))}"
        ):
            Loader.from_dataloader(data, rows=rows)
