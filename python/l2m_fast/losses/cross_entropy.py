"""`cross_entropy`: mean cross entropy and class losses in one pass over the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from l2m_fast._checks import checked_int, has_memory, import_torch, not_plain_message, shortened, truncated
from l2m_fast.losses.arrays import MAX_LOSSES_ON_DEVICE
from l2m_fast.losses.sums import MAX_CLASSES, HostClassLoss
from l2m_fast.mixing import check_number

if TYPE_CHECKING:
    import torch

    from l2m_fast.losses.sums import ClassSums

_INT64_MAX = 2**63 - 1
_MAX_COLUMNS_ON_DEVICE = 2**31  # of the 32-bit column numbers of the kernels


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    num_classes: int,
    *,
    classes: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ClassSums]:
    """Return the mean cross entropy, and the loss sum and count of each class for `Loader.record`.

    The mean has the value and the gradient of `torch.nn.functional.cross_entropy(logits, targets, weight,
    ignore_index=..., label_smoothing=...)`: with weights, the sum of the losses divided by the sum of the weights of
    their targets; NaN if there are no rows or all rows are ignored. It differs only for non-finite numbers: the
    gradient of an ignored row is always 0, and with an infinite weight and label smoothing, which uses every weight,
    the mean may be infinite where torch returns NaN. The class losses sum the loss of each sample as returned with
    `reduction="none"`, including weight and smoothing, but not rounded to the dtype of the logits. Ignored rows and
    non-finite losses are skipped in sum and count.

    It is differentiable with respect to `logits` by `backward()` and `torch.autograd.grad()`, any number of times with
    `create_graph=True`. It raises under forward-mode differentiation and inside the transforms of `torch.func` (`grad`,
    `vmap`, `jvp` and others), where tensors have no values to sum. There, use
    `torch.nn.functional.cross_entropy(..., reduction="none")` and pass the losses to `Loader.record` afterwards.

    Losses are computed in float32 (float64 for float64 logits). Their mean is computed in float64, and the sum of each
    class is exact, as in `class_loss()`. On the CPU, large inputs are processed by as many threads as the process has
    CPUs, and the result does not depend on the number of threads. On CUDA, the host is not blocked until the class sums
    are read, and the result is run-to-run deterministic. If the package was built without a CUDA compiler, and on other
    devices, the result is computed by torch operations. `torch.compile` is supported, including `fullgraph=True`. Under
    autocast, the mean of float16 and bfloat16 logits is float32, as in torch, but the logits are not copied to float32.
    Needs torch >= 2.4.

    Args:
        logits: Logits, shape `[n, C]`; float16, bfloat16, float32 or float64. Copied if not contiguous.
        targets: Target column of each row, shape `[n]`; int64, in `[0, C)` or `ignore_index`.
        num_classes: Number of classes of the sums, at least 1.
        classes: Class of each row, shape `[n]`; integers in `[0, num_classes)`, or any value for ignored rows. None:
            the targets.
        weight: Weight of each target, shape `[C]`; any float dtype.
        ignore_index: Target of rows that have no loss.
        label_smoothing: Part of the target, in `[0, 1]`, that is spread evenly over all columns.
        offsets: Number to be added to the logits of each column, shape `[C]`, such as `Loader.class_offsets()`; any
            float dtype, finite. The losses and the gradient are those of `logits + offsets`, computed without rounding
            this sum to the dtype of the logits. None: 0.

    Returns:
        The mean, a scalar tensor with the dtype of the logits (under autocast at least float32), and the class losses,
        the same object as from `class_loss()`.

    Raises:
        TypeError: An argument is not a tensor, has no memory of its own, or has an unsupported dtype; or the call is
            inside a transform of `torch.func` or differentiated in forward mode.
        ValueError: Shapes or devices do not match, a target, a class, `num_classes` or `label_smoothing` is out of
            range, an offset is non-finite, or `weight` or `offsets` require a gradient. On a device, a target or class out of range is skipped in the sums,
            and the error is raised when they are read; for such a target, the mean and the gradient are NaN, as for an
            offset that is non-finite.
        ImportError: torch is not installed or too old.
    """
    torch = _torch()
    from l2m_fast.losses import operators
    from l2m_fast.losses.device import DeviceClassLoss

    num_classes = checked_int("num_classes", num_classes, 1, MAX_CLASSES)
    ignore_index = checked_int("ignore_index", ignore_index, -_INT64_MAX, _INT64_MAX)
    check_number("label_smoothing", label_smoothing, "in [0, 1]", low=0.0, high=1.0)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    integers = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    _check(torch, "logits", logits, floats)
    if logits.ndim != 2 or logits.shape[1] == 0:
        msg = f"logits must have shape [n, C] with C >= 1 (got {shortened(list(logits.shape))})"
        raise ValueError(msg)
    if logits.is_cuda and (logits.shape[0] >= MAX_LOSSES_ON_DEVICE or logits.shape[1] >= _MAX_COLUMNS_ON_DEVICE):
        allowed = f"fewer than {MAX_LOSSES_ON_DEVICE} rows and {_MAX_COLUMNS_ON_DEVICE} columns"
        msg = f"logits on a device must have {allowed} (got shape {shortened(list(logits.shape))})"
        raise ValueError(msg)
    _check(torch, "targets", targets, (torch.int64,), logits, 0)
    if classes is not None:
        _check(torch, "classes", classes, integers, logits, 0)
    for name, of_columns in (("weight", weight), ("offsets", offsets)):
        if of_columns is None:
            continue
        _check(torch, name, of_columns, floats, logits, 1)
        if of_columns.requires_grad:
            msg = f"{name} must have requires_grad=False, because it gets no gradient (got True): pass {name}.detach()"
            raise ValueError(msg)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        _check_differentiation(torch, logits, weight, offsets)
    try:
        loss, words, *_ = operators.run(
            logits,
            targets,
            targets if classes is None else classes.to(torch.int64),
            None if weight is None else weight.to(torch.float64),
            None if offsets is None else offsets.to(torch.float64),
            num_classes,
            ignore_index,
            float(label_smoothing),
            torch.is_autocast_enabled(logits.device.type),
        )
        if logits.device.type == "cpu":
            return loss, HostClassLoss(words.numpy())
        if not compiling and (logits.is_cuda or logits.is_meta) and not has_memory(words):
            raise TypeError(not_plain_message("the class sums", words, "int64"))
    except (AssertionError, RuntimeError, TypeError) as error:
        # Tensors without memory raise many different errors.
        named = {"logits": logits, "targets": targets, "classes": classes, "weight": weight, "offsets": offsets}
        for name, tensor in named.items():
            if tensor is not None and not has_memory(tensor):
                raise TypeError(not_plain_message(name, tensor, str(tensor.dtype))) from error
        raise
    return loss, DeviceClassLoss(num_classes, logits.device, words, len(targets))


def _torch() -> Any:
    torch = import_torch("cross_entropy")
    if not hasattr(torch.library, "custom_op"):
        msg = f"cross_entropy needs torch >= 2.4 (got {torch.__version__})"
        raise ImportError(msg)
    return torch


def _check_differentiation(torch: Any, *tensors: torch.Tensor | None) -> None:
    """Raise TypeError if the tensors have no values to sum, or their tangents would be lost."""
    unpack = torch.autograd.forward_ad.unpack_dual
    if torch._C._are_functorch_transforms_active():
        got = "a transform of torch.func"
    elif any(tensor is not None and unpack(tensor).tangent is not None for tensor in tensors):
        got = "a tensor with a tangent"
    else:
        return
    msg = (
        f"cross_entropy must be called outside of torch.func transforms and forward-mode differentiation (got {got}): use "
        'torch.nn.functional.cross_entropy(..., reduction="none") there, and loader.record(losses) afterwards. backward() '
        "and torch.autograd.grad() are supported, also with create_graph=True"
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
    """Raise unless `tensor` is a dense tensor of an allowed dtype and, if given, matches a dimension of `logits`."""
    if not isinstance(tensor, torch.Tensor):
        msg = f"{name} must be a torch tensor (got {truncated(type(tensor).__name__)})"
        raise TypeError(msg)
    if tensor.dtype not in dtypes or tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(
            not_plain_message(name, tensor, " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes))
        )
    if logits is None:
        return
    if tensor.shape != (logits.shape[dimension],):
        allowed = f"[{logits.shape[dimension]}] for logits of shape {shortened(list(logits.shape))}"
        msg = f"{name} must have shape {allowed} (got {shortened(list(tensor.shape))})"
        raise ValueError(msg)
    if tensor.device != logits.device:
        msg = f"{name} must be on the device of logits, {logits.device} (got {tensor.device})"
        raise ValueError(msg)
