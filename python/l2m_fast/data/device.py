"""Batches on a CUDA device: copied or read ahead of time, or gathered where the data live."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast.losses.device import by_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from l2m_fast.data.fields import Field, Output
    from l2m_fast.data.normalize import Normalized


_ROW_IDS: Output = (None, 0, 64, [])  # of the field of the core that has the ids of the rows
_BLOCK = 16  # steps whose ids go over together


def pinned_empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory of torch's caching host allocator, which keeps it from others until copies from it have ended."""
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)


class PinnedBatches:
    """Gives batches pinned memory.

    Args:
        fields: Shape of a row and dtype of each field.
        num_rows: Of a batch, at most.

    Attributes:
        ahead: Batches on their way to a device: none.
        refill: Likewise.
    """

    ahead = refill = 0

    def __init__(self, fields: Sequence[tuple[tuple[int, ...], torch.dtype]], num_rows: int) -> None:
        self._fields, self._num_rows = fields, num_rows

    def lend(self, f: int) -> torch.Tensor:
        """Return room for a batch of field f."""
        row_shape, dtype = self._fields[f]
        return pinned_empty((self._num_rows, *row_shape), dtype)


class Sent(NamedTuple):
    """A batch on its way to the device.

    Attributes:
        arrays: Fields that come on the stream of the copies.
        there: When they are; None where there are none.
        row_ids: On the device, for the fields that live there; None where there are none.
        stream: On which the ids come.
    """

    arrays: dict[int, torch.Tensor]
    there: torch.cuda.Event | None
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


class Gathering:
    """Fields whose rows a device gathers itself, from its own memory or from pinned memory.

    Args:
        fields: By their places in the data.
        normalize: What becomes of bytes, by the same places.
        device: Which gathers.
    """

    def __init__(self, fields: dict[int, Field], normalize: dict[int, Normalize], device: torch.device) -> None:
        self._fields, self._device = fields, device
        self._dtypes = [normalize[f].dtype if f in normalize else field.torch_dtype for f, field in fields.items()]
        self._normalize = {f: normalize[f] for f in fields if f in normalize}
        self._kernel = None
        if by_kernel(device):
            changes = {f: one.for_kernel() for f, one in self._normalize.items()}
            self._kernel = _cuda.Gather([(*field.memory, changes.get(f)) for f, field in fields.items()])

    def __call__(self, row_ids: torch.Tensor, stream: torch.cuda.Stream) -> dict[int, torch.Tensor]:
        """The rows of a batch, which come on `stream`, the current one."""
        if self._kernel is None:
            rows = {f: field.array.index_select(0, row_ids) for f, field in self._fields.items()}
            return {f: self._normalize[f](array) if f in self._normalize else array for f, array in rows.items()}
        num_rows = row_ids.shape[0]
        outs = {
            f: torch.empty((num_rows, *field.row_shape), dtype=dtype, device=self._device)
            for (f, field), dtype in zip(self._fields.items(), self._dtypes, strict=True)
        }
        self._kernel(row_ids.data_ptr(), num_rows, [out.data_ptr() for out in outs.values()], stream.cuda_stream)
        return outs

    def keep_for(self, stream: torch.cuda.Stream) -> None:
        """Keeps memory of the device that is read on `stream` from others until that is done."""
        for field in self._fields.values():
            if field.on_cuda:
                field.array.record_stream(stream)
        for one in self._normalize.values():
            one.mean.record_stream(stream)
            one.std.record_stream(stream)


