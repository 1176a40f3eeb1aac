"""Arguments of `cross_entropy` and of its operators, for tests on the CPU and on a device."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def case(n: int, columns: int, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(n * 1000 + columns)
    logits = (torch.randn(n, columns, generator=generator) * scale).to(dtype).requires_grad_()
    return logits, torch.randint(columns, (n,), generator=generator)


def gradient_of(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss * 3, logits)
    return gradient


def arguments(dtype: torch.dtype, weighted: bool) -> tuple[Any, ...]:
    """Return the arguments of the operator `cross_entropy`, with weights and offsets, or without both."""
    logits, targets = case(12, 5, dtype)
    targets[3] = -100
    weight, offsets = (
        (torch.linspace(0.5, 2, 5).double(), torch.linspace(-1, 3, 5).double()) if weighted else (None, None)
    )
    return logits, targets, torch.arange(12) % 4, weight, offsets, 4, -100, 0.1
