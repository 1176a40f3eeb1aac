"""Per-class loss sums that stay on a device, so that recording a loss there waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast.class_loss import ClassLoss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_MOST_OF_SEGMENT = 1 << 16  # what one block of a kernel adds up in reasonable time


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. From pageable memory the copy would wait for all that the device has to do."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceClassLoss:
    """Sum and number of the losses of each class, on the device of the losses: a `ClassLoss` that is read when needed.

    Each `add()` adds to every class's sum the float64 nearest to the sum of its losses, which are summed without rounding:
    the same bits on every device and in every order (gpu-to-gpu deterministic). Where the package was built without a CUDA
    compiler, torch sums on CUDA, whose order, and with it the last bits, may differ from run to run. Losses that are not
    finite as a float32, or whose class is out of range, are skipped and counted.

    Args:
        num_classes: K.
        device: Where the sums are kept.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.device = device
        self._sum = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self._count = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._unusual = torch.zeros(3, dtype=torch.int64, device=device)  # out of range, not finite; for the kernel
        self._copies: list[torch.Tensor] | None = None  # on the CPU, there when _copied is
        if self._on_cuda:
            self._unfinished = torch.zeros(num_classes, _cuda.UNFINISHED, dtype=torch.int64, device=device)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self._sum)

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda" and _cuda is not None

    # ---- what there is to see, for which the device is waited for

    @property
    def sum(self) -> NDArray[np.float64]:
        """float64, shape `[num_classes]`. Waits; ValueError where classes were out of range."""
        return self.read().sum

    @property
    def count(self) -> NDArray[np.int64]:
        """int64, shape `[num_classes]`. Waits; ValueError where classes were out of range."""
        return self.read().count

    def __iter__(self) -> Iterator[NDArray[np.float64] | NDArray[np.int64]]:
        """Sum and count, as those of a `ClassLoss`."""
        return iter(self.read())

    def __len__(self) -> int:
        """2, as that of a `ClassLoss`."""
        return 2

    def read(self) -> ClassLoss:
        """The sums and counts in numpy arrays. Waits for the device.

        Raises:
            ValueError: Classes were out of range; their losses are left out. It is said once.
        """
        total, count, unusual = self._on_cpu()
        out_of_range = int(unusual[0])
        if out_of_range > 0:
            self._unusual[0], self._copies = 0, None
            msg = f"classes must be in [0, {len(self._sum)}) (got {out_of_range} others, left out, on {self.device})"
            raise ValueError(msg)
        return ClassLoss(total.numpy().copy(), count.numpy().copy())

    @property
    def not_finite(self) -> int:
        """Losses skipped for not being finite. Waits."""
        return int(self._on_cpu()[2][1])

    def start_reading(self) -> None:
        """Has the sums copied to the CPU; read() then waits for that copy, and for nothing that the device does later."""
        if self.device.type != "cuda" or self._copies is not None:
            return
        with torch.cuda.device(self.device):
            copies = [
                torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in (self._sum, self._count, self._unusual)
            ]
            self._copied = torch.cuda.current_stream().record_event()
        self._copies = copies

    def _on_cpu(self) -> list[torch.Tensor]:
        if self.device.type == "cpu":
            return [self._sum, self._count, self._unusual]
        if self.device.type != "cuda":
            return [self._sum.cpu(), self._count.cpu(), self._unusual.cpu()]
        self.start_reading()
        self._copied.synchronize()
        assert self._copies is not None
        return self._copies

    # ---- adding, which waits for nothing

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds losses.

        Args:
            losses: Float16, bfloat16, float32 or float64, shape `[n]`, on this device.
            classes: Integers, shape `[n]`, on this device or on the CPU.
        """
        losses, classes = losses.detach().contiguous(), moved(classes, self.device).contiguous()
        self._copies = None
        if self._on_cuda:
            with torch.cuda.device(self.device):
                _cuda.add_class_loss(
                    losses.data_ptr(),
                    _name(losses.dtype),
                    classes.data_ptr(),
                    classes.element_size(),
                    classes.dtype.is_signed,
                    len(losses),
                    self._totals(),
                    torch.cuda.current_stream().cuda_stream,
                )
        elif self.device.type == "cpu":
            self._add_by_twin(losses, classes)
        else:
            self._add_by_torch(losses, classes)

    def add_grouped(self, losses: torch.Tensor, classes: NDArray[np.int32]) -> None:
        """Adds losses that are grouped by class, in float64 and in an order that follows from the classes alone.

        Args:
            losses: As for `add()`.
            classes: Class of each, on the CPU, equal ones side by side; in range.
        """
        begins = np.flatnonzero(np.diff(classes, prepend=-1, append=-1)).astype(np.int32)
        if not self._on_cuda or len(losses) > _MOST_OF_SEGMENT:
            self.add(losses, torch.from_numpy(classes))
            return
        segments = torch.from_numpy(np.concatenate((begins, classes[begins[:-1]])))
        segments, losses = moved(segments, self.device), losses.detach().contiguous()
        self._copies = None
        with torch.cuda.device(self.device):
            _cuda.add_grouped_class_loss(
                losses.data_ptr(),
                _name(losses.dtype),
                segments.data_ptr(),
                len(begins) - 1,
                self._totals(),
                torch.cuda.current_stream().cuda_stream,
            )

    def add_sums(self, other: DeviceClassLoss) -> None:
        """Adds the sums and counts of another on this device, also of what it has skipped."""
        self._copies = None
        self._sum += other._sum
        self._count += other._count
        self._unusual += other._unusual

    def _totals(self) -> tuple[int, int, int, int, int]:
        memory = (self._sum, self._count, self._unusual, self._unfinished)
        return len(self._sum), *(tensor.data_ptr() for tensor in memory)  # type: ignore[return-value]

    def _add_by_twin(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        bits = losses.view(torch.int16) if losses.dtype == torch.bfloat16 else losses
        _core.add_exact_class_loss(
            bits.numpy(), classes.numpy(), self._sum.numpy(), self._count.numpy(), self._unusual[:2].numpy()
        )

    def _add_by_torch(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        classes = classes.long()
        in_range = (classes >= 0) & (classes < len(self._sum))
        kept = in_range & losses.float().isfinite()
        self._unusual[:2] += torch.stack([(~in_range).sum(), (in_range & ~kept).sum()])
        classes = torch.where(kept, classes, 0)
        self._sum.index_add_(0, classes, torch.where(kept, losses, 0).double())
        self._count.index_add_(0, classes, kept.long())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
