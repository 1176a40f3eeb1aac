"""Batches in pinned memory and on a device, with mocks of CUDA; tests/gpu has the same tests on a device.

The mocks record calls of CUDA: a stream must wait for a copy before the batch is yielded, and the memory of the batch
must be kept for that stream.
"""

from __future__ import annotations

import ctypes
import math
import time
import weakref
from contextlib import contextmanager, nullcontext
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, Learn2Mix, Loader, batch_source
from l2m_fast import arguments as arguments_module
from l2m_fast.data import device as device_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from l2m_fast.data.fields import Field

from loader.fields import DATA, N, loader_options, same

MODES = ["pinned", "staged", "read", "resident", "resident, by torch", "mixed"]


class Stream:
    """Stream that records what it waited for and which memory was kept for it."""

    current: Stream

    def __init__(self, device: object = None) -> None:
        del device
        self.waited: list[object] = []
        self.kept: list[int] = []
        self.cuda_stream = 0

    def record_event(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        self.waited.append(event)

    def wait_stream(self, stream: Stream) -> None:
        self.waited.append(stream)

    def synchronize(self) -> None:
        pass


class Gather:
    """Mock of the gather kernel."""

    def __init__(self, fields: list[tuple[Any, ...]]) -> None:
        self._fields = fields

    def __call__(self, rows: int, sizes: list[int], outs: list[int], stream: int) -> None:
        assert stream == 0
        assert len(outs) == len(sizes) * len(self._fields)
        remaining = iter((ctypes.c_int64 * sum(sizes)).from_address(rows))
        for batch, n in enumerate(sizes):
            ids = list(islice(remaining, n))
            for (address, stride, size, change), out in zip(
                self._fields, outs[batch * len(self._fields) :], strict=False
            ):
                for i, row in enumerate(ids):
                    if change is None:
                        ctypes.memmove(out + i * size, address + row * stride, size)
                    else:
                        self.normalize((ctypes.c_uint8 * size).from_address(address + row * stride), i, out, *change)

    @staticmethod
    def normalize(
        row: ctypes.Array[ctypes.c_uint8], i: int, out: int, dtype: str, mean: int, std: int, channels: int, plane: int
    ) -> None:
        kind = getattr(torch, dtype)
        means, stds = ((ctypes.c_float * channels).from_address(address) for address in (mean, std))
        channel = np.arange(len(row)) // plane % channels
        floats = (np.array(row, np.float32) - np.array(means)[channel]) / np.array(stds)[channel]
        values = torch.from_numpy(floats).to(kind)
        ctypes.memmove(out + i * values.nbytes, values.data_ptr(), values.nbytes)


@contextmanager
def entered(stream: Stream) -> Iterator[None]:
    before, Stream.current = Stream.current, stream
    yield
    Stream.current = before


def next_on_another_stream(batches: Iterator[Any]) -> tuple[Any, Stream]:
    with entered(Stream()):
        return next(batches), Stream.current


@pytest.fixture
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loader]:
    """Return a function that creates loaders whose batches go to the destination given by the mode."""
    mode = request.param
    Stream.current = Stream()
    monkeypatch.setattr(device_data, "pinned_empty", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: Stream.current)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: stream.kept.append(self.data_ptr()), raising=False
    )
    monkeypatch.setattr(device_data, "_cuda", SimpleNamespace(Gather=Gather))
    monkeypatch.setattr(device_data, "has_kernels", lambda _: mode != "resident, by torch")

    def is_one_of(field: Field, dimensions: tuple[int, ...]) -> bool:
        return isinstance(field.array, torch.Tensor) and (mode != "mixed" or field.array.ndim in dimensions)

    resident = mode.startswith("resident") or mode == "mixed"
    monkeypatch.setattr(device_data, "is_resident", lambda _, field: resident and is_one_of(field, (1, 4)))
    monkeypatch.setattr(device_data, "can_read", lambda _, field: mode in ("read", "mixed") and is_one_of(field, (3,)))

    def make(**options: Any) -> Loader:
        with pytest.MonkeyPatch.context() as for_now:
            if mode == "pinned":
                for_now.setattr(torch.cuda, "is_available", lambda: True)
                options["pin_memory"] = True
            else:
                for_now.setattr(batch_source, "cuda_device", lambda *_: torch.device("cpu"))
            return Loader(**options)

    return make


