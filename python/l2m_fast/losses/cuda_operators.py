"""CUDA implementations of the operators in operators.py, by the kernels of this package."""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_fast._build_info import _cuda
from l2m_fast.losses.device import DeviceClassLoss, dtype_name, loss_dtype, num_words


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    weight: Tensor | None,
    offsets: Tensor | None,
    num_classes: int,
    ignore_index: int,
    label_smoothing: float,
    wide_loss: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the loss and the class sums without blocking the host."""
    logits, targets, classes = (tensor.contiguous() for tensor in (logits.detach(), targets, classes))
    weight, offsets = _contiguous(weight), _contiguous(offsets)
    with torch.inference_mode(False):  # otherwise the words could not be modified in another mode
        words = torch.empty(num_words(num_classes), dtype=torch.int64, device=logits.device)
    sums = DeviceClassLoss(num_classes, logits.device, words)
    loss = logits.new_empty((), dtype=loss_dtype(logits.dtype, wide=wide_loss))
    shapes = ((len(targets),), (), (len(targets) + _cuda.PARTIALS,))
    log_sum_exp, total_weight, scratch = (logits.new_empty(shape, dtype=torch.float64) for shape in shapes)
    losses, partials = scratch.split((len(targets), _cuda.PARTIALS))
    with torch.cuda.device(logits.device):
        _cuda.cross_entropy(
            *_common_arguments(logits, targets, weight, offsets, ignore_index, label_smoothing),
            (
                log_sum_exp.data_ptr(),
                losses.data_ptr(),
                loss.data_ptr(),
                dtype_name(loss.dtype),
                total_weight.data_ptr(),
                sums.invalid_targets,
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
    grad_loss: Tensor,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    offsets: Tensor | None,
    log_sum_exp: Tensor,
    total_weight: Tensor,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Compute the gradient without blocking the host."""
    logits, targets, log_sum_exp = (tensor.contiguous() for tensor in (logits.detach(), targets, log_sum_exp))
    weight, offsets = _contiguous(weight), _contiguous(offsets)
    gradient = torch.empty_like(logits)
    with torch.cuda.device(logits.device):
        _cuda.cross_entropy_gradient(
            *_common_arguments(logits, targets, weight, offsets, ignore_index, label_smoothing),
            log_sum_exp.data_ptr(),
            total_weight.data_ptr(),
            grad_loss.contiguous().data_ptr(),
            dtype_name(grad_loss.dtype),
            gradient.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return gradient


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _common_arguments(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    offsets: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[int, str, tuple[int, int, int, int, int, float, int]]:
    """Return the first arguments of both kernels: address and dtype of the logits, and targets with their options."""
    weight_address, offsets_address = (0 if tensor is None else tensor.data_ptr() for tensor in (weight, offsets))
    shape = len(targets), logits.shape[1]
    target_arguments = (targets.data_ptr(), *shape, weight_address, ignore_index, label_smoothing, offsets_address)
    return logits.data_ptr(), dtype_name(logits.dtype), target_arguments
