"""Per-class loss sums that stay on a device, so that recording a loss there waits for nothing."""

from __future__ import annotations

import torch

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast.class_loss import ClassLoss

_SUM_DIGITS = 9  # of cpp/include/l2m/exact_sum.hpp


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. From pageable memory the copy would wait for all that the device has to do."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceTotals:
    """Sum and count of the losses of each class, on the device of the losses.

    Each `add()` adds to every class's sum the float64 nearest to the sum of its losses, which are summed without rounding:
    the same bits on every device and in every order (gpu-to-gpu deterministic). Where the package was built without a CUDA
    compiler, torch sums on CUDA, whose order, and with it the last bits, may differ from run to run. Losses that are not
    finite as a float32, or whose class is out of range, are skipped and counted.

    Args:
        initial: Where the sums begin, numpy, shape `[num_classes]`.
        device: Where they are kept.
    """

    def __init__(self, initial: ClassLoss, device: torch.device) -> None:
        self.device = device
        self._sum = _moved(torch.from_numpy(initial.sum.copy()), device)
        self._count = _moved(torch.from_numpy(initial.count.copy()), device)
        self._unusual = torch.zeros(2, dtype=torch.int64, device=device)
        self._digits = torch.zeros(len(self._sum), _SUM_DIGITS, dtype=torch.int64, device=device)

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds losses; waits for nothing.

        Args:
            losses: Float16, bfloat16, float32 or float64, shape `[n]`, on this device.
            classes: Integers, shape `[n]`, on this device or on the CPU.
        """
        losses, classes = losses.detach().contiguous(), _moved(classes, self.device).contiguous()
        if self.device.type == "cpu":
            self._add_by_twin(losses, classes)
        elif self.device.type == "cuda" and _cuda is not None:
            self._add_by_kernel(losses, classes)
        else:
            self._add_by_torch(losses, classes)

    def _add_by_kernel(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        with torch.cuda.device(self.device):
            _cuda.add_class_loss(
                losses.data_ptr(),
                str(losses.dtype).removeprefix("torch."),
                classes.data_ptr(),
                classes.element_size(),
                classes.dtype.is_signed,
                len(losses),
                len(self._sum),
                self._sum.data_ptr(),
                self._count.data_ptr(),
                self._unusual.data_ptr(),
                self._digits.data_ptr(),
                torch.cuda.current_stream().cuda_stream,
            )

    def _add_by_twin(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        bits = losses.view(torch.int16) if losses.dtype == torch.bfloat16 else losses
        _core.add_exact_class_loss(
            bits.numpy(), classes.numpy(), self._sum.numpy(), self._count.numpy(), self._unusual.numpy()
        )

    def _add_by_torch(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        classes = classes.long()
        in_range = (classes >= 0) & (classes < len(self._sum))
        kept = in_range & losses.float().isfinite()
        self._unusual += torch.stack([(~in_range).sum(), (in_range & ~kept).sum()])
        classes = torch.where(kept, classes, 0)
        self._sum.index_add_(0, classes, torch.where(kept, losses, 0).double())
        self._count.index_add_(0, classes, kept.long())

    def read(self) -> tuple[ClassLoss, int, int]:
        """Waits for the device; the totals, losses skipped for their class, and losses skipped for not being finite."""
        out_of_range, not_finite = self._unusual.tolist()
        return ClassLoss(self._sum.cpu().numpy().copy(), self._count.cpu().numpy().copy()), out_of_range, not_finite

    def forget_skipped(self) -> None:
        """Counts losses that are skipped anew."""
        self._unusual.zero_()