class DeviceBatches:
    """Takes batches to a CUDA device. The host waits for nothing.

    Fields that live on the device are gathered there, on the consumer's stream, when a batch is handed over: only ids of rows
    are sent, those of several batches in one copy. The others come ahead of time on a stream of their own, for which the
    consumer's stream waits: rows in pinned memory are read by the device itself, the rest is gathered by the core in pinned
    memory and copied.

    Args:
        fields: Of the data.
        device: With an index.
        num_rows: Of a batch, at most.
        prefetch: Batches that come ahead of the consumer's. Where only ids are sent, which take no memory to speak of, more.

    Attributes:
        core_fields: Fields that the core gathers.
        outputs: How their batches look.
        lend: Makes room for a batch of them.
        ahead: Batches on their way at most, the consumer's included.
        refill: More are sent where fewer than this are on their way.
    """

    def __init__(self, fields: Sequence[Field], device: torch.device, num_rows: int, prefetch: int) -> None:
        self._device, self._num_fields = device, len(fields)
        normalize = {
            f: Normalize.on(device, field.normalized) for f, field in enumerate(fields) if field.normalized is not None
        }
        resident = {f: field for f, field in enumerate(fields) if lives_on(device, field)}
        pinned = {f: field for f, field in enumerate(fields) if f not in resident and reads(device, field)}
        staged = {f: field for f, field in enumerate(fields) if f not in resident and f not in pinned}
        self._staged = list(staged)
        self._normalize_staged = {f: normalize[f] for f in staged if f in normalize}
        self._resident = Gathering(resident, normalize, device) if resident else None
        self._pinned = Gathering(pinned, normalize, device) if pinned else None
        self._stream = torch.cuda.Stream(device) if staged or pinned else None
        if self._pinned is not None and self._stream is not None:
            self._pinned.keep_for(self._stream)
        self._users: list[torch.cuda.Stream] = []  # streams on which resident fields were gathered
        self.core_fields = [_core.dense(*field.memory) for field in staged.values()]
        self.outputs: list[Output] = [field.output() for field in staged.values()]
        rooms = [(field.row_shape, field.torch_dtype) for field in staged.values()]
        if resident or pinned:
            self.core_fields.append(_core.row_ids())
            self.outputs.append(_ROW_IDS)
            rooms.append(((), torch.int64))
        self.lend = PinnedBatches(rooms, num_rows).lend
        only_ids = self._stream is None and prefetch > 0
        self.ahead = max(prefetch, _BLOCK) if only_ids else prefetch + 1
        self.refill = self.ahead // 2 + 1 if only_ids else self.ahead

    def __del__(self) -> None:
        """Waits for what still reads pinned memory, which torch does not know of, before that may go."""
        if getattr(self, "_pinned", None) is not None and self._stream is not None:
            self._stream.synchronize()

    def send(self, batches: list[list[torch.Tensor]]) -> list[Sent]:
        """Begins to take batches to the device."""
        with torch.cuda.device(self._device):
            ahead = [self._send_ahead(batch) for batch in batches]
            if self._resident is None:
                return [Sent(*arrays, None, None) for arrays in ahead]
            ids = [batch[-1] for batch in batches]
            sizes = [some.shape[0] for some in ids]
            together = ids[0]
            if len(ids) > 1:
                together = torch.cat(ids, out=pinned_empty((sum(sizes),), torch.int64))
            on_device = self._copy(together).split(sizes)
            stream = torch.cuda.current_stream()
            return [Sent(*arrays, some, stream) for arrays, some in zip(ahead, on_device, strict=True)]

    def receive(self, sent: Sent) -> list[torch.Tensor]:
        """The fields of a batch, there for whoever uses them on the current stream."""
        arrays = dict(sent.arrays)
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            if sent.there is not None:
                stream.wait_event(sent.there)
                for array in sent.arrays.values():
                    array.record_stream(stream)
            for f, normalize in self._normalize_staged.items():
                arrays[f] = normalize(arrays[f])
            if self._resident is not None and sent.row_ids is not None and sent.stream is not None:
                if stream != sent.stream:
                    stream.wait_stream(sent.stream)
                    sent.row_ids.record_stream(stream)
                if stream not in self._users:
                    self._users.append(stream)
                    self._resident.keep_for(stream)
                arrays.update(self._resident(sent.row_ids, stream))
        return [arrays[f] for f in range(self._num_fields)]

    def _send_ahead(self, batch: list[torch.Tensor]) -> tuple[dict[int, torch.Tensor], torch.cuda.Event | None]:
        """What comes on the stream of the copies, and when it is there."""
        if self._stream is None:
            return {}, None
        with torch.cuda.stream(self._stream):
            arrays = {f: self._copy(array) for f, array in zip(self._staged, batch, strict=False)}
            if self._pinned is not None:
                arrays.update(self._pinned(self._copy(batch[-1]), self._stream))
            return arrays, self._stream.record_event()

    def _copy(self, array: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(array, device=self._device).copy_(array, non_blocking=True)


def lives_on(device: torch.device, field: Field) -> bool:
    """Whether a field is in the memory of a device."""
    return isinstance(field.array, torch.Tensor) and field.array.device == device


def reads(device: torch.device, field: Field) -> bool:
    """Whether a device can read a field of the host: over the bus, from pinned memory."""
    return by_kernel(device) and isinstance(field.array, torch.Tensor) and field.array.is_pinned()
