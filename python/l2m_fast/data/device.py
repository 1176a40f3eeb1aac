"""Batches on a CUDA device: copied ahead of time, or gathered on the device that holds the data."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch

from l2m_fast import _core
from l2m_fast._build_info import _cuda
from l2m_fast.losses.device import has_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from l2m_fast.data.fields import Field, Output
    from l2m_fast.data.normalize import Normalized


_ROW_IDS: Output = (None, 0, 64, [])  # output of the core's field of row ids
_BLOCK = 16  # batches whose row ids are copied together, and maximum number that are gathered together
_MAX_GATHERED = 32 << 20  # bytes of batches that are gathered together, which then fit into the cache of a device


def pinned_empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return pinned memory of torch's caching host allocator, not reused before copies from it finish."""
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)


class PinnedBatches:
    """Allocator of batches in pinned memory.

    Args:
        fields: Row shape and dtype of each field.
        num_rows: Maximum number of rows of a batch.

    Attributes:
        ahead: Number of batches in flight to a device, 0.
        refill: Threshold for sending more batches, 0.
    """

    ahead = refill = 0

    def __init__(self, fields: Sequence[tuple[tuple[int, ...], torch.dtype]], num_rows: int) -> None:
        self._fields, self._num_rows = fields, num_rows

    def lend(self, f: int) -> torch.Tensor:
        """Return memory for a batch of field f."""
        row_shape, dtype = self._fields[f]
        with torch.inference_mode(False):  # later batches may be used in another mode
            return pinned_empty((self._num_rows, *row_shape), dtype)


class Sent(NamedTuple):
    """Batch in flight to the device.

    Attributes:
        arrays: Fields copied on the copy stream.
        ready: Event recorded after these copies; None if there are none.
        block: Block that has the batch's row ids, for the fields that reside on the device; None if there are none.
        position: Position of the batch in the block.
    """

    arrays: dict[int, torch.Tensor]
    ready: torch.cuda.Event | None
    block: ResidentBlock | None
    position: int


class Normalize(NamedTuple):
    """Conversion of bytes to floats on a device.

    Attributes:
        normalized: Array with its options.
        mean: Mean of each channel, on the device.
        std: Standard deviation of each channel, on the device.
    """

    normalized: Normalized
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, normalized: Normalized) -> Normalize:
        """Return the conversion for bytes on `device`."""
        return cls(normalized, *(torch.from_numpy(x).to(device) for x in (normalized.mean, normalized.std)))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the floats."""
        dtype: torch.dtype = getattr(torch, self.normalized.dtype)
        return dtype

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the floats of a batch, computed by torch operations."""
        return self.normalized.normalize_tensor(batch, self.mean, self.std)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep mean and std from being reused before `stream` has read them."""
        self.mean.record_stream(stream)
        self.std.record_stream(stream)

    def kernel_arguments(self) -> tuple[str, int, int, int, int]:
        """Return the arguments of the kernel."""
        options = self.normalized
        return options.dtype, self.mean.data_ptr(), self.std.data_ptr(), options.num_channels, options.channel_size


class DeviceGather:
    """Fields whose rows are gathered by the device, from its own memory or from pinned memory.

    Args:
        fields: Fields by their position in the data.
        normalize: Conversions of bytes to floats, by the same positions.
        device: Device that gathers.
    """

    def __init__(self, fields: dict[int, Field], normalize: dict[int, Normalize], device: torch.device) -> None:
        self._fields, self._device = fields, device
        self._normalize = {f: normalize[f] for f in fields if f in normalize}
        self._layouts = [
            (f, field.row_shape, normalize[f].dtype if f in normalize else field.torch_dtype)
            for f, field in fields.items()
        ]
        self._row_bytes = sum(math.prod(row_shape) * dtype.itemsize for _, row_shape, dtype in self._layouts)
        self._kernel = None
        if has_kernels(device):
            arguments = {f: conversion.kernel_arguments() for f, conversion in self._normalize.items()}
            self._kernel = _cuda.Gather([(*field.memory, arguments.get(f)) for f, field in fields.items()])

    def max_batches(self, num_rows: int) -> int:
        """Return how many batches of at most `num_rows` rows are gathered together, at least 1."""
        fit = _MAX_GATHERED // max(1, num_rows * self._row_bytes)
        return 1 if self._kernel is None else max(1, min(fit, _BLOCK))

    def __call__(
        self, row_ids: torch.Tensor, sizes: Sequence[int], stream: torch.cuda.Stream
    ) -> list[dict[int, torch.Tensor]]:
        """Return the rows of batches.

        Args:
            row_ids: Row ids of all batches, one after the other.
            sizes: Number of rows of each batch.
            stream: Current stream of the device, on which the rows are gathered.
        """
        if self._kernel is None:
            return [self._gather_with_torch(ids) for ids in row_ids.split(list(sizes))]
        # Not views of one tensor, which would share a version counter and be saved to a file as a whole.
        with torch.inference_mode(False):  # later batches may be used in another mode
            batches = [
                {f: torch.empty((n, *shape), dtype=dtype, device=self._device) for f, shape, dtype in self._layouts}
                for n in sizes
            ]
        outs = [array.data_ptr() for batch in batches for array in batch.values()]
        with torch.cuda.device(self._device):
            self._kernel(row_ids.data_ptr(), sizes, outs, stream.cuda_stream)
        return batches

    def _gather_with_torch(self, row_ids: torch.Tensor) -> dict[int, torch.Tensor]:
        rows = {f: field.array.index_select(0, row_ids) for f, field in self._fields.items()}
        return {f: self._normalize[f](array) if f in self._normalize else array for f, array in rows.items()}

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of the fields from being reused before `stream` has read it."""
        for field in self._fields.values():
            if field.on_cuda:
                field.array.record_stream(stream)
        for conversion in self._normalize.values():
            conversion.record_stream(stream)


