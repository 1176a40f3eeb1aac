"""The custom operators behind `cross_entropy`. Imported at its first call, for it imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from l2m_fast import _core

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(
    "l2m_fast::cross_entropy",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor classes, Tensor? weight, int num_classes, int ignore_index, "
    "float label_smoothing) -> (Tensor loss, Tensor sum, Tensor count, Tensor log_sum_exp, Tensor total_weight)",
)
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    weight: Tensor | None,
    num_classes: int,
    ignore_index: int,
    label_smoothing: float,
) -> Outputs:
    """On any device, from torch's operations."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    kept = targets != ignore_index
    of_column = None if weight is None else weight.to(wide.dtype)
    losses = functional.cross_entropy(
        wide, targets, of_column, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    ).double()
    if weight is None:
        total_weight = kept.sum(dtype=torch.float64)
    else:
        total_weight = weight[torch.where(kept, targets, 0)].mul(kept).sum()
    if (kept & ((classes < 0) | (classes >= num_classes))).any():
        msg = f"classes must be in [0, {num_classes})"
        raise ValueError(msg)
    recorded = kept & losses.isfinite()
    of_class = torch.where(recorded, classes, 0)
    total = losses.new_zeros(num_classes).index_add_(0, of_class, torch.where(recorded, losses, 0.0))
    count = targets.new_zeros(num_classes).index_add_(0, of_class, recorded.long())
    log_sum_exp = torch.where(kept, wide.logsumexp(1).double(), 0.0)
    return (losses.sum() / total_weight).to(logits.dtype), total, count, log_sum_exp, total_weight


@cross_entropy.register_kernel("cpu")
def _(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    weight: Tensor | None,
    num_classes: int,
    ignore_index: int,
    label_smoothing: float,
) -> Outputs:
    total, count = torch.zeros(num_classes, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.int64)
    log_sum_exp = torch.empty(len(targets), dtype=torch.float64)
    loss, total_weight = _core.cross_entropy(
        _array(logits),
        _array(targets),
        _array(classes),
        None if weight is None else _array(weight),
        ignore_index,
        label_smoothing,
        log_sum_exp.numpy(),
        total.numpy(),
        count.numpy(),
        _core.usable_cpus(),
    )
    return (
        torch.tensor(loss, dtype=logits.dtype),
        total,
        count,
        log_sum_exp,
        torch.tensor(total_weight, dtype=torch.float64),
    )


@cross_entropy.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,  # noqa: ARG001
    weight: Tensor | None,  # noqa: ARG001
    num_classes: int,
    ignore_index: int,  # noqa: ARG001
    label_smoothing: float,  # noqa: ARG001
) -> Outputs:
    total, log_sum_exp, total_weight = (
        logits.new_empty(shape, dtype=torch.float64) for shape in ((num_classes,), (len(targets),), ())
    )
    return logits.new_empty(()), total, targets.new_empty(num_classes), log_sum_exp, total_weight


@torch.library.custom_op(
    "l2m_fast::cross_entropy_gradient",
    mutates_args=(),
    schema="(Tensor of_loss, Tensor logits, Tensor targets, Tensor? weight, Tensor log_sum_exp, Tensor total_weight, "
    "int ignore_index, float label_smoothing) -> Tensor",
)
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
    """On any device, from torch's operations."""
    kept = targets != ignore_index
    column = torch.where(kept, targets, 0)
    weights = logits.new_ones(logits.shape[1], dtype=torch.float64) if weight is None else weight
    of_target = (1 - label_smoothing) * weights[column]
    of_column = label_smoothing / logits.shape[1] * weights
    gradient = (logits.double() - log_sum_exp[:, None]).exp_() * (of_target + of_column.sum())[:, None] - of_column
    gradient.scatter_add_(1, column[:, None], -of_target[:, None])
    return torch.where(kept[:, None], gradient * (of_loss / total_weight), 0.0).to(logits.dtype)


@cross_entropy_gradient.register_kernel("cpu")
def _(
    of_loss: Tensor,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    log_sum_exp: Tensor,
    total_weight: Tensor,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    gradient = torch.empty(logits.shape, dtype=logits.dtype)
    _core.cross_entropy_gradient(
        _array(logits),
        _array(targets),
        None if weight is None else _array(weight),
        ignore_index,
        label_smoothing,
        _array(log_sum_exp),
        float(of_loss.double() / total_weight),
        _array(gradient),
        _core.usable_cpus(),
    )
    return gradient


@cross_entropy_gradient.register_fake
def _(of_loss: Tensor, logits: Tensor, *_: object) -> Tensor:  # noqa: ARG001
    return logits.new_empty(logits.shape)


def _array(tensor: Tensor) -> Any:
    """The memory of a tensor, copied where it is not contiguous; bfloat16, which numpy lacks, as the int16 of its bits."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    logits, targets, _, weight, _, ctx.ignore_index, ctx.label_smoothing = inputs
    _, *unfollowed, log_sum_exp, total_weight = output
    ctx.save_for_backward(logits, targets, weight, log_sum_exp, total_weight)
    ctx.mark_non_differentiable(*unfollowed, log_sum_exp, total_weight)


def _backward(ctx: Any, of_loss: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    gradient = cross_entropy_gradient(of_loss, *ctx.saved_tensors, ctx.ignore_index, ctx.label_smoothing)
    return gradient, None, None, None, None, None, None


cross_entropy.register_autograd(_backward, setup_context=_setup_context)
