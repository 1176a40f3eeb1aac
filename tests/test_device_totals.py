"""Loss sums on a device: exact, and so the same in any order. The CPU twin here; tests/gpu has the same on CUDA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from l2m_fast.class_loss import ClassLoss, LossWindow
from l2m_fast.device_totals import DeviceTotals

NUM_CLASSES = 7
LOSS_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CLASS_TYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


def totals(device: str, num_classes: int = NUM_CLASSES) -> DeviceTotals:
    initial = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
    return DeviceTotals(initial, torch.device(device))


def check_against_fsum(device: str, loss_type: torch.dtype, class_type: torch.dtype, n: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(n)
    losses = torch.exp(6 * torch.randn(n, generator=generator, dtype=torch.float64)).clamp(max=6e4).to(loss_type)
    losses *= torch.randint(0, 2, (n,), generator=generator) * 2 - 1
    classes = torch.randint(num_classes, (n,), generator=generator).to(class_type)
    losses[::97] = math.nan
    classes[5::101] = -1 if class_type.is_signed else 200
    sums = totals(device, num_classes)
    for half in (slice(n // 2), slice(n // 2, None)):
        sums.add(losses[half].to(device), classes[half].to(device))
    result, out_of_range, not_finite = sums.read()

    wrong = (classes < 0) | (classes >= num_classes)
    finite = losses.isfinite()
    assert (out_of_range, not_finite) == (int(wrong.sum()), int((~wrong & ~finite).sum()))
    for k in range(num_classes):
        halves = []
        for half in (slice(n // 2), slice(n // 2, None)):
            of_class = losses[half][(classes[half] == k) & finite[half]].double()
            halves.append(math.fsum(of_class.tolist()))
        assert result.sum[k] == halves[0] + halves[1]
    assert result.count.tolist() == [int(((classes == k) & finite).sum()) for k in range(num_classes)]


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("class_type", CLASS_TYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 1000, 40_000])
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cpu", loss_type, class_type, n, NUM_CLASSES)


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
def test_torch_alone_gives_the_same_but_for_rounding(loss_type: torch.dtype) -> None:
    losses = torch.linspace(-1, 9, 5000).to(loss_type)
    losses[::100] = math.inf
    classes = torch.arange(5000) % (NUM_CLASSES + 2) - 1
    exact, rounded = totals("cpu"), totals("cpu")
    exact.add(losses, classes)
    rounded._add_by_torch(losses, classes)
    (expected, *skipped), (result, *skipped_too) = exact.read(), rounded.read()
    assert skipped == skipped_too
    assert result.count.tolist() == expected.count.tolist()
    np.testing.assert_allclose(result.sum, expected.sum, rtol=1e-13)


# ---- a window of losses that are on a device


def window() -> LossWindow:
    return LossWindow(np.full(NUM_CLASSES, 10))


def test_a_window_goes_on_wherever_the_losses_are() -> None:
    rng = np.random.default_rng(0)
    here, there = window(), window()
    for step in range(6):
        losses, classes = rng.random(50), rng.integers(0, NUM_CLASSES, 50)
        here.add(losses, classes, 0)
        if step == 3:
            there.add(losses, classes, 0)
        else:
            there.add_on_device(torch.from_numpy(losses), torch.from_numpy(classes))
        assert there.pending.count.tolist() == here.pending.count.tolist()
        np.testing.assert_allclose(there.pending.sum, here.pending.sum, rtol=1e-14)
    assert there.pending.count.sum() == 300


def test_reading_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    read, left = window(), window()
    for _ in range(5):
        losses, classes = torch.from_numpy(rng.random(50)), torch.from_numpy(rng.integers(0, NUM_CLASSES, 50))
        for one in (read, left):
            one.add_on_device(losses, classes)
        _ = read.pending
    assert read.pending.sum.tolist() == left.pending.sum.tolist()


def test_what_is_wrong_on_the_device_is_said_where_the_sums_are_read() -> None:
    some = window()
    some.add_on_device(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]))
    with pytest.warns(RuntimeWarning, match="not finite"):
        assert some.pending.count.sum() == 1
    some.add_on_device(torch.tensor([1.0, 2.0]), torch.tensor([7, 0]))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 7\) \(got 1 others, left out, on cpu\)"):
        _ = some.pending
    assert some.pending.sum.tolist() == [3, 0, 0, 0, 0, 0, 0]