@pytest.mark.parametrize("make", MODES, indirect=True)
@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"classes": DATA["y"], "mixing": Balanced(), "order": "grouped"},
        {"rank": 1, "world_size": 3, "batch_size": 7},
        {"drop_last": True},
        {"batch_size": 1000},
    ],
    ids=str,
)
def test_batches_are_the_same_on_every_device(
    make: Callable[..., Loader], prefetch: int, num_threads: int, changed: dict[str, Any]
) -> None:
    if prefetch == 5:
        changed = {**changed, "steps_per_epoch": 4}
    with (
        Loader(**loader_options(**changed)) as plain,
        make(**loader_options(**changed, prefetch=prefetch, num_threads=num_threads)) as loader,
    ):
        for _ in range(3):
            kept = []
            for expected, batch in zip(plain, loader, strict=True):
                assert same(batch, expected)
                assert torch.equal(torch.as_tensor(loader.batch_rows), torch.as_tensor(plain.batch_rows))
                kept.append((batch, expected))
            assert all(same(batch, expected) for batch, expected in kept)


@pytest.mark.parametrize("make", MODES, indirect=True)
def test_epochs_may_be_left_unfinished_and_restored(make: Callable[..., Loader]) -> None:
    changing = {"classes": DATA["y"], "mixing": Learn2Mix(0.5), "update_every": 3}
    plain, loader = Loader(**loader_options(**changing)), make(**loader_options(**changing))
    for steps in range(1, 11):
        for step, (expected, batch) in enumerate(zip(plain, loader, strict=True), 1):
            assert same(batch, expected)
            for one in (plain, loader):
                one.record(expected["x"][:, 0, 0] / N + 1)
            if step == steps:
                break
        state = loader.state_dict()
        assert state == plain.state_dict()
        if steps % 3 == 0:
            loader = make(**loader_options(**changing))
            loader.load_state_dict(state)
            plain.load_state_dict(state)


