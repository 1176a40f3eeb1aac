"""Batches in pinned memory and on the device equal those on the CPU, are ready when used, and are ordinary tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, Loader, Normalized
from l2m_fast.data.device import DeviceBatches, DeviceGather
from l2m_fast.data.fields import fields_of

N = 503


def place(tensor: torch.Tensor, where: str, device: str) -> torch.Tensor:
    if where == "device":
        return tensor.to(device)
    return tensor.pin_memory() if where == "pinned" else tensor


def data(where: str, device: str = "cuda") -> Any:
    """Return fields of many shapes on the host, in pinned memory, on the device, or in different places."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randint(256, (N, 3, 8, 8), dtype=torch.uint8, generator=generator),
        torch.randint(256, (N, 7), dtype=torch.uint8, generator=generator),
        torch.randn(N, 5, generator=generator, dtype=torch.float64),
        torch.randn(N, 3, generator=generator).bfloat16(),
        torch.arange(N),
    ]
    places = ["host", "pinned", "device"] if where == "mixed" else [where]
    placed = [place(tensor, places[i % len(places)], device) for i, tensor in enumerate(tensors)]
    image = placed[0]
    return {
        "fields": tuple(placed),
        "a": Normalized(image, [1.0, 2.0, 3.0], 3.3),
        "b": Normalized(image, 127.5, [60.0, 61.0, 62.0], dtype="bfloat16"),
        "c": Normalized(image, 1.5, 7.0, dtype="float16", channel_dim=-1),
        "n": np.arange(N, dtype=np.int16),
    }


def leaves(batch: Any) -> list[torch.Tensor]:
    return [*batch["fields"], *(batch[name] for name in "abcn")]


def check(where: str, device: str = "cuda", **options: Any) -> None:
    """Compare two epochs of batches on a device, all kept alive, with those on the CPU."""
    options = {"batch_size": 32, "seed": 5, **options}
    plain, loader = Loader(data("host"), **options), Loader(data(where, device), device=device, **options)
    for _ in range(2):
        kept = [
            (leaves(batch), leaves(expected), loader.batch_rows, plain.batch_rows)
            for batch, expected in zip(loader, plain, strict=True)
        ]
        for batch, expected, rows, rows_too in kept:
            assert torch.equal(torch.as_tensor(rows), torch.as_tensor(rows_too))
            for tensor, other in zip(batch, expected, strict=True):
                assert tensor.device == torch.empty(0, device=device).device
                assert tensor.dtype == other.dtype
                assert torch.equal(tensor.cpu(), other)


@pytest.mark.kernels
@pytest.mark.parametrize("where", ["host", "pinned", "device", "mixed"])
def test_batches_equal_those_of_the_cpu(where: str) -> None:
    check(where)


@pytest.mark.parametrize("where", ["host", "pinned", "device", "mixed"])
@pytest.mark.parametrize("options", [{"prefetch": 0}, {"num_threads": 0, "prefetch": 2}, {"batch_size": 600}], ids=str)
def test_batches_equal_those_of_the_cpu_for_all_options(where: str, options: dict[str, Any]) -> None:
    check(where, **options)


@pytest.mark.parametrize("where", ["host", "pinned", "device", "mixed"])
def test_batches_on_a_device_that_is_not_the_current_one(where: str, second_device: str) -> None:
    check(where, second_device)


@pytest.mark.parametrize("n", [524_160, 524_161])
def test_a_batch_may_have_more_than_2_to_the_31_pieces(n: int) -> None:
    if torch.cuda.mem_get_info()[0] < 4 << 30:
        pytest.skip("needs 4 GiB of device memory")
    data = torch.randint(
        256, (1000, 4097), dtype=torch.uint8, device="cuda"
    )  # rows of an odd size are copied byte by byte
    rows = torch.randint(len(data), (n,), device="cuda")
    (field,), _ = fields_of(data, "torch")
    (batch,) = DeviceGather({0: field}, {}, data.device)(rows, [n], torch.cuda.current_stream())[0].values()
    for begin in range(0, n, 65_536):
        part = slice(begin, begin + 65_536)
        assert torch.equal(batch[part], data[rows[part]])


@pytest.mark.parametrize("where", ["host", "pinned", "device", "mixed"])
def test_a_batch_may_be_used_on_any_stream_and_released(where: str) -> None:
    loader = Loader(data(where), batch_size=64, device="cuda", seed=1, prefetch=3)
    plain = Loader(data("host"), batch_size=64, seed=1)
    busy = torch.randn(2000, 2000, device="cuda")
    for _ in range(5):
        sums, expected = [], []
        for i, (batch, other) in enumerate(zip(loader, plain, strict=True)):
            expected.append(sum(float(x.double().sum()) for x in leaves(other)))
            with torch.cuda.stream(torch.cuda.Stream() if i % 2 else torch.cuda.current_stream()):
                ready = torch.cuda.current_stream()
                ready.wait_stream(torch.cuda.default_stream())
                busy @ busy  # the use lags behind
                sums.append(torch.stack([x.double().sum() for x in leaves(batch)]).sum())
                for x in leaves(batch):
                    x.record_stream(ready)
                del batch, x
        torch.cuda.synchronize()
        np.testing.assert_allclose([float(x) for x in sums], expected, rtol=1e-9)


