"""Loss sums on CUDA, and a loader that records there."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, class_loss
from l2m_fast.losses.device import DeviceClassLoss
from l2m_fast.losses.sums import ClassSums
from losses.exact_sums import CLASS_TYPES, LOSS_TYPES, check_against_fsum, totals


def watching(values: list[Any], *watched: Any) -> list[Any]:
    """Return the values of a parameter, with some marked for compute-sanitizer."""
    return [pytest.param(value, marks=pytest.mark.kernels if value in watched else ()) for value in values]


def assert_exact(sums: ClassSums, losses: torch.Tensor, classes: torch.Tensor, times: int = 1) -> None:
    """Compare sums and counts of whole numbers, which torch adds exactly too."""
    k = len(sums.sum)
    expected = torch.zeros(k, dtype=torch.float64, device=losses.device).index_add_(0, classes, losses.double())
    assert sums.sum.tolist() == (times * expected).tolist()
    assert sums.count.tolist() == (times * torch.bincount(classes, minlength=k)).tolist()


def whole_numbers(n: int) -> torch.Tensor:
    return (torch.arange(n, device="cuda") % 1021).float()


# All types of both, but not all pairs: a kernel is compiled for each type of losses, and looks up the type of classes.
TYPES = list(zip([*LOSS_TYPES, torch.float32], CLASS_TYPES, strict=True))


@pytest.mark.parametrize(("loss_type", "class_type"), TYPES, ids=str)
@pytest.mark.parametrize("n", watching([0, 1, 31, 1000], 1000))
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cuda", loss_type, class_type, n, 7)


@pytest.mark.parametrize("num_classes", watching([1, 1000, 4096, 4097, 20_000], 1, 4096, 4097))
def test_any_number_of_classes(num_classes: int) -> None:
    check_against_fsum("cuda", torch.float32, torch.int64, 5000, num_classes)


def test_many_classes_and_losses() -> None:
    losses = torch.rand(3_000_000, device="cuda", dtype=torch.float64).round(decimals=3)
    classes = torch.randint(1_000_000, (3_000_000,), device="cuda")
    result = class_loss(losses.float(), classes, 1_000_000)
    expected = class_loss(losses.float().cpu(), classes.cpu(), 1_000_000)
    assert result.sum.tolist() == expected.sum.tolist()
    assert result.count.tolist() == expected.count.tolist()


def test_each_block_may_visit_several_parts_of_the_losses() -> None:
    n = 10_000_000  # 2 blocks on each of 132 multiprocessors visit 16,384 losses at a time, together 4,325,376
    losses, classes = whole_numbers(n), torch.arange(n, device="cuda") % 10
    assert_exact(class_loss(losses, classes, 10), losses, classes)


@pytest.mark.parametrize("num_classes", watching([10, 1000, 5000], 1000, 5000))
def test_one_class_has_all_losses(num_classes: int) -> None:
    losses, classes = whole_numbers(50_000), torch.full((50_000,), num_classes - 1, device="cuda")
    assert_exact(class_loss(losses, classes, num_classes), losses, classes)


@pytest.mark.parametrize("num_classes", watching([7, 5000], 7, 5000))
def test_all_losses_are_skipped(num_classes: int) -> None:
    sums, zeros = totals("cuda", num_classes), torch.zeros(5000, dtype=torch.int64, device="cuda")
    sums.add(torch.full((5000,), torch.nan, device="cuda"), zeros)
    sums.add(torch.ones(5000, device="cuda"), zeros - 1)
    assert sums.not_finite == 5000
    with pytest.raises(ValueError, match="got 5000 out of range, skipped"):
        sums.read()
    assert not sums.sum.any()
    assert not sums.count.any()


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("num_classes", [3, 5000])
def test_the_smallest_losses_are_added_exactly(loss_type: torch.dtype, num_classes: int) -> None:
    finfo = torch.finfo(loss_type)
    smallest = max(finfo.smallest_normal * finfo.eps, 2.0**-149)
    losses = (torch.arange(-500, 1500, dtype=torch.float64) * smallest).to(loss_type)
    sums = class_loss(losses.cuda(), torch.arange(2000) % 3, num_classes).sum
    assert sums[:3].tolist() == [math.fsum(losses[k::3].tolist()) for k in range(3)]
    assert (sums[:3] != 0).all()


def test_two_thousand_adds_leave_no_unfinished_sums() -> None:
    losses, classes = whole_numbers(50_000), torch.arange(50_000, device="cuda") % 100
    sums = totals("cuda", 100)
    for _ in range(2000):  # each finished by the last of several blocks
        sums.add(losses, classes)
    assert_exact(sums.read(), losses, classes, times=2000)
    assert not sums.diagnostics.any()


def test_streams_may_take_turns_adding() -> None:
    losses, classes = whole_numbers(50_000), torch.arange(50_000, device="cuda") % 100
    sums, streams = totals("cuda", 100), [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    for i in range(200):
        with torch.cuda.stream(streams[i % 3]):
            if i % 3 == 0:
                torch.cuda._sleep(100_000)  # this stream lags behind the others
            sums.add(losses, classes)
    with torch.cuda.stream(streams[3]):
        torch.cuda._sleep(10_000_000)
        others = totals("cuda", 100)
        others.add(losses, classes)
    sums.add_sums(others)
    assert_exact(sums.read(), losses, classes, times=201)


def test_the_order_does_not_matter() -> None:
    losses = torch.randn(1_000_000, device="cuda").exp()
    classes = torch.randint(100, (1_000_000,), device="cuda")
    order = torch.randperm(1_000_000, device="cuda")
    sums = [class_loss(losses[rows], classes[rows], 100).sum.tolist() for rows in (slice(None), order)]
    assert sums[0] == sums[1]


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
                loader.record((inputs + 1.1 + 100 * targets).sqrt().to(device))
        proportions.append(loader.proportions)
    assert proportions[0].tolist() == proportions[1].tolist()


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_steps_do_not_block_the_host(
    order: Literal["shuffled", "grouped"], asynchronous: Callable[[], AbstractContextManager[None]]
) -> None:
    classes = np.arange(600) % 5
    losses = torch.ones(50, device="cuda")
    loader = Loader(
        torch.arange(600.0), batch_size=50, classes=classes, mixing=Learn2Mix(), update_every=100, order=order
    )
    batches, zeros = iter(loader), torch.zeros(50, dtype=torch.int64, device="cuda")
    with asynchronous():
        for _ in range(6):
            next(batches)
            loader.record(losses)
            loader.record(losses, zeros)
            loader.record(class_loss(losses, torch.zeros(50, dtype=torch.int32), 5))
    assert loader.state_dict()["window_counts"][0][0] == 6 * (10 + 50 + 50)


def test_invalid_classes_raise_when_the_sums_are_read() -> None:
    loader = Loader(torch.arange(600.0), batch_size=50, classes=np.arange(600) % 5, mixing=Learn2Mix())
    next(iter(loader))
    with pytest.raises(ValueError, match="same shape"):
        loader.record(torch.ones(49, device="cuda"))
    with pytest.raises(TypeError, match="float16"):
        loader.record(torch.ones(50, device="cuda", dtype=torch.int64))
    with pytest.raises(TypeError, match="integers"):
        loader.record(torch.ones(50, device="cuda"), torch.ones(50))
    with pytest.raises(ValueError, match="both losses and classes on a CUDA device"):
        class_loss(torch.ones(5), torch.zeros(5, dtype=torch.int64, device="cuda"), 2)
    assert loader.state_dict()["window_counts"][0] == [0] * 5
    loader.record(torch.ones(2, device="cuda"), torch.tensor([5, 0], device="cuda"))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 5\) \(got 1 out of range, skipped, on cuda:0\)"):
        loader.state_dict()
    assert loader.state_dict()["window_counts"][0] == [1, 0, 0, 0, 0]


def test_sums_on_the_device_are_sums() -> None:
    result = class_loss(torch.tensor([1.0, 2.0], device="cuda"), torch.tensor([1, 1]), 3)
    assert isinstance(result, DeviceClassLoss)
    total, count = result
    assert (total.tolist(), count.tolist()) == ([0, 3, 0], [0, 2, 0])


def test_losses_on_a_device_that_is_not_the_current_one(second_device: str) -> None:
    check_against_fsum(second_device, torch.float32, torch.int64, 1000, 7)
    y = torch.arange(600) % 5
    loader = Loader(y, batch_size=50, classes=y, mixing=Learn2Mix(), order="grouped", steps_per_epoch=4)
    for _, device in zip(loader, (second_device, "cuda:0", "cpu", second_device), strict=True):
        loader.record(torch.ones(50, device=device))
        loader.record(torch.ones(50, device=device), torch.zeros(50, dtype=torch.int64, device=device))
    assert loader.history[0]["counts"].tolist() == [240, 40, 40, 40, 40]
