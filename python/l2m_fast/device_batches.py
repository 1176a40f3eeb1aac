"""Batches on a CUDA device: staged in pinned memory and copied ahead of time, or gathered by the device itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from l2m_fast._build_info import _cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from l2m_fast.data import Field
    from l2m_fast.normalized import Normalized

    Memory = tuple[int, int, int]
    Output = tuple[None, int, int, list[int]]

_ROW_IDS: tuple[Memory, Output] = (0, 8, 8), (None, 0, 64, [])  # the field of the core that has the ids of the rows
_BLOCK = 16  # steps whose ids go over together


def pinned_empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory of torch's caching host allocator, which keeps it from others until copies from it have ended."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def pinned_memory(
    fields: Sequence[tuple[tuple[int, ...], torch.dtype]], num_rows: int
) -> Callable[[int], torch.Tensor]:
    """What makes room for `num_rows` rows of field f, of a shape and dtype, in pinned memory."""

    def lend(f: int) -> torch.Tensor:
        row_shape, dtype = fields[f]
        return pinned_empty((num_rows, *row_shape), dtype)

    return lend


class Sent(NamedTuple):
    """A batch on its way to the device.

    Attributes:
        staged: Fields that were copied there.
        copied: When they are; None where there are none.
        row_ids: On the device, for the fields that are gathered there; None where there are none.
        stream: On which they were copied.
    """

    staged: list[torch.Tensor]
    copied: torch.cuda.Event | None
    row_ids: torch.Tensor | None
    stream: torch.cuda.Stream | None


class Normalize(NamedTuple):
    """Makes floats of bytes on a device.

    Attributes:
        normalized: How.
        mean: Of each channel, on the device.
        std: Likewise.
    """

    normalized: Normalized
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, normalized: Normalized) -> Normalize:
        """For bytes that are on `device`."""
        return cls(normalized, *(torch.from_numpy(x).to(device) for x in (normalized.mean, normalized.std)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the floats."""
        dtype: torch.dtype = getattr(torch, self.normalized.dtype)
        return dtype

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """The floats of a batch, by torch's operations."""
        return self.normalized.of_torch(batch, self.mean, self.std)

    def for_kernel(self) -> tuple[str, int, int, int, int]:
        """As the kernel is told of it."""
        how = self.normalized
        return how.dtype, self.mean.data_ptr(), self.std.data_ptr(), how.num_channels, how.channel_size


class DeviceBatches:
    """Takes batches from pinned memory to a CUDA device, and gathers there what the device can read itself.

    The host waits for nothing: copies are made on a stream of their own, which the consumer's stream waits for. Gathering
    happens on the consumer's stream.

    Args:
        fields: Of the data. Those on the device, and those in pinned memory, are gathered by the device: only ids of rows go
            there. The others are gathered by the core and copied.
        device: With an index.
        num_rows: Of a batch, at most.
        prefetch: Batches to copy ahead. Where only ids are sent, which take no memory to speak of, more.

    Attributes:
        ahead: Batches on their way to the device at most.
    """

    def __init__(self, fields: Sequence[Field], device: torch.device, num_rows: int, prefetch: int) -> None:
        self._device, self._num_fields = device, len(fields)
        self._gathered = {f: field for f, field in enumerate(fields) if reads(device, field)}
        staged = {f: field for f, field in enumerate(fields) if f not in self._gathered}
        self._staged = list(staged)
        self._stream = torch.cuda.Stream(device) if staged else None
        self.ahead = prefetch if staged or prefetch == 0 else max(prefetch, _BLOCK)
        self._normalize = {
            f: Normalize.on(device, field.normalized) for f, field in enumerate(fields) if field.normalized is not None
        }
        self._dtypes = [
            self._normalize[f].dtype if f in self._normalize else field.torch_dtype
            for f, field in self._gathered.items()
        ]
        self._gather = None
        if self._gathered and _cuda is not None:
            changes = {f: normalize.for_kernel() for f, normalize in self._normalize.items()}
            self._gather = _cuda.Gather([(*field.memory, changes.get(f)) for f, field in self._gathered.items()])
        self.memory = [field.memory for field in staged.values()]
        self.outputs = [field.output for field in staged.values()]
        rooms = [(field.row_shape, field.torch_dtype) for field in staged.values()]
        if self._gathered:
            memory, output = _ROW_IDS
            self.memory.append(memory)
            self.outputs.append(output)
            rooms.append(((), torch.int64))
        self.lend = pinned_memory(rooms, num_rows)

    def send(self, batches: list[list[torch.Tensor]]) -> list[Sent]:
        """Begins to take batches to the device; the ids of the rows of all of them in one copy."""
        with torch.cuda.device(self._device):
            staged = [self._stage(batch[: len(self._staged)]) for batch in batches]
            if not self._gathered:
                return [Sent(*copies, None, None) for copies in staged]
            ids = [batch[-1] for batch in batches]
            sizes = [some.shape[0] for some in ids]
            together = ids[0]
            if len(ids) > 1:
                together = torch.cat(ids, out=pinned_empty((sum(sizes),), torch.int64))
            on_device = self._copy(together).split(sizes)
            stream = torch.cuda.current_stream()
            return [Sent(*copies, some, stream) for copies, some in zip(staged, on_device, strict=True)]

    def receive(self, sent: Sent) -> list[torch.Tensor]:
        """The fields of a batch, there for whoever uses them on the current stream."""
        arrays: dict[int, torch.Tensor] = dict(zip(self._staged, sent.staged, strict=True))
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            if sent.copied is not None:
                stream.wait_event(sent.copied)
                for array in sent.staged:
                    array.record_stream(stream)
            if sent.row_ids is not None and sent.stream is not None:
                if stream != sent.stream:
                    stream.wait_stream(sent.stream)
                    sent.row_ids.record_stream(stream)
                arrays.update(self._gather_rows(sent.row_ids, stream))
            for f, normalize in self._normalize.items():
                if self._gather is None or f not in self._gathered:  # otherwise the kernel has done it
                    arrays[f] = normalize(arrays[f])
        return [arrays[f] for f in range(self._num_fields)]

    def _stage(self, arrays: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
        if self._stream is None:
            return [], None
        with torch.cuda.stream(self._stream):
            return [self._copy(array) for array in arrays], self._stream.record_event()

    def _copy(self, array: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(array, device=self._device).copy_(array, non_blocking=True)

    def _gather_rows(self, row_ids: torch.Tensor, stream: torch.cuda.Stream) -> dict[int, torch.Tensor]:
        if self._gather is None:
            return {f: field.array.index_select(0, row_ids) for f, field in self._gathered.items()}
        num_rows = row_ids.shape[0]
        outs = {
            f: torch.empty((num_rows, *field.row_shape), dtype=dtype, device=self._device)
            for (f, field), dtype in zip(self._gathered.items(), self._dtypes, strict=True)
        }
        self._gather(row_ids.data_ptr(), num_rows, [out.data_ptr() for out in outs.values()], stream.cuda_stream)
        return outs


def reads(device: torch.device, field: Field) -> bool:
    """Whether a device gathers the rows of a field itself: from its own memory, or over the bus from pinned memory."""
    if not isinstance(field.array, torch.Tensor):
        return False
    return field.array.device == device or (_cuda is not None and field.array.is_pinned())
