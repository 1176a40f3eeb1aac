"""Loss sums on CUDA, and a loader that records there."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, class_loss
from l2m_fast.device_class_loss import DeviceClassLoss
from test_device_class_loss import CLASS_TYPES, LOSS_TYPES, check_against_fsum, totals


@pytest.mark.kernels
@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("class_type", CLASS_TYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 31, 1000])
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cuda", loss_type, class_type, n, 7)


@pytest.mark.kernels
@pytest.mark.parametrize("num_classes", [1, 1000, 4096, 4097, 20_000])
def test_any_number_of_classes(num_classes: int) -> None:
    check_against_fsum("cuda", torch.float32, torch.int64, 20_000, num_classes)


def test_many_classes_and_losses() -> None:
    losses = torch.rand(3_000_000, device="cuda", dtype=torch.float64).round(decimals=3)
    classes = torch.randint(1_000_000, (3_000_000,), device="cuda")
    result = class_loss(losses.float(), classes, 1_000_000)
    expected = class_loss(losses.float().cpu(), classes.cpu(), 1_000_000)
    np.testing.assert_allclose(result.sum, expected.sum, rtol=1e-14)
    assert result.count.tolist() == expected.count.tolist()


def test_the_order_does_not_matter() -> None:
    losses = torch.randn(1_000_000, device="cuda").exp()
    classes = torch.randint(100, (1_000_000,), device="cuda")
    order = torch.randperm(1_000_000, device="cuda")
    sums = [class_loss(losses[rows], classes[rows], 100).sum.tolist() for rows in (slice(None), order)]
    assert sums[0] == sums[1]


@pytest.mark.kernels
@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
def test_grouped_losses(loss_type: torch.dtype) -> None:
    classes = np.sort(np.random.default_rng(0).integers(0, 50, 3000)).astype(np.int32)
    losses = torch.rand(3000, device="cuda").to(loss_type)
    losses[::100] = torch.nan
    runs = []
    for _ in range(2):
        by_class, by_id = totals("cuda", 50), totals("cuda", 50)
        by_class.add_grouped(losses, classes)
        by_id.add(losses, torch.from_numpy(classes))
        np.testing.assert_allclose(by_class.sum, by_id.sum, rtol=1e-14)
        assert by_class.count.tolist() == by_id.count.tolist()
        assert by_class.not_finite == by_id.not_finite == 30
        runs.append(by_class.sum.tolist())
    assert runs[0] == runs[1]


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
@pytest.mark.parametrize("update_every", [None, 3])
def test_a_loader_follows_losses_on_the_device(order: Literal["shuffled", "grouped"], update_every: int | None) -> None:
    x, y = torch.arange(600.0), torch.arange(600) % 5
    proportions = []
    for device in ("cpu", "cuda"):
        loader = Loader(
            (x, y), batch_size=50, classes=y, mixing=Learn2Mix(0.5), update_every=update_every, seed=1, order=order
        )
        for _ in range(2):
            for inputs, targets in loader:
                loader.record((inputs + 1 + 100 * targets).to(device))
        proportions.append(loader.proportions)
    np.testing.assert_allclose(proportions[0], proportions[1], rtol=1e-12)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_steps_wait_for_nothing(order: Literal["shuffled", "grouped"]) -> None:
    classes = np.arange(600) % 5
    losses = torch.ones(50, device="cuda")
    loader = Loader(
        torch.arange(600.0), batch_size=50, classes=classes, mixing=Learn2Mix(), update_every=100, order=order
    )
    for step, _ in enumerate(loader):
        loader.record(losses)
        loader.record(losses, torch.zeros(50, dtype=torch.int64, device="cuda"))
        loader.record(class_loss(losses, torch.zeros(50, dtype=torch.int32), 5))
        if step == 5:
            break
    torch.cuda.set_sync_debug_mode("default")
    assert loader.state_dict()["window_count"][0] == 6 * (10 + 50 + 50)


def test_what_is_wrong_is_said() -> None:
    loader = Loader(torch.arange(600.0), batch_size=50, classes=np.arange(600) % 5, mixing=Learn2Mix())
    next(iter(loader))
    with pytest.raises(ValueError, match="one dimension"):
        loader.record(torch.ones(49, device="cuda"))
    with pytest.raises(TypeError, match="float16"):
        loader.record(torch.ones(50, device="cuda", dtype=torch.int64))
    with pytest.raises(TypeError, match="integers"):
        loader.record(torch.ones(50, device="cuda"), torch.ones(50))
    with pytest.raises(ValueError, match="both losses and classes on a CUDA device"):
        class_loss(torch.ones(5), torch.zeros(5, dtype=torch.int64, device="cuda"), 2)
    assert loader.state_dict()["window_count"] == [0] * 5
    loader.record(torch.ones(2, device="cuda"), torch.tensor([5, 0], device="cuda"))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 5\) \(got 1 others, left out, on cuda:0\)"):
        loader.state_dict()
    assert loader.state_dict()["window_count"] == [1, 0, 0, 0, 0]


def test_sums_on_the_device_are_sums() -> None:
    result = class_loss(torch.tensor([1.0, 2.0], device="cuda"), torch.tensor([1, 1]), 3)
    assert isinstance(result, DeviceClassLoss)
    total, count = result
    assert (total.tolist(), count.tolist()) == ([0, 3, 0], [0, 2, 0])
