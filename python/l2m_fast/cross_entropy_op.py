"""The custom operators behind `cross_entropy`. Imported at its first call, for it imports torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast.device_class_loss import DeviceClassLoss, num_words

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
    sums = DeviceClassLoss(num_classes, logits.device)
    # What is ignored is added to class 0 as a loss of infinity, which counts as not finite: there may be no waiting.
    sums.add_by_torch(torch.where(kept, losses, math.inf), torch.where(kept, classes, 0))
    sums.words[2 * num_classes + 1] -= (~kept).sum()
    log_sum_exp = torch.where(kept, wide.logsumexp(1).double(), 0.0)
    return (losses.sum() / total_weight).to(logits.dtype), sums.words, log_sum_exp, total_weight


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
    words = torch.zeros(2 * num_classes, dtype=torch.int64)
    log_sum_exp = torch.empty(len(targets), dtype=torch.float64)
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
        torch.tensor(loss, dtype=logits.dtype),
        words,
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
    log_sum_exp, total_weight = (logits.new_empty(shape, dtype=torch.float64) for shape in ((len(targets),), ()))
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
    _, words, log_sum_exp, total_weight = output
    ctx.save_for_backward(logits, targets, weight, log_sum_exp, total_weight)
    ctx.mark_non_differentiable(words, log_sum_exp, total_weight)


def _backward(ctx: Any, of_loss: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    gradient = cross_entropy_gradient(of_loss, *ctx.saved_tensors, ctx.ignore_index, ctx.label_smoothing)
    return gradient, None, None, None, None, None, None


cross_entropy.register_autograd(_backward, setup_context=_setup_context)

if _cuda is not None:
    from l2m_fast import cross_entropy_cuda

    cross_entropy.register_kernel("cuda")(cross_entropy_cuda.cross_entropy)
    cross_entropy_gradient.register_kernel("cuda")(cross_entropy_cuda.cross_entropy_gradient)
