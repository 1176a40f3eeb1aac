"""Cross entropy on CUDA compared with the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from l2m_fast import Learn2Mix, Loader, cross_entropy
from losses.cross_entropy_cases import DTYPES, case, gradient_of


def both(
    logits: torch.Tensor, targets: torch.Tensor, num_classes: int, device: str = "cuda", **options: Any
) -> list[tuple[Any, Any, Any]]:
    """Return loss, gradient and sums on the CPU and on a device."""
    results = []
    for place in ("cpu", device):
        on_place = logits.detach().to(place).requires_grad_()
        moved: dict[str, Any] = {name: x.to(place) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
        loss, sums = cross_entropy(on_place, targets.to(place), num_classes, **moved)
        results.append((loss.detach().cpu(), gradient_of(loss, on_place).cpu(), sums))
    return results


def check(logits: torch.Tensor, targets: torch.Tensor, num_classes: int, **options: Any) -> None:
    (loss, gradient, sums), (loss_there, gradient_there, sums_there) = both(logits, targets, num_classes, **options)
    torch.testing.assert_close(loss_there, loss, equal_nan=True)
    torch.testing.assert_close(gradient_there, gradient, equal_nan=True)
    np.testing.assert_allclose(sums_there.sum, sums.sum, rtol=1e-5, atol=1e-6)
    assert sums_there.count.tolist() == sums.count.tolist()


SHAPES = [(0, 3), (1, 1), (7, 5), (300, 10), (33, 8), (200, 1000), (3, 20_011)]


def cases() -> list[Any]:
    """Return all combinations of options, with a few that cover most of the kernels marked for compute-sanitizer."""
    watched = {(dtype, shape, True, 0.1) for dtype in (torch.bfloat16, torch.float32) for shape in SHAPES[-4:]}
    every = itertools.product(DTYPES, SHAPES, (False, True), (0.0, 0.1, 1.0))
    return [pytest.param(*one, marks=pytest.mark.kernels if one in watched else ()) for one in every]


@pytest.mark.parametrize(("dtype", "shape", "weighted", "label_smoothing"), cases(), ids=str)
def test_it_equals_that_of_the_cpu(
    dtype: torch.dtype, shape: tuple[int, int], weighted: bool, label_smoothing: float
) -> None:
    logits, targets = case(*shape, dtype)
    columns = shape[1]
    options: dict[str, Any] = {"label_smoothing": label_smoothing}
    if weighted:
        options |= {"weight": torch.linspace(0.5, 2, columns), "offsets": torch.linspace(1, -2, columns)}
    check(logits, targets, columns, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_mean_is_float32(dtype: torch.dtype) -> None:
    logits, targets = case(300, 10, dtype)
    logits, targets = logits.detach().cuda().requires_grad_(), targets.cuda()
    with torch.autocast("cuda", dtype=dtype):
        loss, _ = cross_entropy(logits, targets, 10)
        expected = functional.cross_entropy(logits, targets)
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss * 1234.567, logits), gradient_of(expected * 1234.567, logits))


def test_many_rows() -> None:
    logits, targets = case(70_000, 10)
    check(logits, targets, 10)


@pytest.mark.kernels
def test_rows_that_are_ignored_or_non_finite() -> None:
    logits, targets = case(50, 6)
    targets[::3] = -100
    check(logits, targets, 6, classes=torch.arange(50) % 6)
    with torch.no_grad():
        logits[1, 2] = -torch.inf
        logits[7, 3] = torch.nan
    check(logits, targets, 6)
    check(logits, torch.full_like(targets, -100), 6)


@pytest.mark.kernels
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "weight", [[1.0, 2.0, 1.0, torch.inf], [torch.nan, 2.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]], ids=str
)
def test_weights_that_are_non_finite_or_0(weight: list[float], label_smoothing: float) -> None:
    logits, targets = case(50, 4)
    targets = targets % 2 + 1
    targets[::3] = -100
    check(logits, targets, 4, weight=torch.tensor(weight), label_smoothing=label_smoothing)


def test_a_second_derivative_equals_that_of_the_cpu() -> None:
    results = []
    for device in ("cpu", "cuda"):
        logits, targets = (x.detach().to(device) for x in case(20, 5, torch.float64))
        results.append(torch.autograd.functional.hessian(lambda x, t=targets: cross_entropy(x, t, 5)[0], logits).cpu())
    torch.testing.assert_close(*results)


def test_a_second_derivative_of_a_target_out_of_range_triggers_no_assertion() -> None:
    logits, targets = torch.randn(4, 3, device="cuda", requires_grad=True), torch.tensor([0, 3, 1, 2], device="cuda")
    loss, _ = cross_entropy(logits, targets, 3)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    torch.autograd.grad(gradient.sum(), logits)
    torch.cuda.synchronize()
    assert loss.isnan()


def test_the_same_bits_every_time() -> None:
    logits, targets = case(5000, 100, torch.bfloat16)
    (_, _, _), one = both(logits, targets, 100)
    (_, _, _), other = both(logits, targets, 100)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[2].sum.tolist() == other[2].sum.tolist()


def test_targets_out_of_range_raise_when_the_sums_are_read() -> None:
    logits, targets = torch.randn(4, 3, device="cuda"), torch.tensor([0, 3, 1, 2], device="cuda")
    loss, sums = cross_entropy(logits, targets, 2)
    assert loss.isnan()
    with pytest.raises(ValueError, match=r"classes must be in \[0, 2\)"):
        _ = sums.sum
    with pytest.raises(ValueError, match="targets must be columns"):
        _ = sums.sum
    assert sums.count.tolist() == [1, 1]
    with pytest.raises(ValueError, match="on the device of logits"):
        cross_entropy(logits, targets.cpu(), 2)


def test_steps_do_not_block_the_host(asynchronous: Callable[[], AbstractContextManager[None]]) -> None:
    x, y = torch.randn(64, 3), torch.arange(64) % 4
    loader = Loader((x, y), batch_size=8, classes=y, mixing=Learn2Mix(), num_threads=0)
    linear = torch.nn.Linear(3, 4).cuda()
    inputs, targets = torch.randn(8, 3, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    batches = iter(loader)
    with asynchronous():
        for _ in range(5):
            next(batches)
            loss, sums = cross_entropy(linear(inputs), targets, 4)
            loader.record(sums)
            loss.backward()
    assert loader.state_dict()["window_counts"][0] == [40, 0, 0, 0]


def test_compile_traces_through_it_in_one_graph() -> None:
    def step(logits: torch.Tensor, targets: torch.Tensor) -> Any:
        return cross_entropy(logits * 2, targets, 5, label_smoothing=0.1)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    logits, targets = (x.cuda() for x in case(9, 5))
    (loss, sums), (expected, expected_sums) = compiled(logits, targets), step(logits, targets)
    assert torch.equal(loss, expected)
    assert sums.sum.tolist() == expected_sums.sum.tolist()


def test_logits_on_a_device_that_is_not_the_current_one(second_device: str) -> None:
    check(*case(50, 6), 6, device=second_device, weight=torch.linspace(0.5, 2, 6))
