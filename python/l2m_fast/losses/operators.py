"""Custom torch operators behind `cross_entropy`, imported at its first call because this module imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from l2m_fast import _core
from l2m_fast.losses.device import INVALID_TARGETS, NOT_FINITE, DeviceClassLoss, has_kernels, loss_dtype, num_words
from l2m_fast.losses.sums import num_host_words

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(
    "l2m_fast::cross_entropy",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor classes, Tensor? weight, Tensor? offsets, int num_classes, "
    "int ignore_index, float label_smoothing, bool wide_loss=False) "
    "-> (Tensor loss, Tensor words, Tensor log_sum_exp, Tensor total_weight)",
)
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
) -> Outputs:
    """Compute the loss and the class sums by torch operations, on any device."""
    dtype, logits = loss_dtype(logits.dtype, wide=wide_loss), _widened(logits, offsets)
    losses, total_weight = _losses_with_torch(logits, targets, weight, ignore_index, label_smoothing)
    kept, invalid, _ = _columns(logits, targets, ignore_index)
    sums = DeviceClassLoss(num_classes, logits.device)
    # Ignored rows are added as infinite losses, and subtracted again from the count of non-finite losses: selecting the
    # other rows would wait for the device.
    sums.add_with_torch(torch.where(kept, losses, math.inf), torch.where(kept, classes, 0))
    sums.diagnostics[NOT_FINITE] -= (~kept).sum()
    sums.diagnostics[INVALID_TARGETS] += invalid.sum()
    log_sum_exp = torch.where(kept, logits.logsumexp(1).double(), 0.0)
    return (losses.sum() / total_weight).to(dtype), sums.words, log_sum_exp, total_weight


def _losses_with_torch(
    logits: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the losses of widened logits, float64 and differentiable any number of times, and their total weight."""
    kept, invalid, column = _columns(logits, targets, ignore_index)
    losses = functional.cross_entropy(
        logits,
        targets.masked_fill(invalid, ignore_index),  # a target out of range would trigger an assertion on the device
        None if weight is None else weight.to(logits.dtype),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    weights = 1.0 if weight is None else weight[column]
    total_weight = torch.where(kept & ~invalid, weights, 0.0).double().sum()
    if label_smoothing > 0:
        total_weight = total_weight.masked_fill(total_weight == 0, math.nan)
    return losses.double().masked_fill(invalid, math.nan), total_weight


def _widened(logits: Tensor, offsets: Tensor | None) -> Tensor:
    """Return logits plus offsets, in the dtype in which losses are computed."""
    logits = logits.to(loss_dtype(logits.dtype, wide=True))
    return logits if offsets is None else logits + offsets.to(logits.dtype)


@cross_entropy.register_kernel("cpu")
def _cross_entropy_on_cpu(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    weight: Tensor | None,
    offsets: Tensor | None,
    num_classes: int,
    ignore_index: int,
    label_smoothing: float,
    wide_loss: bool = False,
) -> Outputs:
    words = targets.new_zeros(num_host_words(num_classes))
    log_sum_exp = logits.new_empty(targets.shape, dtype=torch.float64)
    loss, total_weight = _core.cross_entropy(
        _array(logits),
        _array(targets),
        _array(classes),
        None if weight is None else _array(weight),
        None if offsets is None else _array(offsets),
        ignore_index,
        label_smoothing,
        log_sum_exp.numpy(),
        words.numpy(),
    )
    mean = torch.scalar_tensor(loss, dtype=loss_dtype(logits.dtype, wide=wide_loss), device="cpu")
    return mean, words, log_sum_exp, torch.scalar_tensor(total_weight, dtype=torch.float64, device="cpu")


@cross_entropy.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,  # noqa: ARG001
    weight: Tensor | None,  # noqa: ARG001
    offsets: Tensor | None,  # noqa: ARG001
    num_classes: int,
    ignore_index: int,  # noqa: ARG001
    label_smoothing: float,  # noqa: ARG001
    wide_loss: bool = False,
) -> Outputs:
    log_sum_exp, total_weight = (logits.new_empty(shape, dtype=torch.float64) for shape in ((targets.shape[0],), ()))
    size = (num_host_words if logits.device.type == "cpu" else num_words)(num_classes)
    loss = logits.new_empty((), dtype=loss_dtype(logits.dtype, wide=wide_loss))
    return loss, targets.new_empty(size), log_sum_exp, total_weight


@torch.library.custom_op(
    "l2m_fast::cross_entropy_gradient",
    mutates_args=(),
    schema="(Tensor grad_loss, Tensor logits, Tensor targets, Tensor? weight, Tensor? offsets, Tensor log_sum_exp, "
    "Tensor total_weight, int ignore_index, float label_smoothing) -> Tensor",
)
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
    """Compute the gradient by torch operations, on any device."""
    kept, invalid, column = _columns(logits, targets, ignore_index)
    weights = logits.new_ones(logits.shape[1], dtype=torch.float64) if weight is None else weight
    target_weight = (1 - label_smoothing) * weights[column]
    # Not 0 * weights without smoothing, which is NaN for a non-finite weight.
    smoothing = label_smoothing / logits.shape[1] * weights if label_smoothing > 0 else torch.zeros_like(weights)
    softmax = (_widened(logits, offsets).double() - log_sum_exp[:, None]).exp_()
    gradient = softmax * (target_weight + smoothing.sum())[:, None] - smoothing
    gradient.scatter_add_(1, column[:, None], -target_weight[:, None])
    gradient = (gradient * (grad_loss / total_weight)).masked_fill(invalid[:, None], math.nan)
    return torch.where(kept[:, None], gradient, 0.0).to(logits.dtype).contiguous()


