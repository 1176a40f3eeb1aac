"""Sums of losses on a device, compared with exact sums. On the CPU, the reference implementation replaces the kernel."""

from __future__ import annotations

import math

import pytest
import torch

from l2m_fast.losses import device as device_losses
from l2m_fast.losses.device import DeviceClassLoss
from l2m_fast.losses.sums import num_host_words

NUM_CLASSES = 7
LOSS_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CLASS_TYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


class Twin(DeviceClassLoss):
    """Sums on the CPU, by the reference implementation of the kernel."""

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        import _testing  # imported here, because tests/gpu imports this file without that module

        bits = losses.view(torch.int16) if losses.dtype == torch.bfloat16 else losses
        words = self.words[: num_host_words(self.num_classes)]
        _testing.add_exact_class_loss(bits.numpy(), classes.numpy(), words.numpy(), self.diagnostics[:2].numpy())


def totals(device: str, num_classes: int = NUM_CLASSES) -> DeviceClassLoss:
    """Return empty sums, by the kernel on a device with kernels and by its reference implementation otherwise."""
    place = torch.device(device)
    return (DeviceClassLoss if device_losses.has_kernels(place) else Twin)(num_classes, place)


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

    wrong = (classes < 0) | (classes >= num_classes)
    finite = losses.isfinite()
    assert sums.not_finite == int((~wrong & ~finite).sum())
    if wrong.any():
        with pytest.raises(ValueError, match=f"got {int(wrong.sum())} out of range, skipped, on {device}"):
            sums.read()
    result = sums.read()
    for k in range(num_classes):
        assert result.sum[k] == math.fsum(losses[(classes == k) & finite].double().tolist())
    assert result.count.tolist() == [int(((classes == k) & finite).sum()) for k in range(num_classes)]
