"""Arguments that a user may pass by mistake give an error or a warning that names the right call."""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import l2m_fast
from faults.programs import run
from l2m_fast import Balanced, BatchSampler, Learn2Mix, Loader, Normalized, Sampler, Static

N = 24
X = np.arange(N)
CLASSES = X % 3


def make(data: Any = X, **options: Any) -> Loader:
    return Loader(data, **{"batch_size": 6, "format": "numpy", "seed": 0, **options})


# ---- arguments of DataLoader


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("num_workers", 4, "num_threads"),
        ("generator", torch.Generator(), "seed"),
        ("collate_fn", list, "transform each batch in the loop"),
        ("sampler", [1, 2], "rows, .* mixing"),
        ("batch_sampler", [[1, 2]], "rows, classes and mixing"),
        ("prefetch_factor", 2, "prefetch"),
        ("persistent_workers", True, "threads are always kept"),
        ("worker_init_fn", print, "no worker processes"),
        ("timeout", 3, "can be interrupted"),
        ("pin_memory_device", "cuda", "device"),
        ("multiprocessing_context", "spawn", "no worker processes"),
        ("in_order", True, "always delivered in order"),
    ],
)
def test_an_argument_of_dataloader_is_refused_with_its_replacement(name: str, value: Any, instead: str) -> None:
    with pytest.raises(TypeError, match=f"Loader has no argument '{name}': .*{instead}"):
        make(**{name: value})


@pytest.mark.parametrize("kind", [BatchSampler, Sampler])
@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("num_workers", ": pass it to the DataLoader"),
        ("collate_fn", ": pass it to the DataLoader"),
        ("drop_last", ": all batches are full"),
        ("sampler", ": use rows"),
        ("batchsize", "$"),
    ],
)
def test_an_argument_that_a_sampler_does_not_have_is_refused(kind: Any, name: str, instead: str) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} has no argument '{name}'{instead}"):
        kind(CLASSES, 6, **{name: 1})


def test_another_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Loader has no argument 'batchsize'$"):
        make(batchsize=3)


def test_attributes_that_a_loader_does_not_have_are_refused() -> None:
    loader = make(drop_last=True)
    for name, value in (("batch_size", 5), ("drop_last", False), ("dataset", X), ("epoch", 3), ("shuffel", True)):
        with pytest.raises(AttributeError):
            setattr(loader, name, value)
    assert (loader.batch_size, loader.drop_last, len(loader.dataset)) == (6, True, N)
    assert len(next(iter(loader))) == 6


def test_the_repr_describes_the_loader() -> None:
    loader = make(classes=CLASSES, mixing=Learn2Mix(0.5), rank=0, world_size=2, all_reduce=lambda sums: sums * 2)
    next(iter(loader))
    assert repr(loader) == (
        "<Loader of 24 rows, batch_size=6, 3 classes, mixing=Learn2Mix(mixing_rate=0.5, min_share=0.0, "
        "start='proportional'), rank 0 of 2, seed=0, at epoch 0, step 1>"
    )
    assert repr(Loader(X, batch_size=5)) == "<Loader of 24 rows, batch_size=5, seed=None, at epoch 0, step 0>"


# ---- data


class Images(Dataset[int]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> int:
        return i


class Sparse:
    """A sparse matrix, as of scipy."""

    shape, dtype = (5, 2), np.dtype(np.float32)

    def toarray(self) -> Any:
        return np.zeros(self.shape, self.dtype)


class FileArray:
    """An array in a file, as of h5py."""

    shape, dtype = (5,), np.dtype(np.float32)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> float:
        return float(i)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TensorDataset(torch.zeros(4)), r"got TensorDataset\): pass its \.tensors"),
        (Images(), r"got Images\): pass the arrays that it contains"),
        (DataLoader(TensorDataset(torch.zeros(4))), r"got DataLoader\): pass the arrays of its dataset"),
        (deque([1, 2]), r"got deque\): pass the arrays"),
        (Sparse(), r"got Sparse\): pass x\.toarray\(\)"),
        (FileArray(), r"got FileArray\): pass np\.asarray\(x\)"),
        ([(torch.zeros(3), 1)] * 5, r"data\[0\]\[1\] must be .* \(got int\): stack the samples of a list"),
        ([(np.zeros(3), np.int64(1))] * 5, r"\(got int64\): stack the samples of a list"),
        ([torch.zeros(4, 3).to_sparse()] * 9, r"data\[0\] must be a plain dense tensor .*sparse_coo"),
        (torch.zeros(4, dtype=torch.cfloat).conj(), r"got a lazy view, is_conj\(\)\): pass x\.resolve_conj\(\)"),
        (torch.zeros(4, dtype=torch.cfloat).conj().imag, r"is_neg\(\)\): pass x\.resolve_neg\(\)"),
    ],
)
def test_an_object_that_contains_arrays_is_refused_with_a_hint(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(data)


def test_a_data_frame_is_refused_with_a_hint() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X, "b": X * 2.0})
    with pytest.raises(TypeError, match=r"got DataFrame\): pass np\.ascontiguousarray\(x\.to_numpy\(\)\)"):
        make(frame)
    assert len(list(make(np.ascontiguousarray(frame.to_numpy())))) == 4


