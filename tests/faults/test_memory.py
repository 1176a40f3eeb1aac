"""Memory of the data that is moved or freed while a loader reads it, and tensors without memory."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.masked import masked_tensor
from torch.utils.data import DataLoader, TensorDataset

from faults.programs import run
from l2m_fast import Balanced, BatchSampler, Learn2Mix, Loader, Normalized

N = 400
CLASSES = np.arange(N) % 4


def tensor() -> torch.Tensor:
    return torch.arange(N * 1000.0).reshape(N, 1000)


# ---- memory that moves


def set_other_storage(x: torch.Tensor) -> None:
    x.set_(torch.zeros(N, 1000))  # type: ignore[call-overload]


def assign_data(x: torch.Tensor) -> None:
    x.data = torch.zeros(N, 1000)


def swap(x: torch.Tensor) -> None:
    torch.utils.swap_tensors(x, torch.zeros(N, 1000))


def share(x: torch.Tensor) -> None:
    x.share_memory_()


def send_to_spawned_worker(x: torch.Tensor) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(torch.sum, [x])


MOVES: dict[str, Callable[[torch.Tensor], None]] = {
    "set_()": set_other_storage,
    ".data": assign_data,
    "swap_tensors()": swap,
    "share_memory_()": share,
    "a spawned process": send_to_spawned_worker,
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_memory_that_moves_is_detected_at_the_next_batch(
    move: Callable[[torch.Tensor], None], num_threads: int
) -> None:
    x = tensor()
    expected = list(Loader((x.clone(), CLASSES), batch_size=20, seed=0))
    loader = Loader((x, CLASSES), batch_size=20, seed=0, num_threads=num_threads)
    batches = iter(loader)
    got = [next(batches) for _ in range(3)]
    time.sleep(0.1)  # until the threads have read ahead: memory that goes while they read it ends the process
    move(x)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"the memory of data\[0\] has moved since the loader was made"):
            next(batches)
    assert loader.step == 3
    state = loader.state_dict()
    with pytest.raises(RuntimeError, match=r"data\[0\] has moved"):
        next(iter(loader))

    resumed = Loader((tensor(), CLASSES), batch_size=20)
    resumed.load_state_dict(state)
    got += resumed
    assert all(torch.equal(a[0], b[0]) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
def test_strides_that_change_are_detected_at_the_next_epoch(batch_format: Any) -> None:
    x = torch.arange(64.0).reshape(8, 8)
    loader = Loader(x, batch_size=2, seed=0, format=batch_format)
    list(loader)
    x.t_()
    with pytest.raises(
        RuntimeError, match=r"data must not change after .* strides \(1, 8\) instead of .* strides \(8, 1\)"
    ):
        next(iter(loader))


@pytest.mark.parametrize("swapping", [False, True])
def test_a_parameter_of_a_converted_module_is_detected(swapping: bool) -> None:
    module = torch.nn.Linear(7, N)
    loader = Loader(module.weight, batch_size=20, seed=0)
    batches = iter(loader)
    kept = next(batches)
    torch.__future__.set_swap_module_params_on_conversion(swapping)
    try:
        module.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    with pytest.raises(RuntimeError, match="the memory of data has moved"):
        next(batches)
    assert kept.dtype == torch.float32


def test_tensors_sent_to_a_spawned_worker_of_a_dataloader_are_detected() -> None:
    assert (
        run(
            """
            import torch
            from torch.utils.data import DataLoader, TensorDataset

            if __name__ == "__main__":
                x = torch.arange(2000.0).reshape(200, 10)
                loader = Loader(x, batch_size=20, seed=0)
                batches = iter(loader)
                next(batches)
                validation = DataLoader(TensorDataset(x), batch_size=20, num_workers=1, multiprocessing_context="spawn")
                assert sum(len(batch) for batch, in validation) == 200
                try:
                    next(batches)
                except RuntimeError as error:
                    print("spawned workers" in str(error))
            """
        )
        == "True\n"
    )


def test_the_storage_of_the_data_cannot_be_resized_while_a_loader_reads_it() -> None:
    x = tensor()
    loader = Loader(x, batch_size=20, seed=0)
    batches = iter(loader)
    next(batches)
    for resize in (lambda: x.untyped_storage().resize_(0), lambda: x.resize_(10 * N, 1000)):
        with pytest.raises(RuntimeError, match="not resizable"):
            resize()
    assert len(list(batches)) == N // 20 - 1


def test_data_that_shrinks_is_an_error_at_the_next_epoch() -> None:
    x = tensor()
    loader = Loader({"x": x}, batch_size=20, seed=0)
    batches = iter(loader)
    next(batches)
    x.resize_(3, 1000)  # the address does not change
    assert len(list(batches)) == N // 20 - 1
    with pytest.raises(
        RuntimeError, match=r"data\['x'\] must not change .* instead of torch.float32 of shape \(400, 1000\)"
    ):
        next(iter(loader))


def test_an_array_that_is_resized_is_detected() -> None:
    x = np.zeros((N, 1000))
    loader = Loader(x, batch_size=20, format="numpy", seed=0, num_threads=0)  # no thread reads what is freed
    batches = iter(loader)
    next(batches)
    x.resize((50 * N, 1000), refcheck=False)
    with pytest.raises(RuntimeError, match="the memory of data has moved"):
        next(batches)


def test_moved_memory_of_a_normalized_field_is_detected() -> None:
    x = torch.zeros(N, 3, dtype=torch.uint8)
    batches = iter(Loader((CLASSES, Normalized(x, 0, 255)), batch_size=20, seed=0))
    next(batches)
    x.share_memory_()
    with pytest.raises(RuntimeError, match=r"the memory of data\[1\] has moved"):
        next(batches)


def test_old_memory_stays_readable_while_threads_copy() -> None:
    """Memory moves while batches are copied in the background: nothing crashes, and no later batch is delivered."""
    program = """
        import torch
        for turn in range(30):
            x = torch.full((64, 1 << 16), float(turn))
            loader = Loader(x, batch_size=32, steps_per_epoch=1000, num_threads=2, prefetch=8, seed=0)
            batches = iter(loader)
            for _ in range(turn % 4 + 1):
                assert (next(batches) == turn).all()
            if turn % 2:
                x.data = torch.full((64, 1 << 16), -1.0)
            else:
                x.set_(torch.full((64, 1 << 16), -1.0))
            try:
                next(batches)
            except RuntimeError:
                continue
            raise AssertionError("it was not noticed")
        """
    assert run(program) == ""


# ---- tensors without memory of their own


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def assert_refused(x: Any, named: str) -> None:
    for data in (x, (np.arange(4), x)):
        with pytest.raises(TypeError, match=rf"must be a plain dense tensor .*{named}"):
            Loader(data, batch_size=2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors", "ignore:The PyTorch API of nested tensors")
def test_tensors_without_memory_of_their_own_are_refused_by_name() -> None:
    with FakeTensorMode():
        fake = torch.zeros(4, 3)
    assert_refused(fake, "FakeTensor")
    assert_refused(masked_tensor(torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool)), "MaskedTensor")
    assert_refused(torch._efficientzerotensor(4, 3), "without memory")
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert_refused(nested, "nested")
    assert_refused([nested] * 9, "nested")  # as many as might be rows that were not stacked
    assert_refused(torch.zeros(4, 3).to_sparse(), "sparse_coo")
    refused = []

    def inside(x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(TypeError, match=r"transform of torch\.func"):
            Loader(x, batch_size=2)
        refused.append(x.ndim)
        return x

    torch.vmap(inside)(torch.zeros(2, 4, 3))
    torch.func.grad(lambda x: inside(x).sum())(torch.zeros(4, 3))
    assert refused == [2, 2]


def test_a_dtensor_is_refused_by_name(mesh: Any) -> None:
    assert_refused(distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)]), "DTensor")


def test_parameters_and_subclasses_with_memory_are_accepted() -> None:
    class Image(torch.Tensor):
        pass

    x = torch.arange(12.0).reshape(4, 3)
    for data in (torch.nn.Parameter(x), x.as_subclass(Image), torch.nn.Buffer(x)):
        (batch,) = Loader(data, batch_size=4, shuffle=False)
        assert type(batch) is torch.Tensor
        assert batch.tolist() == x.tolist()


ODD = [
    *(f"uint{bits}" for bits in range(1, 8)),
    *(f"int{bits}" for bits in range(1, 8)),
    *("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8", "quint8", "qint32"),
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ODD)
def test_dtypes_of_partial_bytes_or_without_numbers_are_refused_by_name(name: str) -> None:
    dtype = getattr(torch, name)
    if name.startswith("q"):
        quantized = torch._empty_affine_quantized([4, 3], scale=1.0, zero_point=0, dtype=dtype)
        with pytest.raises(TypeError, match=f"quantized Tensor of torch.{name}"):
            Loader(quantized, batch_size=2)
        return
    with pytest.raises(TypeError, match=rf"of whole bytes \(got a Tensor of torch.{name} on cpu\)"):
        Loader(torch.empty(4, 3, dtype=dtype), batch_size=2)


@pytest.mark.parametrize("dtype", ["V0", []])
def test_rows_without_a_byte_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="the rows of data must have at least one byte"):
        Loader(np.zeros(4, np.dtype(dtype)), batch_size=2, format="numpy")


@pytest.mark.parametrize("make", [np.matrix, lambda x: np.char.array(x.astype(str)), lambda x: x.view(np.recarray)])
@pytest.mark.filterwarnings("ignore:the matrix subclass", "ignore:.*np.char.chararray.*:DeprecationWarning")
def test_subclasses_of_arrays_are_read_from_their_memory(make: Any) -> None:
    x = make(np.arange(12).reshape(4, 3))
    (batch,) = Loader(x, batch_size=4, shuffle=False, format="numpy")
    assert type(batch) is np.ndarray
    assert batch.tolist() == np.asarray(x).tolist()


# ---- copies and other processes


class Touched(torch.Tensor):
    """Tensor that must not be pickled."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        msg = "the tensor was touched"
        raise AssertionError(msg)


