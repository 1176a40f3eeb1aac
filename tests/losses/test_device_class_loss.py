"""Loss sums on a device, exact in any order. Here on the CPU, by the reference implementation; on CUDA in tests/gpu."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, class_loss
from l2m_fast import run as run_module
from l2m_fast.losses import device as device_module
from l2m_fast.losses.device import DeviceClassLoss
from l2m_fast.losses.sums import HostClassLoss, num_host_words
from loader.small import window_sums
from losses.exact_sums import CLASS_TYPES, LOSS_TYPES, NUM_CLASSES, check_against_fsum, totals


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("class_type", CLASS_TYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 1000, 40_000])
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cpu", loss_type, class_type, n, NUM_CLASSES)


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
def test_torch_operations_give_the_same(loss_type: torch.dtype) -> None:
    losses = (torch.linspace(-1, 9, 5000).double() ** 33).to(loss_type)
    losses[::100] = math.inf
    losses[50] = torch.finfo(torch.float32).smallest_normal / 3
    classes = torch.arange(5000) % (NUM_CLASSES + 2) - 1
    exact, by_torch = totals("cpu"), totals("cpu")
    exact.add(losses, classes)
    by_torch.add_with_torch(losses, classes)
    assert exact.not_finite == by_torch.not_finite > 0
    messages = []
    for one in (exact, by_torch):
        with pytest.raises(ValueError, match="classes must be in") as error:
            one.read()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    expected, result = exact.read(), by_torch.read()
    assert result.count.tolist() == expected.count.tolist()
    assert result.sum.tolist() == expected.sum.tolist()


def test_digits_are_carried_before_they_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "MAX_LOSSES_ON_DEVICE", 50)
    rng = np.random.default_rng(0)
    losses, classes = rng.normal(size=2000) * 2.0 ** rng.integers(-60, 60, 2000), rng.integers(0, NUM_CLASSES, 2000)
    losses[1000:], classes[1000:] = np.float32(1.9999999), 0  # add to the same digit, in the same direction
    sums = DeviceClassLoss(NUM_CLASSES, torch.device("cpu"))
    for begin in range(0, 2000, 20):
        part = slice(begin, begin + 20)
        if begin % 40 == 0:
            sums.add(torch.from_numpy(losses[part]), torch.from_numpy(classes[part]))
        else:
            other = DeviceClassLoss(NUM_CLASSES, torch.device("cpu"))
            other.add(torch.from_numpy(losses[part]), torch.from_numpy(classes[part]))
            sums.add_sums(other)
        digits = sums.words[: num_host_words(NUM_CLASSES) - NUM_CLASSES].view(NUM_CLASSES, -1)
        assert (digits[:, :-1].abs() < 3 * 51 * 2**32).all()  # a double is three floats
    assert sums.sum.tolist() == class_loss(losses, classes, NUM_CLASSES).sum.tolist()


def test_it_is_read_like_a_class_loss() -> None:
    sums = totals("cpu")
    sums.add(torch.tensor([1.0, 2.0]), torch.tensor([0, 6]))
    total, count = sums
    assert len(sums) == 2
    assert total.tolist() == sums.sum.tolist() == [1, 0, 0, 0, 0, 0, 2]
    assert count.tolist() == sums.count.tolist() == sums[1].tolist() == [1, 0, 0, 0, 0, 0, 1]


def test_a_device_may_have_several_names() -> None:
    sums = DeviceClassLoss(2, torch.device("cpu", 0))  # not equal to the device of a tensor, like "cuda"
    sums.add(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]))
    assert sums.device == torch.device("cpu")
    assert sums.sum.tolist() == [3, 0]


def test_sums_created_in_inference_mode_can_be_updated_outside() -> None:
    with torch.inference_mode():
        sums = totals("cpu")
        sums.add(torch.tensor([1.0, 2.0]), torch.tensor([0, 9]))
    sums.add(torch.tensor([4.0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="got 1 out of range"):
        sums.read()
    assert sums.sum[0] == 5


def test_a_stream_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        current: Stream

        def __init__(self) -> None:
            self.waited: list[Stream] = []

        def wait_stream(self, other: Stream) -> None:
            self.waited.append(other)

    first, second = Stream(), Stream()
    kept: list[Stream] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: kept.append(stream), raising=False)
    sums = totals("cpu")
    for Stream.current in (first, first, second, second, first):
        assert sums._on_stream() == Stream.current
    assert (first.waited, second.waited) == ([second], [first])
    assert kept == [first, second, first]


# ---- a window of losses that are on a device


def with_pretended_device(monkeypatch: pytest.MonkeyPatch, is_on_device: Callable[[object], bool]) -> Loader:
    """Return a loader that has yielded a batch of 50 rows, and treats some losses as those of a device."""
    monkeypatch.setattr(run_module, "is_on_device", is_on_device)
    y = torch.arange(50) % NUM_CLASSES
    loader = Loader(y, batch_size=50, classes=y, mixing=Learn2Mix(), seed=0, steps_per_epoch=9)
    next(iter(loader))
    return loader


def pending(loader: Loader) -> tuple[list[float], list[int]]:
    state = loader.state_dict()
    return window_sums(state)[0], state["window_counts"][0]


def test_a_window_may_mix_losses_on_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    on_device = with_pretended_device(monkeypatch, lambda losses: isinstance(losses, torch.Tensor))
    on_cpu = with_pretended_device(monkeypatch, lambda losses: isinstance(losses, torch.Tensor))
    for step in range(6):
        losses, classes = rng.random(50), rng.integers(0, NUM_CLASSES, 50)
        on_cpu.record(losses, classes)
        if step == 3:
            on_device.record(losses, classes)
        elif step == 4:
            sums = totals("cpu")
            sums.add(torch.from_numpy(losses), torch.from_numpy(classes))
            on_device.record(sums)
        else:
            on_device.record(torch.from_numpy(losses), torch.from_numpy(classes))
        assert pending(on_device)[1] == pending(on_cpu)[1]
        np.testing.assert_allclose(pending(on_device)[0], pending(on_cpu)[0], rtol=1e-14)
    assert sum(pending(on_device)[1]) == 300
    with pytest.raises(ValueError, match=r"over 7 classes \(got 8\)"):
        on_device.record(totals("cpu", 8))


def test_invalid_classes_on_a_device_raise_when_the_sums_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = with_pretended_device(monkeypatch, lambda losses: isinstance(losses, torch.Tensor))
    loader.record(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]))
    with pytest.warns(RuntimeWarning, match="non-finite"):
        assert sum(pending(loader)[1]) == 1
    loader.record(torch.tensor([1.0, 2.0]), torch.tensor([7, 0]))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 7\) \(got 1 out of range, skipped, on cpu\)"):
        pending(loader)
    assert pending(loader)[0] == [3, 0, 0, 0, 0, 0, 0]


# ---- a loader whose losses are taken for those of a device: they are read half a window after its end


def run(
    monkeypatch: pytest.MonkeyPatch,
    on_device: bool,
    update_every: int | None,
    order: Literal["shuffled", "grouped"] = "shuffled",
    stop: int = -1,
) -> tuple[Loader, list[int]]:
    """Run for more than three epochs, or up to a step, where a state is saved and loaded."""
    monkeypatch.setattr(run_module, "is_on_device", lambda losses: on_device and isinstance(losses, torch.Tensor))
    x, y = torch.arange(480.0), torch.arange(480) % 5

    def make() -> Loader:
        return Loader(
            (x, y), batch_size=20, classes=y, mixing=Learn2Mix(0.5), update_every=update_every, seed=1, order=order
        )

    rows: list[int] = []
    loader, step = make(), 0
    for _ in range(3):
        goes_on = True
        while goes_on:
            goes_on = False
            for inputs, targets in loader:
                rows += loader.batch_rows.tolist()
                loader.record((1 + targets + inputs / 480).double())
                step += 1
                if step == stop:
                    state, loader = loader.state_dict(), make()
                    loader.load_state_dict(state)
                    goes_on = True
                    break
    return loader, rows


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
@pytest.mark.parametrize("update_every", [None, 1, 2, 3, 7, 24, 100])
def test_losses_on_a_device_have_the_same_effect_as_others(
    monkeypatch: pytest.MonkeyPatch, update_every: int | None, order: Literal["shuffled", "grouped"]
) -> None:
    (on_cpu, rows), (on_device, device_rows) = (
        run(monkeypatch, on_device, update_every, order) for on_device in (False, True)
    )
    assert rows == device_rows
    np.testing.assert_allclose(on_device.proportions, on_cpu.proportions, rtol=1e-12)
    np.testing.assert_allclose(on_device.class_losses, on_cpu.class_losses, rtol=1e-12)
    assert len(on_device.history) == len(on_cpu.history) == (71 // update_every if update_every else 3)
    for record, device_record in zip(on_cpu.history, on_device.history, strict=True):
        for key in ("epoch", "total_step", "counts", "proportions"):
            np.testing.assert_allclose(record[key], device_record[key], rtol=1e-12)


@pytest.mark.parametrize("stop", [*range(1, 24), 25, 29, 35])
def test_a_state_contains_the_sums_of_a_window_not_read_yet(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    _, rows = run(monkeypatch, True, 7)
    assert run(monkeypatch, True, 7, stop=stop)[1] == rows


@pytest.mark.parametrize("update_every", [None, 10])
def test_recorded_losses_remain_after_close(monkeypatch: pytest.MonkeyPatch, update_every: int | None) -> None:
    loaders = [run(monkeypatch, on_device, update_every)[0] for on_device in (False, True)]
    for loader in loaders:
        loader.close()
    histories = [[record["total_step"] for record in loader.history] for loader in loaders]
    assert histories[0] == histories[1]
    np.testing.assert_allclose(loaders[0].class_losses, loaders[1].class_losses, rtol=1e-12)


def test_a_window_is_read_half_a_window_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "is_on_device", lambda losses: isinstance(losses, torch.Tensor))
    y = torch.arange(480) % 5
    reads = []
    read = DeviceClassLoss.read

    def noted(self: DeviceClassLoss) -> HostClassLoss:
        reads.append(loader.step)
        return read(self)

    monkeypatch.setattr(DeviceClassLoss, "read", noted)
    loader = Loader(y, batch_size=20, classes=y, mixing=Learn2Mix(), update_every=8, seed=1)
    for targets in loader:
        loader.record(targets.float())
    assert reads == [12, 20]


class Unloadable:
    """Stand-in for the module of kernels, on a device of an architecture that it was not built for."""

    asked = 0

    def why_not_on_current_device(self) -> str:
        self.asked += 1
        return "no kernel image is available"


def test_kernels_that_a_device_cannot_load_are_replaced_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Unloadable()
    monkeypatch.setattr(device_module, "_cuda", module)
    monkeypatch.setattr(device_module, "_kernels_run_on", cache(device_module._kernels_run_on.__wrapped__))
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not device_module.has_kernels(torch.device("cuda", 1))  # without a device, as for fake tensors
    assert not device_module.has_kernels(torch.device("cpu"))
    assert module.asked == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.warns(RuntimeWarning) as caught:
        used = [device_module.has_kernels(torch.device("cuda", 1)) for _ in range(3)]
    assert used == [False] * 3
    assert [str(warning.message) for warning in caught] == [
        "the CUDA kernels of l2m_fast do not run on cuda:1, and torch operations replace them: no kernel image is available"
    ]
    assert caught[0].filename == __file__
    assert module.asked == 1