@pytest.mark.parametrize("where", ["host", "pinned", "device", "mixed"])
def test_batches_may_be_taken_on_changing_streams(where: str) -> None:
    loader = Loader(data(where), batch_size=16, device="cuda", seed=1, prefetch=3)
    plain = Loader(data("host"), batch_size=16, seed=1)
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    for epoch in range(3):
        batches = iter(loader)
        for i, expected in enumerate(plain):
            with torch.cuda.stream(streams[(i // (epoch + 1)) % 3]):
                torch.cuda._sleep(200_000)  # the gather lags behind
                batch = next(batches)
                if i % 2:  # else only later batches of the same launch are read
                    for tensor, other in zip(leaves(batch), leaves(expected), strict=True):
                        assert torch.equal(tensor.cpu(), other)


@pytest.mark.parametrize("where", ["host", "pinned", "device"])
def test_steps_do_not_block_the_host(where: str, asynchronous: Callable[[], AbstractContextManager[None]]) -> None:
    loader = Loader(data(where), batch_size=32, device="cuda")
    batches = iter(loader)
    next(batches)
    with asynchronous():
        for _ in range(10):
            next(batches)


def test_pinned_rows_are_read_before_their_memory_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    send_ahead = DeviceBatches._send_ahead

    def late(self: DeviceBatches, batch: list[torch.Tensor]) -> Any:
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(50_000_000)  # about 30 ms
        return send_ahead(self, batch)

    monkeypatch.setattr(DeviceBatches, "_send_ahead", late)
    pinned = torch.arange(1 << 20).reshape(-1, 1024).pin_memory()
    address, expected = pinned.data_ptr(), pinned.clone()
    loader = Loader(pinned, batch_size=64, device="cuda", seed=0)
    batches = iter(loader)
    batch, rows = next(batches), torch.as_tensor(loader.batch_rows)
    del loader, batches, pinned
    others = torch.zeros(1024, 1024, dtype=torch.int64, pin_memory=True)
    assert others.data_ptr() == address
    assert torch.equal(batch.cpu(), expected[rows])


def test_pinned_batches() -> None:
    x, y = torch.arange(N * 3.0).reshape(N, 3), torch.arange(N) % 7
    options: dict[str, Any] = {"batch_size": 32, "classes": y, "mixing": Balanced(), "seed": 2}
    for batch, expected in zip(Loader((x, y), pin_memory=True, **options), Loader((x, y), **options), strict=True):
        for tensor, other in zip(batch, expected, strict=True):
            assert tensor.is_pinned()
            assert torch.equal(tensor, other)
            assert torch.equal(tensor.to("cuda", non_blocking=True).cpu(), other)


def test_device_memory_is_bounded_by_the_batches_in_flight() -> None:
    loader = Loader(torch.zeros(20_000, 3072, dtype=torch.uint8), batch_size=500, device="cuda", prefetch=3)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(6):
        for _batch in loader:
            pass
    peak = torch.cuda.max_memory_allocated() - before
    batch, rounding = 500 * 3072, 1 << 20  # torch's allocator may round up by this much
    assert batch <= peak <= (3 + 1 + 1) * (batch + rounding)  # prefetched ones, the current one and the previous one


def test_out_of_memory_on_the_device_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(torch.arange(64.0), batch_size=8, device="cuda", seed=0)
    batches = iter(loader)
    first = next(batches)
    with monkeypatch.context() as for_now:
        receive = DeviceBatches.receive

        def fails(self: Any, sent: Any) -> Any:
            receive(self, sent)
            return torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

        for_now.setattr(DeviceBatches, "receive", fails)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            next(batches)
    rest = list(batches)
    assert torch.equal(torch.cat([first, *rest]).sort().values.cpu(), torch.arange(64.0))


def test_a_state_from_the_cpu_resumes_on_the_device() -> None:
    x = torch.arange(100.0)
    plain, loader = Loader(x, batch_size=10, seed=3), Loader(x, batch_size=10, device="cuda")
    for step, _ in enumerate(plain):
        if step == 4:
            break
    loader.load_state_dict(plain.state_dict())
    plain.load_state_dict(plain.state_dict())
    assert all(torch.equal(a.cpu(), b) for a, b in zip(loader, plain, strict=True))


def test_wrong_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="available CUDA devices"):
        Loader(torch.zeros(4), batch_size=2, device=f"cuda:{torch.cuda.device_count()}")
    with pytest.raises(ValueError, match="available CUDA devices"):
        Loader(torch.zeros(4, device="cuda"), batch_size=2, device="cpu")
    with pytest.raises(ValueError, match="must be on the CPU"):
        Loader(torch.zeros(4, device="cuda"), batch_size=2, format="numpy")
