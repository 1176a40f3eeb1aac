"""`Normalized`, an array of bytes that are converted to floats in each batch."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast._checks import check_choice, checked_int, shortened, warn

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

_DTYPES = ("float16", "bfloat16", "float32")
_MAX_NORMALIZED = 256.0  # far beyond any byte that is normalized by mean and std in units of bytes


class Normalized:
    """Array of bytes whose batches are `(x - mean) / std` per channel; pass it to `Loader` in place of the array.

    Computed in float32 and rounded once to `dtype`, so that a batch has the same bits on every device. The core and the
    CUDA kernels of this package convert rows while they gather them; otherwise torch converts the batch.

    Args:
        array: Array of uint8, shape `[N, ...]`: a torch tensor, a NumPy array or np.memmap.
        mean: Mean of each channel in units of bytes (0 to 255), finite; a single number applies to all channels.
            Multiply the mean of data scaled to 0..1 by 255.
        std: Standard deviation of each channel in the same units, above 0.
        dtype: Dtype of the batches: "float16", "bfloat16" (not with `format="numpy"`) or "float32", or the same dtype
            of torch or NumPy.
        channel_dim: Channel dimension of a row: 0 for `[N, C, H, W]`, -1 for `[N, H, W, C]`.

    Raises:
        TypeError: The array is not an array of bytes.
        ValueError: Another argument is invalid.

    Warns:
        RuntimeWarning: A byte is converted to a number beyond 256 in absolute value, so mean and std have a wrong unit.
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
            msg = f"array must be uint8 of shape [N, ...] with at least two dimensions, none of them 0 (got {got})"
            raise TypeError(msg)
        dtype = _dtype_name(dtype)
        check_choice("dtype", dtype, _DTYPES)
        row_shape = tuple(array.shape[1:])
        dim = checked_int("channel_dim", channel_dim, -len(row_shape), len(row_shape) - 1) % len(row_shape)
        self.array, self.dtype = array, dtype
        self.num_channels, self.channel_size = row_shape[dim], int(np.prod(row_shape[dim + 1 :]))
        channels = f"{self.num_channels} channels, dimension {channel_dim} of rows of shape {row_shape}"
        self.mean, self.std = (
            self._per_channel(name, values, channels) for name, values in (("mean", mean), ("std", std))
        )
        if not (self.std > 0).all():
            msg = f"std must be above 0 (got {shortened(std)})"
            raise ValueError(msg)
        self._warn_of_units()
        self._shape = (self.num_channels, *[1] * (len(row_shape) - dim - 1))  # broadcast against a row

    def _per_channel(self, name: str, values: ArrayLike, channels: str) -> NDArray[np.float32]:
        try:
            given = np.asarray(values)
        except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that require a gradient
            given = np.empty(0, object)
        numbers = given.dtype.kind in "iuf"
        with np.errstate(over="ignore"):
            floats = given.astype(np.float32) if numbers else np.empty(0, np.float32)
        if floats.shape not in ((), (self.num_channels,)) or not np.isfinite(floats).all():
            msg = f"{name} must be a finite number, or one for each of the {channels} (got {shortened(values)})"
            raise ValueError(msg)
        return np.broadcast_to(floats, self.num_channels).copy()

    def _warn_of_units(self) -> None:
        ends = np.abs((np.array([[0], [255]], np.float32) - self.mean) / self.std).max(axis=0)
        if ends.max() > _MAX_NORMALIZED:
            channel = int(ends.argmax())
            msg = (
                f"mean and std must be in units of bytes, 0 to 255 (got a byte of channel {channel} converted to "
                f"{ends[channel]:.0f} in absolute value): multiply the mean and std of data scaled to 0..1 by 255"
            )
            warn(msg)

    def copy(self) -> Normalized:
        """Return a copy with the same array, whose options the user cannot change."""
        copied = copy.copy(self)
        copied.mean, copied.std = self.mean.copy(), self.std.copy()
        return copied

    def normalize_tensor(self, batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        """Return the floats of a batch, given `mean` and `std` on the device of the batch."""
        import torch

        floats = batch.to(torch.float32).sub_(mean.view(self._shape)).div_(std.view(self._shape))
        return floats.to(getattr(torch, self.dtype))


def _dtype_name(dtype: Any) -> Any:
    """Return the name of a torch or NumPy dtype, and any other value unchanged."""
    if isinstance(dtype, (np.dtype, type)):
        try:
            return np.dtype(dtype).name
        except TypeError:
            return dtype
    return str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
