"""Cross entropy that also sums the losses of each class, in one pass over the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from l2m_fast._checks import cut, has_memory, not_plain, shortened, whole
from l2m_fast.losses.sums import MOST_CLASSES, ClassLoss
from l2m_fast.mixing import check_number

if TYPE_CHECKING:
    import torch

    from l2m_fast.losses.sums import ClassSums

_LARGEST = 2**63 - 1


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int,
    *,
    classes: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, ClassSums]:
    """Mean cross entropy, and the loss sum and count of each class that `Loader.record` takes.

    The mean is `torch.nn.functional.cross_entropy(logits, targets, weight, ignore_index=..., label_smoothing=...)` in
    value and in gradient: with weights, the sum of the losses by the sum of the weights of their targets; NaN where there
    is no row, or every row is ignored. It differs where numbers are not finite: the gradient of an ignored row is always 0, and
    with an infinite weight and label smoothing, which uses every weight, the mean may be infinite where torch's is NaN. The
    `ClassLoss` is of the loss of each sample as `reduction="none"` gives it, weight and smoothing included, but not rounded to
    the dtype of the logits. What is ignored or not finite is left out of sum and count.

    It is differentiable in `logits` by `backward()` and `torch.autograd.grad()`, with `create_graph=True` any number of times.
    Under forward-mode differentiation and inside the transforms of `torch.func` (`grad`, `vmap`, `jvp` and others), where there
    are no numbers to sum, it raises: use `torch.nn.functional.cross_entropy(..., reduction="none")` there, and
    `Loader.record` the losses afterwards.

    It is computed in float32 (float64 where the logits are), sums over rows in float64. On the CPU on as many threads as the
    process has CPUs where the input is large; the result has the same bits for any number of them. On CUDA nothing waits for
    the device: the class sums are read when they are looked at, and the result has the same bits from run to run. There, where
    the package was built without a CUDA compiler, and on other devices it is put together from torch's operations.
    `torch.compile` traces through it (`fullgraph=True` too). Under autocast it is computed from float32 logits, as torch's is.
    Needs torch >= 2.4.

    Args:
        logits: Shape `[n, C]`; float16, bfloat16, float32 or float64. What is not contiguous is copied.
        targets: Column of each row's target, shape `[n]`; int64, in `[0, C)` or `ignore_index`.
        num_classes: Number of classes of the `ClassLoss`, at least 1.
        classes: Class of each row, shape `[n]`; integers in `[0, num_classes)`. Default: the targets. That of an ignored
            row may be anything.
        weight: Weight of each target, shape `[C]`; any float dtype.
        ignore_index: Rows with this target have no loss.
        label_smoothing: In `[0, 1]`: the part of the target that is spread evenly over all columns.

    Returns:
        The mean, a scalar tensor of the dtype of the logits, and the `ClassLoss`, in numpy arrays; on a device what
        `class_loss()` gives there.

    Raises:
        TypeError: An argument is no tensor, has no memory of its own, or is of another dtype than stated; or the call is inside
            a transform of `torch.func` or differentiated in forward mode.
        ValueError: Shapes or devices do not fit, or a target, a class, `num_classes` or `label_smoothing` is out of range,
            or the weight requires a gradient. A target or class that is out of range on a device is left out of the sums, and
            raises when they are looked at; of such a target the mean and the gradient are NaN.
        ImportError: torch is missing or too old.
    """
    torch = _torch()
    from l2m_fast.losses import operators
    from l2m_fast.losses.device import DeviceClassLoss

    num_classes = whole("num_classes", num_classes, 1, MOST_CLASSES)
    ignore_index = whole("ignore_index", ignore_index, -_LARGEST, _LARGEST)
    check_number("label_smoothing", label_smoothing, "in [0, 1]", low=0.0, high=1.0)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    integers = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    _check(torch, "logits", logits, floats)
    if logits.ndim != 2 or logits.shape[1] == 0:
        msg = f"logits must have shape [n, C] with C >= 1 (got {shortened(list(logits.shape))})"
        raise ValueError(msg)
    _check(torch, "targets", targets, (torch.int64,), logits, 0)
    if classes is not None:
        _check(torch, "classes", classes, integers, logits, 0)
    if weight is not None:
        _check(torch, "weight", weight, floats, logits, 1)
        if weight.requires_grad:
            msg = "weight must not require a gradient, for there is none by it: pass weight.detach()"
            raise ValueError(msg)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        _check_differentiation(torch, logits, weight)
    try:
        narrow = logits.dtype.itemsize == 2 and torch.is_autocast_enabled(logits.device.type)
        loss, words, *_ = operators.cross_entropy(
            logits.float() if narrow else logits,
            targets,
            targets if classes is None else classes.to(torch.int64),
            None if weight is None else weight.to(torch.float64),
            num_classes,
            ignore_index,
            float(label_smoothing),
        )
        if logits.device.type == "cpu":
            return loss, ClassLoss(words[:num_classes].view(torch.float64).numpy(), words[num_classes:].numpy())
        if not compiling and (logits.is_cuda or logits.is_meta) and not has_memory(words):
            raise TypeError(not_plain("the class sums", words, "int64"))
    except (AssertionError, RuntimeError, TypeError) as error:
        # Tensors without memory fail in many ways, all of which are this one.
        for name, tensor in (("logits", logits), ("targets", targets), ("classes", classes), ("weight", weight)):
            if tensor is not None and not has_memory(tensor):
                raise TypeError(not_plain(name, tensor, str(tensor.dtype))) from error
        raise
    return loss, DeviceClassLoss(num_classes, logits.device, words)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        msg = 'cross_entropy needs torch: pip install "l2m-fast[torch]"'
        raise ImportError(msg) from None
    if not hasattr(torch.library, "custom_op"):
        msg = f"cross_entropy needs torch >= 2.4 (got {torch.__version__})"
        raise ImportError(msg)
    return torch


def _check_differentiation(torch: Any, logits: torch.Tensor, weight: torch.Tensor | None) -> None:
    """Raise where there would be no sums, or the derivative would be lost."""
    unpack = torch.autograd.forward_ad.unpack_dual
    if torch._C._are_functorch_transforms_active():
        got = "a transform of torch.func"
    elif unpack(logits).tangent is not None or (weight is not None and unpack(weight).tangent is not None):
        got = "a tensor with a tangent"
    else:
        return
    msg = (
        f"cross_entropy must be outside of torch.func's transforms and of forward-mode differentiation (got {got}): there, use "
        'torch.nn.functional.cross_entropy(..., reduction="none"), and loader.record(losses) afterwards. backward() and '
        "torch.autograd.grad() are supported, with create_graph=True too"
    )
    raise TypeError(msg)


def _check(
    torch: Any,
    name: str,
    tensor: torch.Tensor,
    dtypes: tuple[torch.dtype, ...],
    logits: torch.Tensor | None = None,
    dimension: int = 0,
) -> None:
    """Raises unless `tensor` is a dense tensor of one of the dtypes; with logits, as long as one of their dimensions."""
    if not isinstance(tensor, torch.Tensor):
        msg = f"{name} must be a torch tensor (got {cut(type(tensor).__name__)})"
        raise TypeError(msg)
    if tensor.dtype not in dtypes or tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(not_plain(name, tensor, " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)))
    if logits is None:
        return
    if tensor.shape != (logits.shape[dimension],):
        msg = f"{name} must have shape [{logits.shape[dimension]}], by logits of {shortened(list(logits.shape))} (got {shortened(list(tensor.shape))})"
        raise ValueError(msg)
    if tensor.device != logits.device:
        msg = f"{name} must be on the device of logits, {logits.device} (got {tensor.device})"
        raise ValueError(msg)
