"""Bytes that become floats on their way into a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import choice, whole

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

_DTYPES = ("float16", "bfloat16", "float32")


class Normalized:
    """Data of bytes whose batches are `(x - mean) / std`, channel by channel; put it where `data` has the array.

    Computed in float32 and rounded once to `dtype`: the same bits wherever a batch is made. Where a CUDA device gathers the
    rows, it is done in the same pass; elsewhere on the batch.

    Args:
        array: uint8, shape `[N, ...]`: a torch tensor, a numpy array or np.memmap.
        mean: Of each channel, in units of the bytes (0 to 255); finite. A number: of all channels.
        std: Likewise; not 0.
        dtype: Of the batches: "float16", "bfloat16" (not with `format="numpy"`) or "float32".
        channel_dim: Dimension of a row that counts channels: 0 for `[N, C, H, W]`, -1 for `[N, H, W, C]`.

    Raises:
        TypeError: The array is not of bytes.
        ValueError: Another argument is not as described.
    """

    def __init__(
        self, array: Any, mean: ArrayLike, std: ArrayLike, *, dtype: str = "float32", channel_dim: int = 0
    ) -> None:
        is_array = hasattr(array, "dtype") and hasattr(array, "shape")
        if not is_array or str(array.dtype).removeprefix("torch.") != "uint8" or len(array.shape) < 2:
            got = f"{array.dtype} of shape {tuple(array.shape)}" if is_array else type(array).__name__
            msg = f"a normalized array must be uint8 of shape [N, ...] with at least two dimensions (got {got})"
            raise TypeError(msg)
        choice("dtype", dtype, _DTYPES)
        row_shape = tuple(array.shape[1:])
        dim = whole("channel_dim", channel_dim, -len(row_shape), len(row_shape) - 1) % len(row_shape)
        self.array, self.dtype = array, dtype
        self.num_channels, self.channel_size = row_shape[dim], int(np.prod(row_shape[dim + 1 :]))
        self.mean, self.std = (self._of_channels(name, values) for name, values in (("mean", mean), ("std", std)))
        if (self.std == 0).any():
            msg = f"std must not be 0 (got {self.std.tolist()})"
            raise ValueError(msg)
        self._shape = (self.num_channels, *[1] * (len(row_shape) - dim - 1))  # broadcast against a row

    def _of_channels(self, name: str, values: ArrayLike) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):
                given = np.asarray(values, np.float32)
        except (TypeError, ValueError):
            given = np.empty((0, 0), np.float32)
        if given.shape not in ((), (self.num_channels,)) or not np.isfinite(given).all():
            msg = (
                f"{name} must be a finite number, or one for each of the {self.num_channels} channels (got {values!r})"
            )
            raise ValueError(msg)
        return np.broadcast_to(given, self.num_channels).copy()

    def describe(self) -> list[Any]:
        """What tells it from others, in a saved state."""
        return [self.dtype, self.mean.tolist(), self.std.tolist(), self.num_channels, self.channel_size]

    def of_numpy(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """The floats of a batch."""
        floats = batch.astype(np.float32)
        floats -= self.mean.reshape(self._shape)
        floats /= self.std.reshape(self._shape)
        return floats.astype(self.dtype, copy=False)

    def of_torch(self, batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        """The floats of a batch, with the `mean` and `std` of this where the batch is."""
        import torch

        floats = batch.to(torch.float32).sub_(mean.view(self._shape)).div_(std.view(self._shape))
        return floats.to(getattr(torch, self.dtype))