class ResidentBlock:
    """Batches whose row ids were copied to a device together, for fields that reside there.

    Args:
        gather: The fields.
        row_ids: Row ids of the batches, on the device, copied on the current stream.
        sizes: Number of rows of each batch.
    """

    def __init__(self, gather: DeviceGather, row_ids: torch.Tensor, sizes: list[int]) -> None:
        self._gather, self._row_ids, self._sizes = gather, row_ids, sizes
        self._begins = [0, *accumulate(sizes)]
        self._at_once = gather.max_batches(max(sizes))
        self._gathered: dict[int, dict[int, torch.Tensor]] = {}  # by position
        self._follow(torch.cuda.current_stream())

    def receive(self, position: int, stream: torch.cuda.Stream) -> dict[int, torch.Tensor]:
        """Return the resident fields of a batch, ready on `stream`, the current stream of the device.

        The same launch gathers the next batches, if they are small.
        """
        is_other = stream != self._stream
        if is_other:
            stream.wait_event(self._ready)
        if position in self._gathered:
            arrays = self._gathered.pop(position)
            for array in arrays.values() if is_other else ():
                array.record_stream(stream)
            return arrays
        if is_other:
            self._row_ids.record_stream(stream)
        end = min(position + self._at_once, len(self._sizes))
        row_ids = self._row_ids[self._begins[position] : self._begins[end]]
        try:
            arrays, *others = self._gather(row_ids, self._sizes[position:end], stream)
        except torch.cuda.OutOfMemoryError:
            if end == position + 1:
                raise
            self._at_once = 1
            return self.receive(position, stream)
        self._gathered = dict(enumerate(others, position + 1))
        if others:
            self._follow(stream)
        return arrays

    def _follow(self, stream: torch.cuda.Stream) -> None:
        """Note that the last work was started on `stream`."""
        self._stream, self._ready = stream, stream.record_event()


