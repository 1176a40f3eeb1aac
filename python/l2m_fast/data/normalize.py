"""Bytes that become floats on their way into a batch."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import choice, shortened, warn, whole

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

_DTYPES = ("float16", "bfloat16", "float32")
_ABSURD = 256.0  # what no byte that is normalized in units of the bytes comes near


class Normalized:
    """Data of bytes whose batches are `(x - mean) / std`, channel by channel; put it where `data` has the array.

    Computed in float32 and rounded once to `dtype`: the same bits wherever a batch is made. Done while the rows are
    gathered, where the core or a kernel of this package gathers them; elsewhere on the batch.

    Args:
        array: uint8, shape `[N, ...]`: a torch tensor, a numpy array or np.memmap.
        mean: Mean of each channel in units of the bytes (0 to 255), finite; one number serves all channels. Of data scaled to
            0..1, multiply it by 255.
        std: Standard deviation of each channel in the same units, above 0.
        dtype: Dtype of the batches: "float16", "bfloat16" (not with `format="numpy"`) or "float32", or torch's or NumPy's.
        channel_dim: Dimension of a row that counts channels: 0 for `[N, C, H, W]`, -1 for `[N, H, W, C]`.

    Raises:
        TypeError: The array is not of bytes.
        ValueError: Another argument is not as described.

    Warns:
        RuntimeWarning: A byte becomes a number beyond 256 in absolute value: mean and std are of another unit.
    """

    def __init__(
        self, array: Any, mean: ArrayLike, std: ArrayLike, *, dtype: Any = "float32", channel_dim: int = 0
    ) -> None:
        is_array = hasattr(array, "dtype") and hasattr(array, "shape")
        if (
            not is_array
            or str(array.dtype).removeprefix("torch.") != "uint8"
            or len(array.shape) < 2
            or 0 in array.shape
        ):
            got = f"{array.dtype} of shape {tuple(array.shape)}" if is_array else type(array).__name__
            msg = f"a normalized array must be uint8 of shape [N, ...] with at least two dimensions, none of them 0 (got {got})"
            raise TypeError(msg)
        dtype = _name_of(dtype)
        choice("dtype", dtype, _DTYPES)
        row_shape = tuple(array.shape[1:])
        dim = whole("channel_dim", channel_dim, -len(row_shape), len(row_shape) - 1) % len(row_shape)
        self.array, self.dtype = array, dtype
        self.num_channels, self.channel_size = row_shape[dim], int(np.prod(row_shape[dim + 1 :]))
        self.mean, self.std = (self._of_channels(name, values) for name, values in (("mean", mean), ("std", std)))
        if not (self.std > 0).all():
            msg = f"std must be above 0 (got {shortened(std)})"
            raise ValueError(msg)
        self._warn_of_units()
        self._shape = (self.num_channels, *[1] * (len(row_shape) - dim - 1))  # broadcast against a row

    def _of_channels(self, name: str, values: ArrayLike) -> NDArray[np.float32]:
        try:
            given = np.asarray(values)
        except (TypeError, ValueError, RuntimeError):  # a ragged list, a tensor with a gradient
            given = np.empty(0, object)
        numbers = given.dtype.kind in "iuf"
        with np.errstate(over="ignore"):
            floats = given.astype(np.float32) if numbers else np.empty(0, np.float32)
        if floats.shape not in ((), (self.num_channels,)) or not np.isfinite(floats).all():
            msg = (
                f"{name} must be a finite number, or one for each of the {self.num_channels} channels (got "
                f"{shortened(values)})"
            )
            raise ValueError(msg)
        return np.broadcast_to(floats, self.num_channels).copy()

    def _warn_of_units(self) -> None:
        ends = np.abs((np.array([[0], [255]], np.float32) - self.mean) / self.std).max(axis=0)
        if ends.max() > _ABSURD:
            channel = int(ends.argmax())
            msg = (
                f"a byte of channel {channel} becomes {ends[channel]:.0f} in absolute value: mean and std are in units of the "
                "bytes, 0 to 255; multiply those of data scaled to 0..1 by 255"
            )
            warn(msg)

    def copy(self) -> Normalized:
        """Return one of the same array that nobody else can change."""
        copied = copy.copy(self)
        copied.mean, copied.std = self.mean.copy(), self.std.copy()
        return copied

    def describe(self) -> list[Any]:
        """Return the fingerprint entry for saved states."""
        return [self.dtype, self.mean.tolist(), self.std.tolist(), self.num_channels, self.channel_size]

    def of_torch(self, batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        """Return the floats of a batch, with the `mean` and `std` of this where the batch is."""
        import torch

        floats = batch.to(torch.float32).sub_(mean.view(self._shape)).div_(std.view(self._shape))
        return floats.to(getattr(torch, self.dtype))


def _name_of(dtype: Any) -> Any:
    """Return the name of a dtype of torch or NumPy; a string, or anything else, as it is."""
    if isinstance(dtype, (np.dtype, type)):
        try:
            return np.dtype(dtype).name
        except TypeError:
            return dtype
    return str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