def _columns(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return masks of rows that have a loss and of those with an invalid target, and the columns, 0 for other rows."""
    kept = targets != ignore_index
    is_column = (targets >= 0) & (targets < logits.shape[1])
    return kept, kept & ~is_column, torch.where(kept & is_column, targets, 0)


@cross_entropy_gradient.register_kernel("cpu")
def _gradient_on_cpu(
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
    gradient = logits.new_empty(logits.shape)
    _core.cross_entropy_gradient(
        _array(logits),
        _array(targets),
        None if weight is None else _array(weight),
        None if offsets is None else _array(offsets),
        ignore_index,
        label_smoothing,
        _array(log_sum_exp),
        float(grad_loss.double() / total_weight),
        _array(gradient),
    )
    return gradient


@cross_entropy_gradient.register_fake
def _(grad_loss: Tensor, logits: Tensor, *_: object) -> Tensor:  # noqa: ARG001
    return logits.new_empty(logits.shape)


def _array(tensor: Tensor) -> Any:
    """Return a tensor as an array, copied if not contiguous. View bfloat16, which NumPy does not support, as int16."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    logits, targets, _, weight, offsets, _, ctx.ignore_index, ctx.label_smoothing, _ = inputs
    _, words, log_sum_exp, total_weight = output
    ctx.save_for_backward(logits, targets, weight, offsets, log_sum_exp, total_weight)
    ctx.mark_non_differentiable(words, log_sum_exp, total_weight)


def _backward(ctx: Any, grad_loss: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    if not torch.is_grad_enabled():
        given = (grad_loss, *ctx.saved_tensors, ctx.ignore_index, ctx.label_smoothing)
        kernels = _kernels(*given[:5])
        gradient = cross_entropy_gradient(*given) if kernels is None else kernels[1](*given)
    else:  # create_graph=True: torch operations can be differentiated again
        logits, targets, weight, offsets, _, _ = ctx.saved_tensors
        losses, total_weight = _losses_with_torch(
            _widened(logits, offsets), targets, weight, ctx.ignore_index, ctx.label_smoothing
        )
        loss = (losses.sum() / total_weight).to(grad_loss.dtype)
        (gradient,) = torch.autograd.grad(loss, logits, grad_loss, create_graph=True)
    return gradient, *(None,) * 8


cross_entropy.register_autograd(_backward, setup_context=_setup_context)

_PLAIN = (Tensor, torch.nn.Parameter)
_Kernels = tuple[Callable[..., Outputs], Callable[..., Tensor]]


@cache
def _cuda_kernels(device: torch.device) -> _Kernels:
    """Return the kernels of a CUDA device, or torch operations in their place."""
    if not has_kernels(device):
        return cross_entropy._init_fn, cross_entropy_gradient._init_fn
    from l2m_fast.losses import cuda_operators

    return cuda_operators.cross_entropy, cuda_operators.cross_entropy_gradient


cross_entropy.register_kernel("cuda")(lambda *given: _cuda_kernels(given[0].device)[0](*given))
cross_entropy_gradient.register_kernel("cuda")(lambda *given: _cuda_kernels(given[0].device)[1](*given))


def _kernels(*tensors: Tensor | None) -> _Kernels | None:
    """Return the kernels for plain tensors whose operations nobody traces; None: call the operators."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return None
    if torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active():
        return None
    for tensor in tensors:  # operators resolve what a kernel would not
        if tensor is not None and (type(tensor) not in _PLAIN or tensor.is_neg() or tensor._is_zerotensor()):
            return None
    device = tensors[0].device  # type: ignore[union-attr]
    if device.type == "cpu":
        return _cross_entropy_on_cpu, _gradient_on_cpu
    return _cuda_kernels(device) if device.type == "cuda" else None


class _CrossEntropy(torch.autograd.Function):
    """`cross_entropy` by kernels. The dispatch of an operator takes longer than the loss of a small batch."""

    @staticmethod
    def forward(ctx: Any, compute: Any, *given: Any) -> Outputs:
        output: Outputs = compute(*given)
        _setup_context(ctx, given, output)
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
        if grad_loss is None:  # only other outputs, which have no gradient, were used
            return (None,) * 10
        return None, *_backward(ctx, grad_loss)


def run(logits: Tensor, *given: Any) -> Outputs:
    """Return the outputs of the operator `cross_entropy`, with as little overhead as the tensors allow."""
    kernels = _kernels(logits, *given[:4])
    outputs: Outputs
    if kernels is None:
        outputs = cross_entropy(logits, *given)
    elif logits.requires_grad and torch.is_grad_enabled():
        outputs = _CrossEntropy.apply(kernels[0], logits, *given)  # type: ignore[no-untyped-call]
    else:
        outputs = kernels[0](logits, *given)
    return outputs