class DeviceBatches:
    """Transfer of batches to a CUDA device, without blocking the host.

    Resident fields, which are in the memory of the device, are gathered on the consumer's stream when a batch is
    yielded, together with the next ones if they are small. Only row ids are copied, for several batches at once. The
    other fields are copied ahead of time on a separate stream, and the consumer's stream waits for it: the device reads
    fields in pinned memory itself; the remaining fields are staged, that is gathered by the core into pinned memory and
    then copied.

    Args:
        fields: Fields of the data.
        device: Device with an index.
        num_rows: Maximum number of rows of a batch.
        prefetch: Number of batches copied ahead. If only row ids are copied, which are small, more are.

    Attributes:
        core_fields: Fields that the core gathers.
        outputs: Dtype and row shape of their batches.
        lend: Function that returns memory for a batch of one of them.
        ahead: Maximum number of batches in flight, including the consumer's.
        refill: Threshold: more batches are sent when fewer than this are in flight.
    """

    def __init__(self, fields: Sequence[Field], device: torch.device, num_rows: int, prefetch: int) -> None:
        self._device, self._num_fields = device, len(fields)
        normalize = {
            f: Normalize.on(device, field.normalized) for f, field in enumerate(fields) if field.normalized is not None
        }
        resident = {f: field for f, field in enumerate(fields) if is_resident(device, field)}
        pinned = {f: field for f, field in enumerate(fields) if f not in resident and can_read(device, field)}
        staged = {f: field for f, field in enumerate(fields) if f not in resident and f not in pinned}
        self._staged = list(staged)
        self._normalize_staged = {f: normalize[f] for f in staged if f in normalize}
        self._resident = DeviceGather(resident, normalize, device) if resident else None
        self._pinned = DeviceGather(pinned, normalize, device) if pinned else None
        self._stream = torch.cuda.Stream(device) if staged or pinned else None
        if self._pinned is not None and self._stream is not None:
            self._pinned.record_stream(self._stream)
        self._streams: list[torch.cuda.Stream] = []  # streams on which batches were yielded
        self.core_fields = [_core.dense(*field.memory) for field in staged.values()]
        self.outputs: list[Output] = [field.output() for field in staged.values()]
        layouts = [(field.row_shape, field.torch_dtype) for field in staged.values()]
        if resident or pinned:
            self.core_fields.append(_core.row_ids())
            self.outputs.append(_ROW_IDS)
            layouts.append(((), torch.int64))
        self.lend = PinnedBatches(layouts, num_rows).lend
        only_ids = self._stream is None and prefetch > 0
        self.ahead = max(prefetch, _BLOCK) if only_ids else prefetch + 1
        self.refill = self.ahead // 2 + 1 if only_ids else self.ahead

    def __del__(self) -> None:
        """Wait for kernels that still read pinned memory, because torch does not know about them and may free it."""
        if getattr(self, "_pinned", None) is not None and self._stream is not None:
            self._stream.synchronize()

    def send(self, batches: list[list[torch.Tensor]]) -> list[Sent]:
        """Start copying batches to the device."""
        with torch.inference_mode(False), torch.cuda.device(self._device):
            ahead = [self._send_ahead(batch) for batch in batches]
            if self._resident is None:
                return [Sent(*arrays, None, 0) for arrays in ahead]
            ids = [batch[-1] for batch in batches]
            sizes = [row_ids.shape[0] for row_ids in ids]
            merged = ids[0]
            if len(ids) > 1:
                merged = torch.cat(ids, out=pinned_empty((sum(sizes),), torch.int64))
            block = ResidentBlock(self._resident, self._copy(merged), sizes)
            return [Sent(*arrays, block, position) for position, arrays in enumerate(ahead)]

    def receive(self, sent: Sent) -> list[torch.Tensor]:
        """Return the fields of a batch, ready on the current stream."""
        arrays, stream = dict(sent.arrays), torch.cuda.current_stream(self._device)
        if stream not in self._streams:
            for normalize in self._normalize_staged.values():
                normalize.record_stream(stream)
            if self._resident is not None:
                self._resident.record_stream(stream)
            self._streams.append(stream)
        if sent.ready is not None:
            stream.wait_event(sent.ready)
            for array in sent.arrays.values():
                array.record_stream(stream)
        for f, normalize in self._normalize_staged.items():
            arrays[f] = normalize(arrays[f])
        if sent.block is not None:
            arrays.update(sent.block.receive(sent.position, stream))
        return [arrays[f] for f in range(self._num_fields)]

    def _send_ahead(self, batch: list[torch.Tensor]) -> tuple[dict[int, torch.Tensor], torch.cuda.Event | None]:
        """Start the copies on the copy stream. Return the arrays and an event recorded after the copies."""
        if self._stream is None:
            return {}, None
        with torch.cuda.stream(self._stream):
            arrays = {f: self._copy(array) for f, array in zip(self._staged, batch, strict=False)}
            if self._pinned is not None:
                row_ids = self._copy(batch[-1])
                arrays.update(*self._pinned(row_ids, [len(row_ids)], self._stream))
            return arrays, self._stream.record_event()

    def _copy(self, array: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(array, device=self._device).copy_(array, non_blocking=True)


def is_resident(device: torch.device, field: Field) -> bool:
    """Return whether a field is in the memory of `device`."""
    return isinstance(field.array, torch.Tensor) and field.array.device == device


def can_read(device: torch.device, field: Field) -> bool:
    """Return whether kernels on `device` can read a field in host memory, which must be pinned."""
    return has_kernels(device) and isinstance(field.array, torch.Tensor) and field.array.is_pinned()
