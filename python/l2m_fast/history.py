"""`History`, the records of the updates of the proportions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 20


class History(Sequence[dict[str, Any]]):
    """Sequence of records of updates, oldest first. Each item is a dict that is created on access.

    It is a snapshot: later updates do not change it, and it shares no memory with the loader that the user could
    change.
    """

    def __init__(self, chunks: list[NDArray[np.void]]) -> None:
        self._chunks = chunks
        self._ends = np.cumsum([len(chunk) for chunk in chunks]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return one record, or a list of records for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            msg = f"index must be in [{-len(self)}, {len(self)}), as there are {len(self)} records (got {index})"
            raise IndexError(msg)
        chunk = int(np.searchsorted(self._ends, i, side="right"))
        return _as_dict(self._chunks[chunk][i - self._ends[chunk]])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for chunk in self._chunks:
            yield from map(_as_dict, chunk)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (History, list, tuple)) or len(self) != len(other):
            return NotImplemented if not isinstance(other, (History, list, tuple)) else False
        return all(_equal(mine, theirs) for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it compares by value

    def __repr__(self) -> str:
        return f"<History of {len(self)} updates>"


class Recorder:
    """Bounded buffer of the newest records.

    Args:
        num_classes: Number of classes K.
        max_bytes: Maximum memory of all records. The newest chunk is always kept.
    """

    def __init__(self, num_classes: int, max_bytes: int) -> None:
        per_class = (num_classes,)
        self._dtype = np.dtype(
            [
                ("epoch", np.int64),
                ("total_step", np.int64),
                ("proportions", np.float64, per_class),
                ("class_losses", np.float64, per_class),
                ("counts", np.int64, per_class),
            ]
        )
        self._chunk_size = max(_CHUNK_BYTES // self._dtype.itemsize, 1)
        self._max_chunks = max(max_bytes // (self._chunk_size * self._dtype.itemsize), 1)
        # Chunks, and number of records in the last one: replaced as one object, because other threads may look.
        self._kept: tuple[tuple[NDArray[np.void], ...], int] = ((), 0)

    def append(self, *record: Any) -> None:
        """Add a record, with its entries in the order of the dtype. Drop the oldest chunk if the buffer is full."""
        chunks, filled = self._kept
        if not chunks or filled == self._chunk_size:
            # Memory is allocated on demand, because most runs have few updates.
            chunks, filled = (*chunks, np.zeros(self._chunk_size, self._dtype))[-self._max_chunks :], 0
        chunks[-1][filled] = record
        self._kept = (chunks, filled + 1)

    def clear(self) -> None:
        """Remove all records."""
        self._kept = ((), 0)

    def snapshot(self) -> History:
        """Return the records so far."""
        chunks, filled = self._kept
        return History([*chunks[:-1], *(chunk[:filled] for chunk in chunks[-1:])])


def _as_dict(record: Any) -> dict[str, Any]:
    return {
        "epoch": int(record["epoch"]),
        "total_step": int(record["total_step"]),
        **{name: record[name].copy() for name in ("proportions", "class_losses", "counts")},
    }


def _equal(mine: dict[str, Any], theirs: object) -> bool:
    return (
        isinstance(theirs, dict)
        and mine.keys() == theirs.keys()
        and all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)
    )