@pytest.mark.parametrize(
    ("data", "copy"),
    [
        (np.asfortranarray(np.zeros((N, 3))), r"np\.ascontiguousarray\(x\)"),
        (torch.zeros(3, N).T, r"x\.contiguous\(\)"),
        (torch.zeros(N, 3, 4, 5).to(memory_format=torch.channels_last), r"x\.contiguous\(\)"),
        (torch.tensor(np.asfortranarray(np.zeros((N, 3)))).T.contiguous().T, r"x\.contiguous\(\)"),
    ],
)
def test_rows_that_are_not_contiguous_are_refused_with_the_call_to_use(data: Any, copy: str) -> None:
    with pytest.raises(ValueError, match=rf"each row of data must be contiguous .*: pass a copy, {copy}"):
        make(data)


def test_samples_of_a_list_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"data\[0\]\[1\] must have at least one row .*: stack the samples of a list"):
        make(list(zip(torch.zeros(5, 3), torch.zeros(5), strict=True)))


@pytest.mark.parametrize(("num_arrays", "num_rows"), [(64, 64), (9, 9), (8, 3), (8, 1), (2, 1)])
def test_fields_of_one_shape_are_accepted_unless_they_look_like_samples(num_arrays: int, num_rows: int) -> None:
    assert len(next(iter(make([np.zeros(num_rows)] * num_arrays, batch_size=1)))) == num_arrays
    with pytest.raises(ValueError, match="if each array is a row"):
        make([np.zeros(num_rows)] * (max(num_rows, 8) + 1))


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(("array", "stack"), [(np.zeros(3), "np.stack"), (torch.zeros(3), "torch.stack")])
def test_rows_that_were_not_stacked_are_refused(kind: Any, array: Any, stack: str) -> None:
    rows = kind([array] * 5000)
    for data in (rows, (rows, X), {"x": rows}):
        with pytest.raises(ValueError, match=rf"if each array is a row, use {stack}\(\.\.\.\)") as raised:
            make(data)
        assert len(str(raised.value)) < 400


# ---- values in messages


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


LONG = ["x" * 1000] * 5000


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ((LONG, X), {}),
        (LONG, {}),
        ({("k" * 100_000): 1}, {}),
        (X, {"classes": LONG}),
        (X, {"rows": LONG}),
        (X, {"batch_size": LONG}),
        (X, {"batch_size": 10**5000}),
        (X, {"seed": -(10**5000)}),
        (X, {"order": "o" * 100_000}),
        (X, {"format": LONG}),
        (X, {"shuffle": LONG}),
        (X, {"mixing": LONG}),
        (X, {"mixing": Rude()}),
        (X, {"batch_size": Rude()}),
        (X, {"all_reduce": LONG}),
        (X, {"device": "d" * 100_000, "format": "torch"}),
        (X, {"device": LONG, "format": "torch"}),
        (X, {"classes": CLASSES, "mixing": Static(np.full(100_000, 0.5))}),
        ([np.zeros(n + 1) for n in range(3000)], {}),
        (np.zeros((3,) * 12)[..., ::2], {}),
        (np.zeros(3, [("f" * 5000, object)]), {}),
    ],
    ids=range(21),
)
def test_messages_do_not_grow_with_the_given_value(data: Any, options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, IndexError)) as raised:
        make(data, **options)
    assert len(str(raised.value)) < 1000


def test_values_of_states_are_shortened() -> None:
    loader = make(classes=CLASSES, mixing=Balanced())
    state = loader.state_dict()
    for name in state:
        for value in (LONG, "v" * 100_000, {"a": LONG}):
            try:
                loader.load_state_dict({**state, name: value})
            except (TypeError, ValueError) as error:
                assert len(str(error)) < 1500, name  # noqa: PT017
            else:
                pytest.fail(f"{name} was accepted")
    assert loader.state_dict() == state


# ---- numbers


@pytest.mark.parametrize(
    "value", [torch.tensor(True), torch.tensor([10]), torch.tensor(10), np.array(10), np.array([10]), True, 10.0, "10"]
)
def test_ints_are_ints(value: Any) -> None:
    for name in ("batch_size", "seed", "steps_per_epoch", "update_every", "num_threads", "prefetch", "world_size"):
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            make(**{name: value, **({"rank": 0} if name == "world_size" else {})})
    with pytest.raises(TypeError, match="epoch must be an int"):
        make().set_epoch(value)


