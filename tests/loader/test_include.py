"""Extra entries of a batch: row ids, classes and the step."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from l2m_fast import Loader, Normalized

N = 23
X = np.arange(N * 2, dtype=np.float32).reshape(N, 2)
Y = np.arange(N, dtype=np.uint8)
CLASSES = np.repeat([0, 2, 3], [12, 7, 4])
SUBSETS = [subset for n in range(1, 4) for subset in itertools.permutations(("rows", "classes", "step"), n)]


def make(data: Any = X, **options: Any) -> Loader:
    usual: dict[str, Any] = {"batch_size": 5, "classes": CLASSES, "format": "numpy", "num_threads": 0, "seed": 0}
    return Loader(data, **usual | options)


def expected(loader: Loader, include: Any) -> list[Any]:
    """Return the extra entries expected in the last batch."""
    of = {"rows": loader.batch_rows, "classes": loader.batch_classes, "step": loader.total_step - 1}
    return [of[name] for name in include]


def assert_same(got: Any, wanted: Any) -> None:
    """Raise unless two batches have the same structure, types, dtypes and values."""
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert list(got) == list(wanted)
        got, wanted = list(got.values()), list(wanted.values())
    if isinstance(wanted, (tuple, list)):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, (np.ndarray, torch.Tensor)):
        assert (got.dtype, tuple(got.shape), got.tolist()) == (wanted.dtype, tuple(wanted.shape), wanted.tolist())
    else:
        assert got == wanted


# ---- where it goes


@pytest.mark.parametrize("include", SUBSETS, ids="-".join)
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_entries_in_any_order_equal_the_attributes_of_the_loader(
    include: Any, num_threads: int, batch_format: Any
) -> None:
    loader = make(include=include, num_threads=num_threads, format=batch_format)
    for _epoch in range(2):
        for x, *more in loader:
            assert_same(x, torch.from_numpy(X[loader.batch_rows]) if batch_format == "torch" else X[loader.batch_rows])
            assert_same(more, expected(loader, include))
    assert loader.total_step == 8


STRUCTURES: dict[str, tuple[Any, Any]] = {
    "array": (X, lambda rows, more: (X[rows], *more)),
    "tuple": ((X, Y), lambda rows, more: (X[rows], Y[rows], *more)),
    "tuple of one": ((X,), lambda rows, more: (X[rows], *more)),
    "list": ([X, Y], lambda rows, more: [X[rows], Y[rows], *more]),
    "nested tuple": (((X, [Y]), X), lambda rows, more: ((X[rows], [Y[rows]]), X[rows], *more)),
    "nested list": ([{"x": X}, (Y,)], lambda rows, more: [{"x": X[rows]}, (Y[rows],), *more]),
    "dict": ({"y": Y, "x": X}, lambda rows, more: {"y": Y[rows], "x": X[rows], "rows": more[0], "step": more[1]}),
    "nested dict": (
        {1: {"rows": Y}, "x": [X]},
        lambda rows, more: {1: {"rows": Y[rows]}, "x": [X[rows]], "rows": more[0], "step": more[1]},
    ),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_entries_are_appended_to_a_tuple_or_list_and_become_keys_of_a_dict(structure: str) -> None:
    data, build = STRUCTURES[structure]
    include: Any = ("rows", "step")
    loader = make(data, include=include)
    for batch in loader:
        assert_same(batch, build(loader.batch_rows, expected(loader, include)))


class Pair(NamedTuple):
    x: Any
    y: Any


def test_a_namedtuple_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"data must be an array, tuple, list or dict if include is given \(got the namedtuple Pair\)"
    ):
        make(Pair(X, Y), include=("rows",))
    assert isinstance(next(iter(make(Pair(X, Y)))), Pair)


def test_a_key_of_the_data_is_not_replaced() -> None:
    data = {"x": X, "classes": Y}
    with pytest.raises(ValueError, match=r"include must not contain keys of data \(got 'classes'\)"):
        make(data, include=("rows", "classes"))
    assert list(next(iter(make(data, include=("rows",))))) == ["x", "classes", "rows"]


def test_a_list_is_accepted_and_nothing_is_included_by_default() -> None:
    include: Any = ["step"]
    assert next(iter(make(include=include)))[1] == 0
    assert isinstance(next(iter(make())), np.ndarray)
    assert isinstance(next(iter(make(include=()))), np.ndarray)


@pytest.mark.parametrize(
    ("include", "error"),
    [
        ("rows", TypeError),
        (None, TypeError),
        (True, TypeError),
        ({"rows"}, TypeError),
        (("row",), ValueError),
        (("rows", "rows"), ValueError),
        ((None,), ValueError),
        ((["rows"],), ValueError),
        ([{}], ValueError),
        ([np.arange(2)], ValueError),
    ],
)
def test_bad_entries_are_refused(include: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=r"include must be a tuple of any of \('rows', 'classes', 'step'\), each once \(got "
    ) as raised:
        make(include=include)
    assert raised.type is error


# ---- what it is


def test_arrays_are_int64_and_the_step_is_an_int_in_both_formats() -> None:
    for batch_format, kind, dtype in (("numpy", np.ndarray, np.int64), ("torch", torch.Tensor, torch.int64)):
        _, rows, classes, step = next(iter(make(include=("rows", "classes", "step"), format=batch_format)))
        assert type(rows) is type(classes) is kind
        assert rows.dtype == classes.dtype == dtype
        assert tuple(rows.shape) == tuple(classes.shape) == (5,)
        assert type(step) is int


def test_without_classes_all_are_of_class_0_and_the_last_batch_may_be_short() -> None:
    include: Any = ("rows", "classes")
    batches = list(make(classes=None, shuffle=False, include=include))
    assert [len(rows) for _, rows, _ in batches] == [5, 5, 5, 5, 3]
    assert np.concatenate([rows for _, rows, _ in batches]).tolist() == list(range(N))
    assert [classes.tolist() for _, _, classes in batches] == [[0] * len(rows) for _, rows, _ in batches]


@pytest.mark.parametrize("include", [("rows",), ("classes",), ("step",), ("rows", "classes", "step")])
def test_the_other_entries_stay_the_same(include: Any) -> None:
    plain = [batch.tolist() for batch in make(order="grouped")]
    assert [batch[0].tolist() for batch in make(order="grouped", include=include)] == plain


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_attributes_of_the_loader_do_not_depend_on_include(batch_format: Any, num_threads: int) -> None:
    include: Any = ("rows", "classes")
    changed, twin = (make(include=include, format=batch_format, num_threads=num_threads) for _ in range(2))
    kept = []
    for batch, same in zip(changed, twin, strict=True):
        assert_same(batch, same)
        kept.append((same, [array.tolist() for array in same]))
        for array in batch:
            array[:] = 0
        changed.batch_rows[:] = -1
        assert changed.batch_rows.tolist() == twin.batch_rows.tolist()
        for loader in (changed, twin):
            loader.record(np.ones(5))
    assert changed.state_dict() == twin.state_dict()
    for batch, values in kept:
        assert [array.tolist() for array in batch] == values


def test_the_step_counts_since_the_beginning_of_training_across_epochs_and_states() -> None:
    include: Any = ("step",)
    loader = make(include=include)
    assert [step for _ in range(2) for _, step in loader] == list(range(8))
    next(iter(loader))
    resumed = make(include=include)
    resumed.load_state_dict(loader.state_dict())
    assert [step for _, step in resumed] == [9, 10, 11]
    resumed.set_epoch(50)
    assert next(iter(resumed))[1] == 12


def test_states_do_not_depend_on_include() -> None:
    loader = make(include=("step", "rows"))
    batches = iter(loader)
    next(batches)
    other = make()
    other.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in other] == [batch.tolist() for batch, _, _ in batches]


def test_ranks_include_their_own_rows() -> None:
    include: Any = ("rows", "classes", "step")
    ranks = [make(batch_size=3, rank=rank, world_size=2, include=include) for rank in range(2)]
    whole = make(batch_size=6, include=include)
    for (_, rows, classes, step), *parts in zip(whole, *ranks, strict=True):
        assert sorted(np.concatenate([part[1] for part in parts]).tolist()) == sorted(rows.tolist())
        assert sorted(np.concatenate([part[2] for part in parts]).tolist()) == sorted(classes.tolist())
        assert [part[3] for part in parts] == [step, step]
        for part in parts:
            assert part[0].tolist() == X[part[1]].tolist()
            assert part[2].tolist() == CLASSES[part[1]].tolist()


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_it_works_with_normalized_arrays_and_string_classes(batch_format: Any) -> None:
    images = np.arange(N * 4, dtype=np.uint8).reshape(N, 1, 2, 2)
    names = np.array(["cat", "bird", "dog"])[CLASSES.clip(1) - 1]
    include: Any = ("classes", "rows")
    loader = make(Normalized(images, [2.0], [4.0]), classes=names, include=include, format=batch_format)
    assert loader.class_labels == ["bird", "cat", "dog"]
    for image, classes, rows in loader:
        np.testing.assert_allclose(np.asarray(image), (images[np.asarray(rows)] - 2.0) / 4.0, rtol=1e-6)
        assert [loader.class_labels[k] for k in classes] == names[np.asarray(rows)].tolist()


def test_a_batch_whose_extra_entries_fail_is_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from_numpy, fails = torch.from_numpy, [False]

    def failing(array: Any) -> Any:
        if fails[0]:
            raise MemoryError
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", failing)
    loader, twin = (make(torch.from_numpy(X), include=("rows", "step"), format="torch") for _ in range(2))
    expected_batches = list(twin)
    batches = iter(loader)
    for step, wanted in enumerate(expected_batches):
        fails[0] = True
        for _ in range(2):
            with pytest.raises(MemoryError):
                next(batches)
            assert loader.total_step == step
        fails[0] = False
        assert_same(next(batches), wanted)
    assert next(batches, None) is None
