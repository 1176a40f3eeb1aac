"""Class loss sums that stay on a device, so that losses are recorded without blocking the host."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast._checks import warn
from l2m_fast.losses.arrays import MAX_LOSSES_ON_DEVICE
from l2m_fast.losses.sums import HostClassLoss, num_host_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Diagnostic words: losses skipped for a class out of range, and for being non-finite, and targets out of range.
_NUM_DIAGNOSTICS = 3
INVALID_CLASSES, NOT_FINITE, INVALID_TARGETS = range(3)
_DIGIT_BITS = 32  # of a carried digit, see exact_sums.hpp


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device with an index. Pin it first, because a copy from pageable memory blocks the host."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class DeviceClassLoss:
    """Sum and number of losses of each class on a device, copied to the CPU when read. Implements `ClassSums`.

    Losses are summed without rounding, as integers: the same bits on every device and in every order (gpu-to-gpu
    deterministic), by a kernel of this package, or by torch. Losses that are non-finite as a float32 or whose class is
    out of range are skipped and counted. The part of a float64 loss below 2^-149 is lost.

    May be used on any stream: each stream waits for the one used before.

    Args:
        num_classes: Number of classes K.
        device: Device of the sums.
        words: Memory of the sums, int64, shape `[num_words(K)]`: those of a `HostClassLoss`, then diagnostic words.
            None: new memory, initially 0.
        num_losses: Number of losses that `words` hold already.
    """

    def __init__(
        self, num_classes: int, device: torch.device, words: torch.Tensor | None = None, num_losses: int = 0
    ) -> None:
        if words is None:
            with torch.inference_mode(False):  # otherwise they could not be modified in another mode
                words = torch.zeros(num_words(num_classes), dtype=torch.int64, device=device)
        # The device of the tensor has an index; torch.device("cuda") does not equal torch.device("cuda:0").
        self.num_classes, self.device, self.words = num_classes, words.device, words
        self._uncarried = num_losses  # losses added since the digits were carried
        self._copied: tuple[torch.Tensor, torch.cuda.Event] | None = None  # valid after the event
        self._stream: torch.cuda.Stream | None = None  # the last stream used
        if self.device.type == "cuda" and not torch.compiler.is_compiling():
            self._stream = torch.cuda.current_stream(self.device)

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """K, and the addresses of digits, counts and diagnostic words, for a kernel."""
        k, digits = self.num_classes, _core.SUM_DIGITS * self.num_classes
        return k, self._address(0), self._address(digits), self._address(digits + k)

    @property
    def invalid_targets(self) -> int:
        """Address of the number of targets out of range, for a kernel."""
        return self._address(num_host_words(self.num_classes) + INVALID_TARGETS)

    @property
    def diagnostics(self) -> torch.Tensor:
        """Diagnostic words on the device."""
        return self.words[num_host_words(self.num_classes) :]

    def _address(self, word: int) -> int:
        return self.words.data_ptr() + self.words.element_size() * word

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

    def read(self) -> HostClassLoss:
        """Return sums and counts on the CPU. Wait for the device.

        Raises:
            ValueError: Classes or targets were out of range, and their losses skipped. Raised once.
        """
        words, num_words = self._on_cpu(), num_host_words(self.num_classes)
        for word, rule in (
            (INVALID_CLASSES, f"classes must be in [0, {self.num_classes})"),
            (INVALID_TARGETS, "targets must be columns of logits or ignore_index"),
        ):
            num_invalid = int(words[num_words + word])
            if num_invalid > 0:
                with torch.inference_mode(self.words.is_inference()):
                    self.diagnostics[word], self._copied = 0, None
                msg = f"{rule} (got {num_invalid} out of range, skipped, on {self.device})"
                raise ValueError(msg)
        return HostClassLoss(words[:num_words].numpy().copy())

    @property
    def not_finite(self) -> int:
        """Number of losses skipped because they are non-finite. Waits for the device."""
        return int(self._on_cpu()[num_host_words(self.num_classes) + NOT_FINITE])

    def start_reading(self) -> None:
        """Start copying the sums to the CPU, so that `read()` does not wait for later work on the device.

        Call it after the last `add()`.
        """
        if self.device.type == "cuda":
            self._copied = self._copy()

    def _copy(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        with torch.cuda.device(self.device):
            stream = self._on_stream()
            copy = torch.empty_like(self.words, device="cpu", pin_memory=True).copy_(self.words, non_blocking=True)
            return copy, stream.record_event()

    def _on_cpu(self) -> torch.Tensor:
        if self.device.type != "cuda":
            return self.words.cpu()
        copy, event = self._copied or self._copy()
        event.synchronize()
        return copy

    @contextmanager
    def _in_turn(self) -> Iterator[Any]:
        """Make the device current, and its current stream wait for the one used before. Yield the stream."""
        if self.device.type != "cuda" and not has_kernels(self.device):
            yield None
            return
        with torch.cuda.device(self.device):
            yield self._on_stream()

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

    # ---- adding, which does not block the host

    def add(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Add losses.

        Args:
            losses: Loss of each sample, shape `[n]`; float16, bfloat16, float32 or float64, on this device.
            classes: Class of each loss, shape `[n]`; integers, on this device or on the CPU.
        """
        losses, classes = losses.detach().contiguous(), to_device(classes, self.device).contiguous()
        self._copied = None
        with self._in_turn() as stream:
            self._carry_before(losses.numel())
            if not has_kernels(self.device):
                self.add_with_torch(losses, classes)
                return
            _cuda.add_class_loss(
                losses.data_ptr(),
                dtype_name(losses.dtype),
                classes.data_ptr(),
                classes.element_size(),
                classes.dtype.is_signed,
                len(losses),
                self.totals,
                stream.cuda_stream,
            )

    def add_sums(self, other: DeviceClassLoss) -> None:
        """Add the sums, the counts and the diagnostic words of another object on this device."""
        self._copied = None
        with other._in_turn(), self._in_turn():
            self._carry_before(other._uncarried + 1)
            self.words.add_(other.words)

    def add_with_torch(self, losses: torch.Tensor, classes: torch.Tensor) -> None:
        """Add losses by torch operations, on any device. The result is that of `add()`."""
        classes = classes.long()
        in_range = (classes >= 0) & (classes < self.num_classes)
        first = losses.float()
        kept = in_range & first.isfinite()
        # The diagnostic words for classes out of range and non-finite losses follow the counts.
        counter = torch.where(kept, classes, self.num_classes + in_range.long())
        self.words[_core.SUM_DIGITS * self.num_classes :].index_add_(0, counter, torch.ones_like(counter))
        at = torch.where(kept, classes, 0) * _core.SUM_DIGITS
        rest = torch.where(kept, losses, 0)
        for _ in range(3 if losses.dtype == torch.float64 else 1):  # three floats hold the bits of a double
            piece = rest.float()
            self._add_floats(piece, at)
            rest = rest - piece

    def _add_floats(self, x: torch.Tensor, at: torch.Tensor) -> None:
        """Add finite float32 numbers to the digits that begin at words `at`, as `ExactSum::add()` does."""
        bits = x.view(torch.int32).long()
        exponent = (bits >> 23) & 0xFF
        place = (exponent - 1).clamp(min=0)
        fraction = (bits & 0x7FFFFF) + torch.where(exponent > 0, 1 << 23, 0)
        shifted, sign = fraction << (place % _DIGIT_BITS), torch.where(bits < 0, -1, 1)
        first = at + place // _DIGIT_BITS
        self.words.index_add_(0, first, sign * (shifted & (2**_DIGIT_BITS - 1)))
        self.words.index_add_(0, first + 1, sign * (shifted >> _DIGIT_BITS))

    def _carry_before(self, num_losses: int) -> None:
        """Carry the digits if they might overflow when losses are added. A captured graph adds them many times."""
        if torch.compiler.is_compiling():
            return  # the words are new
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if capturing or self._uncarried + num_losses > MAX_LOSSES_ON_DEVICE:
            digits = self.words[: _core.SUM_DIGITS * self.num_classes].view(self.num_classes, -1)
            high = digits[:, :-1] >> _DIGIT_BITS
            digits[:, :-1] &= 2**_DIGIT_BITS - 1
            digits[:, 1:] += high
            if not capturing:
                self._uncarried = 0
        self._uncarried += num_losses


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


def num_words(num_classes: int) -> int:
    """Return the number of 64-bit words that class loss sums need on a device."""
    return num_host_words(num_classes) + _NUM_DIAGNOSTICS


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without `torch.`, as in NumPy."""
    return str(dtype).removeprefix("torch.")


def loss_dtype(logits: torch.dtype, *, wide: bool) -> torch.dtype:
    """Return the dtype of a mean cross entropy: that of the logits, or if `wide`, the one in which it is computed."""
    return torch.promote_types(logits, torch.float32) if wide else logits
