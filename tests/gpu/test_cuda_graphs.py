"""Capture in CUDA graphs, and replay with other data.

These tests have their own file, and therefore process, because a failed capture may leave torch's allocator unusable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from l2m_fast import class_loss, cross_entropy
from l2m_fast.losses.device import DeviceClassLoss
from losses.cross_entropy_cases import case

Result = TypeVar("Result")


def capture(work: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture a call, after two calls on another stream as torch recommends."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


def draw(losses: torch.Tensor, classes: torch.Tensor, num_classes: int) -> None:
    """Replace losses and classes in place."""
    losses.copy_(torch.rand_like(losses))
    classes.copy_(torch.randint_like(classes, num_classes))


@pytest.mark.parametrize("num_classes", [10, 5000])
def test_class_loss_is_replayed(num_classes: int) -> None:
    losses, classes = torch.zeros(20_000, device="cuda"), torch.zeros(20_000, dtype=torch.int64, device="cuda")
    graph, sums = capture(lambda: class_loss(losses, classes, num_classes))
    for _ in range(3):
        draw(losses, classes, num_classes)
        graph.replay()
        expected = class_loss(losses, classes, num_classes)
        assert sums.sum.tolist() == expected.sum.tolist()
        assert sums.count.tolist() == expected.count.tolist()


def test_adding_to_existing_sums_is_replayed() -> None:
    losses, classes = torch.ones(20_000, device="cuda"), torch.zeros(20_000, dtype=torch.int64, device="cuda")
    sums = DeviceClassLoss(10, torch.device("cuda"))
    graph, _ = capture(lambda: sums.add(losses, classes))
    for _ in range(3):
        graph.replay()
    sums.add(losses, classes)
    assert sums.sum[0] == sums.count[0] == 20_000 * (2 + 3 + 1)


@pytest.mark.parametrize("columns", [10, 1000])
def test_cross_entropy_and_its_gradient_are_replayed(columns: int) -> None:
    logits = torch.zeros(200, columns, device="cuda", requires_grad=True)
    targets = torch.zeros(200, dtype=torch.int64, device="cuda")

    def step() -> tuple[torch.Tensor, torch.Tensor, Any]:
        loss, sums = cross_entropy(logits, targets, columns, label_smoothing=0.1)
        return loss, torch.autograd.grad(loss, logits)[0], sums

    graph, (loss, gradient, sums) = capture(step)
    for scale in (1.0, 2.0, 3.0):
        new_logits, new_targets = case(200, columns, scale=scale)
        logits.detach().copy_(new_logits.detach())
        targets.copy_(new_targets)
        graph.replay()
        expected_loss, expected_gradient, expected_sums = step()
        assert torch.equal(loss, expected_loss)
        assert torch.equal(gradient, expected_gradient)
        assert sums.sum.tolist() == expected_sums.sum.tolist()
        assert sums.count.tolist() == expected_sums.count.tolist()
