"""Loss sums on CUDA, and a loader that records there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, build_info
from test_device_class_loss import CLASS_TYPES, LOSS_TYPES, check_against_fsum, totals

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use"),
    pytest.mark.skipif(not build_info()["cuda_usable"], reason="the package was built without CUDA"),
]


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("class_type", CLASS_TYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 31, 1000, 40_000])
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cuda", loss_type, class_type, n, 7)


@pytest.mark.parametrize("num_classes", [1, 1000, 5000, 20_000])
def test_any_number_of_classes(num_classes: int) -> None:
    check_against_fsum("cuda", torch.float32, torch.int64, 200_000, num_classes)


def test_the_order_does_not_matter() -> None:
    losses = torch.randn(1_000_000, device="cuda").exp()
    classes = torch.randint(100, (1_000_000,), device="cuda")
    order = torch.randperm(1_000_000, device="cuda")
    sums = []
    for permuted in (slice(None), order):
        one = totals("cuda", 100)
        one.add(losses[permuted], classes[permuted])
        sums.append(one.sum.tolist())
    assert sums[0] == sums[1]


def test_a_loader_follows_losses_on_the_device() -> None:
    x, y = torch.arange(600.0), torch.arange(600) % 5
    proportions = []
    for device in ("cpu", "cuda"):
        loader = Loader((x, y), batch_size=50, classes=y, mixing=Learn2Mix(0.5), update_every=3, seed=1)
        for inputs, targets in loader:
            loader.record((inputs + 1 + 100 * targets).to(device))
        proportions.append(loader.proportions)
    np.testing.assert_allclose(proportions[0], proportions[1], rtol=1e-12)


def test_recording_waits_for_nothing() -> None:
    loader = Loader(torch.arange(600.0), batch_size=50, classes=np.arange(600) % 5, mixing=Learn2Mix())
    batches = iter(loader)
    loader.record(next(batches).cuda())
    torch.cuda.set_sync_debug_mode("error")
    try:
        loader.record(torch.ones(50, device="cuda"), torch.zeros(50, dtype=torch.int64, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_wrong_losses_are_refused() -> None:
    loader = Loader(torch.arange(600.0), batch_size=50, classes=np.arange(600) % 5, mixing=Learn2Mix())
    next(iter(loader))
    with pytest.raises(ValueError, match="one dimension"):
        loader.record(torch.ones(49, device="cuda"))
    with pytest.raises(TypeError, match="float16"):
        loader.record(torch.ones(50, device="cuda", dtype=torch.int64))
    with pytest.raises(TypeError, match="integers"):
        loader.record(torch.ones(50, device="cuda"), torch.ones(50))
    assert loader.state_dict()["window_count"] == [0] * 5
