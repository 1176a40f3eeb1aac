"""Per-class loss sums that stay on a device, so that recording a loss there waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from l2m_fast._build_info import _cuda, cuda_usable
from l2m_fast.losses.sums import ClassLoss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# What is unusual: classes out of range, losses not finite, a word for the kernel, targets out of range, another for the kernel.
_UNUSUAL = 5
TARGETS = 3
_MOST_OF_SEGMENT = 1 << 16  # what one block of a kernel adds up in reasonable time


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, which has an index. From pageable memory, the copy would block the host."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceClassLoss:
    """Sum and number of the losses of each class, on the device of the losses: `ClassSums` that are read when needed.

    Each `add()` adds to every class's sum the float64 nearest to the sum of its losses, which are summed without rounding:
    the same bits on every device and in every order (gpu-to-gpu deterministic). Where the package was built without a CUDA
    compiler, torch sums on CUDA, whose order, and with it the last bits, may differ from run to run. Losses that are not
    finite as a float32, or whose class is out of range, are skipped and counted; of a float64 loss, what is below 2^-149 is
    lost.

    May be used on any stream: each waits for the one that was used before.

    Args:
        num_classes: K.
        device: Where the sums are kept.
        words: Memory for them, int64, shape `[num_words()]`: float64 sums, counts, what is unusual, what is unfinished. None:
            words of their own, which are 0.
    """

    def __init__(self, num_classes: int, device: torch.device, words: torch.Tensor | None = None) -> None:
        if words is None:
            with torch.inference_mode(False):  # they may be added to in another mode
                words = torch.zeros(num_words(num_classes, device), dtype=torch.int64, device=device)
        # That of the tensor has an index: torch.device("cuda") does not equal torch.device("cuda:0").
        self.num_classes, self.device, self.words = num_classes, words.device, words
        self._copied: tuple[torch.Tensor, torch.cuda.Event] | None = None  # what is read, there after the event
        self._stream: torch.cuda.Stream | None = None  # that was used last
        if self.device.type == "cuda" and not torch.compiler.is_compiling():
            self._stream = torch.cuda.current_stream(self.device)

    @property
    def totals(self) -> tuple[int, int, int, int, int]:
        """K, and addresses of sums, counts, what is unusual and what is unfinished, for a kernel."""
        address, size = self.words.data_ptr(), self.words.element_size()
        begins = (0, self.num_classes, 2 * self.num_classes, 2 * self.num_classes + _UNUSUAL)
        return self.num_classes, *(address + size * begin for begin in begins)  # type: ignore[return-value]

    @property
    def counters(self) -> int:
        """Address of two words for what makes the losses: targets out of range, and one that is 0 before and after."""
        return self.words.data_ptr() + self.words.element_size() * (2 * self.num_classes + TARGETS)

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

    def __getitem__(self, i: int) -> NDArray[np.float64] | NDArray[np.int64]:
        """Sum or count, as those of a `ClassLoss`."""
        return self.read()[i]

    def read(self) -> ClassLoss:
        """The sums and counts in numpy arrays. Waits for the device.

        Raises:
            ValueError: Classes were out of range; their losses are left out. It is said once.
        """
        k, words = self.num_classes, self._on_cpu()
        for at, what in ((0, f"classes must be in [0, {k})"), (TARGETS, "targets must be columns or ignore_index")):
            others = int(words[2 * k + at])
            if others > 0:
                with torch.inference_mode(self.words.is_inference()):
                    self.words[2 * k + at], self._copied = 0, None
                msg = f"{what} (got {others} others, left out, on {self.device})"
                raise ValueError(msg)
        return ClassLoss(words[:k].view(torch.float64).numpy().copy(), words[k : 2 * k].numpy().copy())

    @property
    def not_finite(self) -> int:
        """Losses skipped for not being finite. Waits."""
        return int(self._on_cpu()[2 * self.num_classes + 1])

    def start_reading(self) -> None:
        """Has the sums copied to the CPU; read() then waits for that copy, and for nothing that the device does later.

        To be called when nothing is added any more.
        """
        if self.device.type == "cuda":
            self._copied = self._copy()

    def _copy(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        with torch.cuda.device(self.device):
            stream, read = self._on_stream(), self._read_words
            copy = torch.empty_like(read, device="cpu", pin_memory=True).copy_(read, non_blocking=True)
            return copy, stream.record_event()

    def _on_cpu(self) -> torch.Tensor:
        if self.device.type != "cuda":
            return self._read_words.cpu()
        copy, event = self._copied or self._copy()
        event.synchronize()
        return copy

    def _on_stream(self) -> torch.cuda.Stream:
        """The current stream, which has waited for the one before."""
        stream = torch.cuda.current_stream()
        # A graph that is captured may not wait for what is outside; torch has the device waited for before.
        if stream != self._stream and not torch.cuda.is_current_stream_capturing():
            if self._stream is not None:
                stream.wait_stream(self._stream)
            self.words.record_stream(stream)
            self._stream = stream
        return stream

    @property
    def _read_words(self) -> torch.Tensor:
        return self.words[: 2 * self.num_classes + _UNUSUAL]

    # ---- adding, which waits for nothing

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds losses.

        Args:
            losses: Float16, bfloat16, float32 or float64, shape `[n]`, on this device.
            classes: Integers, shape `[n]`, on this device or on the CPU.
        """
        losses, classes = losses.detach().contiguous(), moved(classes, self.device).contiguous()
        self._copied = None
        if by_kernel(self.device):
            with torch.cuda.device(self.device):
                _cuda.add_class_loss(
                    losses.data_ptr(),
                    name_of(losses.dtype),
                    classes.data_ptr(),
                    classes.element_size(),
                    classes.dtype.is_signed,
                    len(losses),
                    self.totals,
                    self._on_stream().cuda_stream,
                )
        else:
            self.add_by_torch(losses, classes)

    def add_grouped(self, losses: torch.Tensor, classes: NDArray[np.int32]) -> None:
        """Adds losses that are grouped by class, in float64 and in an order that follows from the classes alone.

        Args:
            losses: As for `add()`.
            classes: Class of each, on the CPU, equal ones side by side; in range.
        """
        begins = np.flatnonzero(np.diff(classes, prepend=-1, append=-1)).astype(np.int32)
        if not by_kernel(self.device) or len(losses) > _MOST_OF_SEGMENT:
            self.add(losses, torch.from_numpy(classes))
            return
        segments = torch.from_numpy(np.concatenate((begins, classes[begins[:-1]])))
        segments, losses = moved(segments, self.device), losses.detach().contiguous()
        self._copied = None
        with torch.cuda.device(self.device):
            _cuda.add_grouped_class_loss(
                losses.data_ptr(),
                name_of(losses.dtype),
                segments.data_ptr(),
                len(begins) - 1,
                self.totals,
                self._on_stream().cuda_stream,
            )

    def add_sums(self, other: DeviceClassLoss) -> None:
        """Adds the sums and counts of another on this device, also of what it has skipped."""
        self._copied = None
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                other._on_stream()
                self._on_stream()
        self._sum.add_(other._sum)
        self._integers.add_(other._integers)

    @property
    def _sum(self) -> torch.Tensor:
        return self.words[: self.num_classes].view(torch.float64)

    @property
    def _integers(self) -> torch.Tensor:
        return self.words[self.num_classes : 2 * self.num_classes + _UNUSUAL]

    def add_by_torch(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds losses by torch's operations, on any device; as add() does, but for rounding."""
        classes = classes.long()
        in_range = (classes >= 0) & (classes < self.num_classes)
        kept = in_range & losses.float().isfinite()
        # What is out of range and what is not finite is counted behind the counts.
        of_integer = torch.where(kept, classes, self.num_classes + in_range.long())
        self._integers.index_add_(0, of_integer, torch.ones_like(of_integer))
        self._sum.index_add_(0, torch.where(kept, classes, 0), torch.where(kept, losses, 0).double())


def by_kernel(device: torch.device) -> bool:
    """Whether kernels of this package run there."""
    return device.type == "cuda" and cuda_usable()


def num_words(num_classes: int, device: torch.device) -> int:
    """How many words of 64 bits the sums of losses on a device take."""
    return (2 + (_cuda.UNFINISHED if by_kernel(device) else 0)) * num_classes + _UNUSUAL


def name_of(dtype: torch.dtype) -> str:
    """Name of a dtype, as numpy has it."""
    return str(dtype).removeprefix("torch.")
