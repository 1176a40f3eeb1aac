"""The limit: limit.c, compiled on first use, which only copies the same rows of both fields."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.native import library
from benchmarks.peers import Peer
from benchmarks.workloads import NUM_THREADS, Fields, permutations

BUFFERS_PER_THREAD = 2
MAX_CACHED_BYTES = 16 << 20  # of buffers; larger ones are written with non-temporal stores


class _Field(ctypes.Structure):
    _fields_ = (("source", ctypes.c_void_p), ("buffers", ctypes.c_void_p), ("width", ctypes.c_size_t))


class _Copies:
    """Copies epochs of both fields with limit.c."""

    def __init__(self, fields: Fields, batch_size: int, num_threads: int, orders: NDArray[np.uint32]) -> None:
        self._fields = (fields.x, fields.y)
        self._batch_size = batch_size
        self._num_threads = num_threads
        self._orders = orders
        self._reused = self._buffers(BUFFERS_PER_THREAD * num_threads)
        self._copy_epochs = ctypes.CDLL(str(library("limit"))).copy_epochs
        self._non_temporal = sum(buffer.nbytes for buffer in self._reused) > MAX_CACHED_BYTES

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Copy one epoch with one thread and a buffer for every batch, so that the copies can be checked."""
        num_rows = self._orders.shape[1]
        kept = self._buffers(-(-num_rows // self._batch_size))
        self._copy(kept, epochs=1, num_threads=1)
        return zip(*(torch.split(buffer[:num_rows], self._batch_size) for buffer in kept), strict=True)

    def run(self, epochs: int) -> None:
        """Copy into a few buffers in turn, in one call, so that threads do not wait between epochs."""
        self._copy(self._reused, epochs, self._num_threads)

    def _buffers(self, count: int) -> list[torch.Tensor]:
        return [field.new_zeros((count * self._batch_size, *field.shape[1:])) for field in self._fields]

    def _copy(self, buffers: list[torch.Tensor], epochs: int, num_threads: int) -> None:
        fields = (_Field * len(buffers))(
            *(
                _Field(field.data_ptr(), buffer.data_ptr(), field[0].nbytes)
                for field, buffer in zip(self._fields, buffers, strict=True)
            )
        )
        buffers_per_thread = len(buffers[0]) // self._batch_size // num_threads
        sizes = (*self._orders.shape, self._batch_size, buffers_per_thread, epochs, num_threads)
        failed = self._copy_epochs(
            fields,
            ctypes.c_size_t(len(fields)),
            ctypes.c_void_p(self._orders.ctypes.data),
            *map(ctypes.c_size_t, sizes),
            ctypes.c_int(self._non_temporal),
        )
        if failed:
            msg = f"the limit could not start {num_threads} threads"
            raise RuntimeError(msg)


def limit(
    fields: Fields, batch_size: int, num_threads: int = NUM_THREADS, orders: NDArray[np.uint32] | None = None
) -> Peer:
    """Return the limit, which copies the rows of each of `orders` in turn, one per epoch. None: some permutations."""
    if orders is None:
        orders = permutations(len(fields.y))
    copies = _Copies(fields, batch_size, num_threads, orders)
    return Peer("limit", copies, copies.run)