@pytest.mark.parametrize("make", MODES, indirect=True)
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["pinned_empty", "send", "receive"])
def test_an_error_during_the_transfer_loses_no_batch(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    plain, loader = Loader(**loader_options()), make(**loader_options())
    batches = iter(loader)
    owner = device_data if where == "pinned_empty" else device_data.DeviceBatches
    calls, whole = 0, getattr(owner, where)

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(owner, where, interrupted)
    raised: list[BaseException] = []
    for expected in plain:
        while True:
            try:
                batch = next(batches)
                break
            except (RuntimeError, KeyboardInterrupt) as caught:
                raised.append(caught)
        assert same(batch, expected)
    assert set(raised) <= {error}
    if where != "send" or isinstance(error, KeyboardInterrupt):  # other batches may be delayed while one is ready
        assert len(raised) == calls // 3


@pytest.mark.parametrize("make", MODES[1:], indirect=True)
def test_the_stream_that_uses_a_batch_waits_for_it(make: Callable[..., Loader], request: pytest.FixtureRequest) -> None:
    mode = request.node.callspec.params["make"]
    with make(**loader_options()) as loader:
        batches = iter(loader)
        for _ in range(2):
            next(batches)
            batch, used_on = next_on_another_stream(batches)
            assert used_on.waited
            assert batch["z"].data_ptr() in used_on.kept  # a field that is staged in every mode
            if mode == "read":
                assert batch["x"].data_ptr() in used_on.kept


@pytest.mark.parametrize("make", ["resident"], indirect=True)
def test_row_ids_of_several_batches_are_copied_together(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    send = device_data.DeviceBatches.send

    def noted(self: Any, batches: list[Any]) -> list[Any]:
        sent.append(len(batches))
        return send(self, batches)

    monkeypatch.setattr(device_data.DeviceBatches, "send", noted)
    data = {name: DATA[name] for name in "xy"}
    with make(**loader_options(data=data, batch_size=2, prefetch=4)) as loader:
        for _ in loader:
            torch.ones(200_000).sum()  # time for the threads
    assert sum(sent) == 54
    assert 4 < max(sent) <= 16


@pytest.mark.parametrize("make", ["resident"], indirect=True)
@pytest.mark.parametrize("limit", [0, 3, 100])
@pytest.mark.parametrize("memory", [1, 100])
def test_small_resident_batches_are_gathered_by_one_launch(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch, limit: int, memory: int
) -> None:
    launches = []

    class Counted(Gather):
        def __call__(self, rows: int, sizes: list[int], outs: list[int], stream: int) -> None:
            if len(sizes) > memory:
                raise torch.cuda.OutOfMemoryError
            launches.append(len(sizes))
            super().__call__(rows, sizes, outs, stream)

    monkeypatch.setattr(device_data, "_cuda", SimpleNamespace(Gather=Counted))
    data: dict[str, Any] = {name: DATA[name] for name in "xy"}
    row_bytes = sum(array[0].nbytes for array in data.values())
    monkeypatch.setattr(device_data, "_MAX_GATHERED", limit * 2 * row_bytes)
    plain = Loader(**loader_options(data=data, batch_size=2))
    with make(**loader_options(data=data, batch_size=2, prefetch=40)) as loader:
        kept = []
        for batch, expected in zip(loader, plain, strict=True):
            kept.append((batch, expected))
            torch.ones(200_000).sum()  # time for the threads
    assert all(same(batch, expected) for batch, expected in kept)
    assert sum(launches) == len(kept)
    if min(limit, memory) <= 1:
        assert max(launches) == 1
    elif limit == 3:
        assert max(launches) == 3
    else:
        assert 4 < max(launches) <= 16


@pytest.mark.parametrize("make", ["resident"], indirect=True)
def test_batches_gathered_together_may_be_used_on_different_streams(make: Callable[..., Loader]) -> None:
    data = {name: DATA[name] for name in "xy"}
    with make(**loader_options(data=data, batch_size=2, prefetch=4)) as loader:
        batches: Iterator[Any] = iter(loader)
        next(batches)
        torch.ones(200_000).sum()  # time for the threads
        for _ in range(20):
            next(batches)
            batch, used_on = next_on_another_stream(batches)
            assert used_on.waited
            was_gathered_before = {array.data_ptr() for array in batch.values()} <= set(used_on.kept)
            if was_gathered_before:
                break
        assert was_gathered_before


@pytest.mark.parametrize("make", ["resident"], indirect=True)
def test_batches_gathered_together_are_ordinary_tensors(make: Callable[..., Loader]) -> None:
    data = {name: DATA[name] for name in "xy"}
    with make(**loader_options(data=data, batch_size=2, prefetch=4)) as loader:
        for batch in loader:
            for array in batch.values():
                version = array._version
                array.zero_()
                assert array._version == version + 1 == 1
                assert array.untyped_storage().nbytes() == array.nbytes


@pytest.mark.parametrize("make", MODES, indirect=True)
def test_batches_that_are_taken_in_inference_mode_do_not_affect_later_ones(make: Callable[..., Loader]) -> None:
    data = {name: DATA[name] for name in "xyz"}
    with make(**loader_options(data=data, batch_size=2, prefetch=4)) as loader:
        with torch.inference_mode():
            batches: Iterator[Any] = iter(loader)
            for _ in range(3):
                next(batches)
                torch.ones(200_000).sum()  # time for the threads
        for batch in batches:
            assert not any(array.is_inference() for array in batch.values())


@pytest.mark.parametrize("make", MODES, indirect=True)
def test_memory_is_released(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch) -> None:
    alive = 0

    def counted(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nonlocal alive
        alive += 1
        array = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)

        def died() -> None:
            nonlocal alive
            alive -= 1

        weakref.finalize(array, died)
        return torch.from_numpy(array).view(dtype).view(shape)

    monkeypatch.setattr(device_data, "pinned_empty", counted)
    loader = make(**loader_options(prefetch=3))
    fields = 5
    for _ in range(3):
        for _ in loader:
            assert alive <= fields * (
                3 * (1 if loader._source.device is None else 2) + 3 + 2
            )  # one field is staged in each mode
    loader.close()
    del _
    assert alive <= fields


@pytest.mark.parametrize("make", ["staged"], indirect=True)
@pytest.mark.parametrize("prefetch", [0, 1, 2, 3])
def test_prefetch_is_the_number_of_batches_sent_ahead(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    sent, ahead = 0, []
    send = device_data.DeviceBatches.send

    def counted(self: Any, batches: list[Any]) -> list[Any]:
        nonlocal sent
        sent += len(batches)
        return send(self, batches)

    monkeypatch.setattr(device_data.DeviceBatches, "send", counted)
    with make(**loader_options(prefetch=prefetch)) as loader:
        for step, _ in enumerate(loader, 1):
            time.sleep(0.01)  # time for the threads
            ahead.append(sent - step)
    assert max(ahead) == prefetch


@pytest.mark.parametrize("make", ["staged"], indirect=True)
def test_without_memory_for_several_batches_they_are_sent_one_by_one(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = 0
    copy = device_data.DeviceBatches._copy

    def scarce(self: Any, array: torch.Tensor) -> torch.Tensor:
        nonlocal alive
        if alive >= 2 * 5:
            msg = "out of memory"
            raise RuntimeError(msg)
        alive += 1
        copied = copy(self, array)

        def died() -> None:
            nonlocal alive
            alive -= 1

        weakref.finalize(copied, died)
        return copied

    monkeypatch.setattr(device_data.DeviceBatches, "_copy", scarce)
    plain, loader = Loader(**loader_options()), make(**loader_options())
    raised = 0
    batches = iter(loader)
    for expected in plain:
        while True:
            try:
                batch = next(batches)
                break
            except RuntimeError:
                raised += 1
        assert list(batch) == list(expected)
        del batch
    assert raised <= 1


# ---- devices that are refused


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_pinned_memory_without_a_device_is_pageable_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="without a CUDA device"):
        loader = Loader(**loader_options(pin_memory=True))
    assert all(same(a, b) for a, b in zip(loader, Loader(**loader_options()), strict=True))


@pytest.mark.usefixtures("no_cuda")
def test_the_cpu_is_a_device_too() -> None:
    loader = Loader(**loader_options(device="cpu:0"))
    assert all(same(a, b) for a, b in zip(loader, Loader(**loader_options(device=torch.device("cpu"))), strict=True))


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    "device", ["cuda", "cuda:3", 0, torch.device("cuda"), "meta", "no such", -1, "cuda:256", 10**30]
)
def test_a_missing_device_is_refused(device: object) -> None:
    with pytest.raises(ValueError, match=r"device must be None, 'cpu' or one of the 0 available CUDA devices \(got "):
        Loader(**loader_options(device=device))


@pytest.mark.parametrize("device", [1.5, True, ["cuda"]])
def test_a_value_that_is_not_a_device_is_refused(device: object) -> None:
    with pytest.raises(TypeError, match="device must be None, 'cpu' or one of"):
        Loader(**loader_options(device=device))


def test_wrong_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    find = arguments_module.cuda_device
    zero, one = torch.device("cuda:0"), torch.device("cuda:1")
    assert find(None, set(), "torch") is None
    assert find(None, {zero}, "torch") == find("cuda:0", {zero}, "torch") == find(0, set(), "torch") == zero
    assert find(np.int64(1), set(), "torch") == one
    assert find("cuda", set(), "torch") == find(one, {one}, "torch") == one
    for device, data_devices, batch_format, message in (
        (None, {zero, one}, "torch", "data must be on one CUDA device"),
        ("cuda", {zero}, "torch", "device must be the device of the data, cuda:0"),
        ("cpu", {zero}, "torch", "device must be None, 'cpu' or one of the 2 available CUDA devices"),
        ("cuda:2", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:256", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:129", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:0", set(), "numpy", "format must be 'torch' for batches on a CUDA device"),
    ):
        with pytest.raises(ValueError, match=message):
            find(device, data_devices, batch_format)


def test_numpy_batches_are_not_pinned() -> None:
    with pytest.raises(ValueError, match="format must be 'torch' with pin_memory=True"):
        Loader(DATA["z"], batch_size=5, format="numpy", pin_memory=True, seed=0)
