"""The operators of operators.py by kernels of this package, on a CUDA device."""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_fast._build_info import _cuda
from l2m_fast.losses.device import DeviceClassLoss, name_of


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    weight: Tensor | None,
    num_classes: int,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Waits for nothing."""
    logits, targets, classes, weight = _contiguous(logits, targets, classes, weight)
    sums = DeviceClassLoss(num_classes, logits.device)
    loss = logits.new_empty(())
    shapes = ((len(targets),), (len(targets),), (), (_cuda.PARTIALS,))
    log_sum_exp, losses, total_weight, partials = (logits.new_empty(shape, dtype=torch.float64) for shape in shapes)
    with torch.cuda.device(logits.device):
        _cuda.cross_entropy(
            *_given(logits, targets, weight, ignore_index, label_smoothing),
            (
                log_sum_exp.data_ptr(),
                losses.data_ptr(),
                loss.data_ptr(),
                total_weight.data_ptr(),
                sums.counters,
                partials.data_ptr(),
            ),
            classes.data_ptr(),
            classes.element_size(),
            classes.dtype.is_signed,
            sums.totals,
            torch.cuda.current_stream().cuda_stream,
        )
    return loss, sums.words, log_sum_exp, total_weight


def cross_entropy_gradient(
    of_loss: Tensor,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    log_sum_exp: Tensor,
    total_weight: Tensor,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Waits for nothing."""
    logits, targets, log_sum_exp, weight = _contiguous(logits, targets, log_sum_exp, weight)
    gradient = torch.empty_like(logits)
    with torch.cuda.device(logits.device):
        _cuda.cross_entropy_gradient(
            *_given(logits, targets, weight, ignore_index, label_smoothing),
            log_sum_exp.data_ptr(),
            total_weight.data_ptr(),
            of_loss.contiguous().data_ptr(),
            gradient.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return gradient


def _contiguous(
    logits: Tensor, one: Tensor, other: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    weight = None if weight is None else weight.contiguous()
    return logits.detach().contiguous(), one.contiguous(), other.contiguous(), weight


def _given(
    logits: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[int, str, tuple[int, int, int, int, int, float]]:
    """What both kernels are told first: where the logits are, their type, and what makes losses of them."""
    of_weight = 0 if weight is None else weight.data_ptr()
    shape = len(targets), logits.shape[1]
    made_of = (targets.data_ptr(), *shape, of_weight, ignore_index, label_smoothing)
    return logits.data_ptr(), name_of(logits.dtype), made_of