def test_numpy_ints_are_ints() -> None:
    assert make(batch_size=np.int8(6), seed=np.uint64(2**64 - 1), num_threads=np.int64(1)).batch_size == 6


# ---- epochs that are other than expected


def test_rows_are_delivered_in_the_given_order() -> None:
    order = np.random.default_rng(0).permutation(N)[:19]
    for rows in (order, order.tolist(), torch.from_numpy(order)):
        loader = make(rows=rows, shuffle=False)
        for _ in range(2):
            assert [row for batch in loader for row in batch.tolist()] == order.tolist()
    mask = np.isin(X, order)
    assert [row for batch in make(rows=mask, shuffle=False) for row in batch.tolist()] == sorted(order)
    state = make(rows=order, shuffle=False).state_dict()
    with pytest.raises(ValueError, match="must be from a loader with the same data"):
        make(rows=order[::-1], shuffle=False).load_state_dict(state)


def test_classes_without_shuffling_warn_with_a_hint() -> None:
    with pytest.warns(
        RuntimeWarning, match="not deliver every row exactly once. For validation data, use classes=None"
    ) as caught:
        make(classes=CLASSES, shuffle=False)
    assert caught[0].filename == __file__


def test_batches_larger_than_the_data_warn_where_rows_repeat() -> None:
    with pytest.warns(RuntimeWarning, match="a batch of 50 rows repeats rows, because there are only 24"):
        make(classes=CLASSES, batch_size=50)
    make(batch_size=50)  # without classes, the batch is short instead


def test_a_loader_in_a_worker_of_a_dataloader_warns_once() -> None:
    program = """
        import torch, warnings
        from torch.utils.data import DataLoader, IterableDataset

        class Wrapped(IterableDataset):
            def __iter__(self):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    for _ in range(2):
                        rows = [int(row) for batch in Loader(torch.arange(8), batch_size=4, seed=0) for row in batch]
                yield len(rows), sum("every worker repeats the whole epoch" in str(one.message) for one in caught)

        warnings.simplefilter("ignore", DeprecationWarning)
        print(list(DataLoader(Wrapped(), num_workers=2, batch_size=None, multiprocessing_context="fork")))
        """
    assert run(program) == "[[8, 1], [8, 1]]\n"


# ---- bytes to be normalized


BYTES = np.zeros((4, 3, 2), np.uint8)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (0, 0.9)])
def test_means_in_the_wrong_unit_warn(mean: Any, std: Any) -> None:
    with pytest.warns(
        RuntimeWarning,
        match=r"must be in units of bytes, 0 to 255 .*: multiply the mean and std of data scaled to 0\.\.1 by 255",
    ):
        Normalized(BYTES, mean, std)


@pytest.mark.parametrize(
    ("mean", "std"), [(0, 1), (0, 255), (127.5, 127.5), ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])]
)
def test_means_in_units_of_bytes_do_not_warn(mean: Any, std: Any) -> None:
    Normalized(BYTES, mean, std)


@pytest.mark.parametrize("value", [True, "1", [True, False, True], None, -1.0, [1, -1, 1], 0, math.inf])
def test_bad_standard_deviations_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="std must be"):
        Normalized(BYTES, 0, value)


def test_bad_means_are_refused() -> None:
    for value in (True, "0", [False] * 3):
        with pytest.raises(ValueError, match="mean must be a finite number"):
            Normalized(BYTES, value, 1)


@pytest.mark.parametrize("dtype", [torch.float16, np.float16, np.dtype("float16"), "float16"])
def test_dtypes_of_both_libraries_are_accepted(dtype: Any) -> None:
    assert Normalized(BYTES, 0, 255, dtype=dtype).dtype == "float16"
    (batch,) = Loader(Normalized(BYTES, 0, 255, dtype=dtype), batch_size=4, shuffle=False)
    assert batch.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.int8, np.float64, "half", 3, None, list])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype must be 'float16'"):
        Normalized(BYTES, 0, 255, dtype=dtype)


# ---- data that changes


def test_values_that_change_between_epochs_are_delivered() -> None:
    x = X.copy()
    loader = make(x, shuffle=False, prefetch=8, num_threads=2)
    assert [row for batch in loader for row in batch.tolist()] == X.tolist()
    x += 100
    assert [row for batch in loader for row in batch.tolist()] == (X + 100).tolist()


def test_the_package_has_a_version() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert l2m_fast.__version__ == l2m_fast.build_info()["version"]
