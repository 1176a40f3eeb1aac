"""The custom operators behind `cross_entropy`. Imported at its first call, for it imports torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from l2m_fast import _core
from l2m_fast._build_info import cuda_usable
from l2m_fast.losses.device import TARGETS, DeviceClassLoss, num_words

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(
    "l2m_fast::cross_entropy",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor classes, Tensor? weight, int num_classes, int ignore_index, "
    "float label_smoothing) -> (Tensor loss, Tensor words, Tensor log_sum_exp, Tensor total_weight)",
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
    losses, total_weight = _losses_by_torch(logits, targets, weight, ignore_index, label_smoothing)
    kept, wrong, _ = _columns(logits, targets, ignore_index)
    sums = DeviceClassLoss(num_classes, logits.device)
    # What is ignored is added to class 0 as a loss of infinity, which counts as not finite: there may be no waiting.
    sums.add_by_torch(torch.where(kept, losses, math.inf), torch.where(kept, classes, 0))
    sums.words[2 * num_classes + 1] -= (~kept).sum()
    sums.words[2 * num_classes + TARGETS] += wrong.sum()
    log_sum_exp = torch.where(kept, _widened(logits).logsumexp(1).double(), 0.0)
    return (losses.sum() / total_weight).to(logits.dtype), sums.words, log_sum_exp, total_weight


def _losses_by_torch(
    logits: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the losses, float64, which torch differentiates any number of times, and their total weight."""
    kept, wrong, column = _columns(logits, targets, ignore_index)
    losses = functional.cross_entropy(
        _widened(logits),
        targets.masked_fill(wrong, ignore_index),  # a target that is no column would stop a device
        None if weight is None else weight.to(_widened(logits).dtype),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    weights = 1.0 if weight is None else weight[column]
    total_weight = torch.where(kept & ~wrong, weights, 0.0).double().sum()
    if label_smoothing > 0:
        total_weight = total_weight.masked_fill(total_weight == 0, math.nan)
    return losses.double().masked_fill(wrong, math.nan), total_weight


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
    words = targets.new_zeros(2 * num_classes)
    log_sum_exp = logits.new_empty(len(targets), dtype=torch.float64)
    loss, total_weight = _core.cross_entropy(
        _array(logits),
        _array(targets),
        _array(classes),
        None if weight is None else _array(weight),
        ignore_index,
        label_smoothing,
        log_sum_exp.numpy(),
        words[:num_classes].view(torch.float64).numpy(),
        words[num_classes:].numpy(),
        _core.usable_cpus(),
    )
    return (
        logits.new_tensor(loss),
        words,
        log_sum_exp,
        logits.new_tensor(total_weight, dtype=torch.float64),
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
    log_sum_exp, total_weight = (logits.new_empty(shape, dtype=torch.float64) for shape in ((targets.shape[0],), ()))
    size = 2 * num_classes if logits.device.type == "cpu" else num_words(num_classes, logits.device)
    return logits.new_empty(()), targets.new_empty(size), log_sum_exp, total_weight


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
    kept, wrong, column = _columns(logits, targets, ignore_index)
    weights = logits.new_ones(logits.shape[1], dtype=torch.float64) if weight is None else weight
    of_target = (1 - label_smoothing) * weights[column]
    # Without smoothing not 0 * weights, which is NaN for a weight that is not finite.
    of_column = label_smoothing / logits.shape[1] * weights if label_smoothing > 0 else torch.zeros_like(weights)
    gradient = (logits.double() - log_sum_exp[:, None]).exp_() * (of_target + of_column.sum())[:, None] - of_column
    gradient.scatter_add_(1, column[:, None], -of_target[:, None])
    gradient = (gradient * (of_loss / total_weight)).masked_fill(wrong[:, None], math.nan)
    return torch.where(kept[:, None], gradient, 0.0).to(logits.dtype).contiguous()


def _columns(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have a loss, of which of them the target is no column, and the columns, 0 where there is none."""
    kept = targets != ignore_index
    is_column = (targets >= 0) & (targets < logits.shape[1])
    return kept, kept & ~is_column, torch.where(kept & is_column, targets, 0)


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
    gradient = logits.new_empty(logits.shape)
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
    _, words, log_sum_exp, total_weight = output
    ctx.save_for_backward(logits, targets, weight, log_sum_exp, total_weight)
    ctx.mark_non_differentiable(words, log_sum_exp, total_weight)


def _backward(ctx: Any, of_loss: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    if not torch.is_grad_enabled():
        gradient = cross_entropy_gradient(of_loss, *ctx.saved_tensors, ctx.ignore_index, ctx.label_smoothing)
    else:  # create_graph=True: the gradient is made of torch's operations, which torch differentiates again
        logits, targets, weight, _, _ = ctx.saved_tensors
        losses, total_weight = _losses_by_torch(logits, targets, weight, ctx.ignore_index, ctx.label_smoothing)
        loss = (losses.sum() / total_weight).to(logits.dtype)
        (gradient,) = torch.autograd.grad(loss, logits, of_loss, create_graph=True)
    return gradient, None, None, None, None, None, None


cross_entropy.register_autograd(_backward, setup_context=_setup_context)

if cuda_usable():
    from l2m_fast.losses import cuda_operators

    cross_entropy.register_kernel("cuda")(cuda_operators.cross_entropy)
    cross_entropy_gradient.register_kernel("cuda")(cuda_operators.cross_entropy_gradient)