def test_pickle_refuses_a_loader_before_any_tensor_is_touched() -> None:
    loader = Loader(torch.zeros(20, 3).as_subclass(Touched), batch_size=4, seed=0)
    with pytest.raises(TypeError, match=r"cannot be pickled: save its state_dict\(\)"):
        pickle.dumps(loader)


def test_a_sampler_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match=r"a BatchSampler cannot be pickled or copied: save its state_dict\(\)"):
        copy.deepcopy(BatchSampler([0, 1, 0, 1], 2))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawning_a_process_refuses_a_loader_which_stays_usable(method: str) -> None:
    x = tensor()
    address = x.data_ptr()
    loader = Loader(x, batch_size=20, seed=0)
    batches = iter(loader)
    next(batches)
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=list, args=(loader,))
    with pytest.raises(TypeError, match="a Loader cannot be sent to another process"):
        process.start()
    assert not x.is_shared()
    assert x.data_ptr() == address
    assert len(list(batches)) == N // 20 - 1


def test_a_deep_copy_shares_the_arrays_and_is_independent() -> None:
    x = tensor()
    loader = Loader({"x": x, "y": CLASSES}, batch_size=20, classes=CLASSES, mixing=Learn2Mix(0.5), update_every=2)
    for batch in itertools.islice(loader, 5):
        loader.record(1 + batch["y"].double())
    other = copy.deepcopy(loader)
    assert other.state_dict() == loader.state_dict()
    x[:] = torch.arange(N, dtype=torch.float32)[:, None]
    runs = []
    for one in (loader, other):
        rows = []
        for batch in one:
            one.record(1 + batch["y"].double())
            rows.append(batch["x"][:, 0].tolist())
        runs.append(rows)
    # The original ends its epoch after the last batch consumed; the copy resumes in the middle.
    assert len(runs[0]) == len(loader)
    assert len(runs[1]) == len(loader) - 5
    assert {row for batch in runs[1] for row in batch} <= set(range(N))


def test_a_shallow_copy_is_refused() -> None:
    loader = Loader(tensor(), batch_size=20, classes=CLASSES, mixing=Balanced(), seed=0)
    with pytest.raises(TypeError, match=r"use copy.deepcopy\(loader\)"):
        copy.copy(loader)
    assert len(list(loader)) == N // 20


def test_a_validation_dataloader_without_workers_does_not_disturb_a_loader() -> None:
    x = tensor()
    loader = Loader(x, batch_size=20, seed=0)
    for batch, (other,) in zip(loader, DataLoader(TensorDataset(x), batch_size=20), strict=True):
        assert batch.shape == other.shape
