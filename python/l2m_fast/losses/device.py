"""Class loss sums that stay on a device, so that losses are recorded without blocking the host."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from l2m_fast._build_info import _cuda
from l2m_fast._checks import warn
from l2m_fast.losses.sums import ClassLoss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Diagnostic words: classes out of range, non-finite losses, scratch of a kernel, targets out of range, more scratch.
_NUM_DIAGNOSTICS = 5
INVALID_TARGETS = 3
_MAX_SEGMENT_SIZE = 1 << 16  # a single block of a kernel sums each segment


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device with an index. Pin it first, because a copy from pageable memory blocks the host."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceClassLoss:
    """Sum and number of losses of each class on a device, copied to the CPU when read. Implements `ClassSums`.

    Each `add()` sums the losses of a class without rounding, and adds the nearest float64 to the sum of the class: the
    same bits on every device and in every order (gpu-to-gpu deterministic). If the package was built without a CUDA
    compiler, torch sums CUDA losses in an order that may change from run to run, and with it the last bits. Losses
    that are non-finite as a float32 or whose class is out of range are skipped and counted. The part of a float64 loss
    below 2^-149 is lost.

    May be used on any stream: each stream waits for the one used before.

    Args:
        num_classes: Number of classes K.
        device: Device of the sums.
        words: Memory of the sums, int64, shape `[num_words()]`: float64 sums, counts, diagnostic words, and unfinished
            sums of kernels. None: new memory, initially 0.
    """

    def __init__(self, num_classes: int, device: torch.device, words: torch.Tensor | None = None) -> None:
        if words is None:
            with torch.inference_mode(False):  # otherwise they could not be modified in another mode
                words = torch.zeros(num_words(num_classes, device), dtype=torch.int64, device=device)
        # The device of the tensor has an index; torch.device("cuda") does not equal torch.device("cuda:0").
        self.num_classes, self.device, self.words = num_classes, words.device, words
        self._copied: tuple[torch.Tensor, torch.cuda.Event] | None = None  # valid after the event
        self._stream: torch.cuda.Stream | None = None  # the last stream used
        if self.device.type == "cuda" and not torch.compiler.is_compiling():
            self._stream = torch.cuda.current_stream(self.device)

    @property
    def totals(self) -> tuple[int, int, int, int, int]:
        """K, and the addresses of sums, counts, diagnostic words and unfinished sums, for a kernel."""
        address, size = self.words.data_ptr(), self.words.element_size()
        offsets = (0, self.num_classes, 2 * self.num_classes, 2 * self.num_classes + _NUM_DIAGNOSTICS)
        return self.num_classes, *(address + size * offset for offset in offsets)  # type: ignore[return-value]

    @property
    def counters(self) -> int:
        """Address of two words for the loss kernel: number of targets out of range, and scratch that it leaves at 0."""
        return self.words.data_ptr() + self.words.element_size() * (2 * self.num_classes + INVALID_TARGETS)

    # ---- reading, which waits for the device

    @property
    def sum(self) -> NDArray[np.float64]:
        """Sum of the losses of each class, float64, shape `[num_classes]`. Waits; raises like `read()`."""
        return self.read().sum

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of losses of each class, int64, shape `[num_classes]`. Waits; raises like `read()`."""
        return self.read().count

    def __iter__(self) -> Iterator[NDArray[np.float64] | NDArray[np.int64]]:
        """Return an iterator over sum and count, like that of a `ClassLoss`."""
        return iter(self.read())

    def __len__(self) -> int:
        """Return 2, like a `ClassLoss`."""
        return 2

    def __getitem__(self, i: int) -> NDArray[np.float64] | NDArray[np.int64]:
        """Return sum or count, like a `ClassLoss`."""
        return self.read()[i]

    def read(self) -> ClassLoss:
        """Return sums and counts as NumPy arrays. Wait for the device.

        Raises:
            ValueError: Classes or targets were out of range, and their losses skipped. Raised once.
        """
        k, words = self.num_classes, self._on_cpu()
        for word, rule in (
            (0, f"classes must be in [0, {k})"),
            (INVALID_TARGETS, "targets must be columns of logits or ignore_index"),
        ):
            num_invalid = int(words[2 * k + word])
            if num_invalid > 0:
                with torch.inference_mode(self.words.is_inference()):
                    self.words[2 * k + word], self._copied = 0, None
                msg = f"{rule} (got {num_invalid} out of range, skipped, on {self.device})"
                raise ValueError(msg)
        return ClassLoss(words[:k].view(torch.float64).numpy().copy(), words[k : 2 * k].numpy().copy())

    @property
    def not_finite(self) -> int:
        """Number of losses skipped because they are non-finite. Waits for the device."""
        return int(self._on_cpu()[2 * self.num_classes + 1])

    def start_reading(self) -> None:
        """Start copying the sums to the CPU, so that `read()` does not wait for later work on the device.

        Call it after the last `add()`.
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
        """Return the current stream after making it wait for the one used before."""
        stream = torch.cuda.current_stream()
        # A stream under graph capture must not wait for work outside of the graph; torch synchronizes before a capture.
        if stream != self._stream and not torch.cuda.is_current_stream_capturing():
            if self._stream is not None:
                stream.wait_stream(self._stream)
            self.words.record_stream(stream)
            self._stream = stream
        return stream

    @property
    def _read_words(self) -> torch.Tensor:
        return self.words[: 2 * self.num_classes + _NUM_DIAGNOSTICS]

    # ---- adding, which does not block the host

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Add losses.

        Args:
            losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64, on this device.
            classes: Class of each loss, shape `[n]`; integers, on this device or on the CPU.
        """
        losses, classes = losses.detach().contiguous(), to_device(classes, self.device).contiguous()
        self._copied = None
        if has_kernels(self.device):
            with torch.cuda.device(self.device):
                _cuda.add_class_loss(
                    losses.data_ptr(),
                    dtype_name(losses.dtype),
                    classes.data_ptr(),
                    classes.element_size(),
                    classes.dtype.is_signed,
                    len(losses),
                    self.totals,
                    self._on_stream().cuda_stream,
                )
        else:
            self.add_with_torch(losses, classes)

    def add_grouped(self, losses: torch.Tensor, classes: NDArray[np.int32]) -> None:
        """Add losses grouped by class, summed in float64 in an order that depends only on the classes.

        Args:
            losses: Same as for `add()`.
            classes: Class of each loss, on the CPU, grouped and in range.
        """
        starts = np.flatnonzero(np.diff(classes, prepend=-1, append=-1)).astype(np.int32)
        if not has_kernels(self.device) or len(losses) > _MAX_SEGMENT_SIZE:
            self.add(losses, torch.from_numpy(classes))
            return
        segments = torch.from_numpy(np.concatenate((starts, classes[starts[:-1]])))
        segments, losses = to_device(segments, self.device), losses.detach().contiguous()
        self._copied = None
        with torch.cuda.device(self.device):
            _cuda.add_grouped_class_loss(
                losses.data_ptr(),
                dtype_name(losses.dtype),
                segments.data_ptr(),
                len(starts) - 1,
                self.totals,
                self._on_stream().cuda_stream,
            )

    def add_sums(self, other: DeviceClassLoss) -> None:
        """Add the sums, the counts and the diagnostic words of another object on this device."""
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
        return self.words[self.num_classes : 2 * self.num_classes + _NUM_DIAGNOSTICS]

    def add_with_torch(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Add losses by torch operations, on any device. Equals `add()` except for rounding."""
        classes = classes.long()
        in_range = (classes >= 0) & (classes < self.num_classes)
        kept = in_range & losses.float().isfinite()
        # The diagnostic words for classes out of range and non-finite losses follow the counts.
        counter = torch.where(kept, classes, self.num_classes + in_range.long())
        self._integers.index_add_(0, counter, torch.ones_like(counter))
        self._sum.index_add_(0, torch.where(kept, classes, 0), torch.where(kept, losses, 0).double())


def has_kernels(device: torch.device) -> bool:
    """Return whether the kernels of this package run on `device`."""
    if device.type != "cuda" or _cuda is None or not torch.cuda.is_available():
        return False
    return _kernels_run_on(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _kernels_run_on(device: int) -> bool:
    """Return whether the kernels run on a device. Warn if they do not."""
    with torch.cuda.device(device):
        reason = _cuda.why_not_on_current_device()
    if reason:
        warn(f"the CUDA kernels of l2m_fast do not run on cuda:{device}, and torch operations replace them: {reason}")
    return not reason


def num_words(num_classes: int, device: torch.device) -> int:
    """Return the number of 64-bit words that class loss sums need on a device."""
    return (2 + (_cuda.UNFINISHED if has_kernels(device) else 0)) * num_classes + _NUM_DIAGNOSTICS


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without `torch.`, as in NumPy."""
    return str(dtype).removeprefix("torch.")
