"""Bytes that are converted to floats in a batch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from l2m_fast import Loader, Normalized

N = 20
BYTES = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 5), np.uint8)
MEAN, STD = [120.0, 3.5, 0.0], [60.0, 1.25, 1.0]


@pytest.mark.parametrize("array", [BYTES, torch.from_numpy(BYTES)], ids=["numpy", "torch"])
@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("channel_dim", [0, -3, 1, -1])
def test_batches_equal_the_formula(
    array: Any, batch_format: Literal["numpy", "torch"], dtype: str, channel_dim: int
) -> None:
    channels = BYTES.shape[1:][channel_dim]
    mean, std = (MEAN, STD) if channels == 3 else (7.25, [*range(1, channels + 1)])
    data = Normalized(array, mean, std, dtype=dtype, channel_dim=channel_dim)
    if (batch_format, dtype) == ("numpy", "bfloat16"):
        with pytest.raises(TypeError, match='must not be bfloat16 with format="numpy"'):
            Loader(data, batch_size=6, format=batch_format, seed=0)
        return
    where = [1] * 4
    where[channel_dim % 3 + 1] = channels
    of_channels = (np.broadcast_to(np.asarray(x, np.float32), channels).reshape(where) for x in (mean, std))
    floats = torch.from_numpy((BYTES.astype(np.float32) - next(of_channels)) / next(of_channels))
    expected = floats.to(getattr(torch, dtype))
    loader = Loader({"x": data, "raw": array}, batch_size=6, format=batch_format, seed=0)
    for batch in loader:
        x = torch.as_tensor(batch["x"])
        assert x.dtype == expected.dtype
        assert torch.equal(x, expected[torch.as_tensor(loader.batch_rows)])
        assert torch.as_tensor(batch["raw"]).dtype == torch.uint8


def test_changing_the_normalized_object_changes_no_batch() -> None:
    data = Normalized(BYTES, MEAN, STD)
    expected = list(Loader(Normalized(BYTES, MEAN, STD), batch_size=6, format="numpy", seed=0))
    loader = Loader(data, batch_size=6, format="numpy", seed=0)
    data.mean[:], data.std[:], data.dtype = 0, 1, "float16"
    for batch, wanted in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(batch, wanted)


def test_a_state_of_another_normalization_is_refused() -> None:
    state = Loader(Normalized(BYTES, MEAN, STD), batch_size=6, seed=0).state_dict()
    Loader(Normalized(torch.from_numpy(BYTES), MEAN, STD), batch_size=6, seed=0).load_state_dict(state)
    for other in (BYTES, Normalized(BYTES, MEAN, 1.0), Normalized(BYTES, MEAN, STD, dtype="float16")):
        with pytest.raises(ValueError, match="fields"):
            Loader(other, batch_size=6, seed=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, r"uint8 of shape \[N, ...\] .* \(got list\)", ([1], 0, 1)),
        (TypeError, r"got Normalized", (Normalized(BYTES, 0, 1), 0, 1)),
        (ValueError, "mean must be a finite number", (BYTES, 1e39, 1)),
        (TypeError, r"got float32 of shape \(20, 3, 4, 5\)", (BYTES.astype(np.float32), 0, 1)),
        (TypeError, r"at least two dimensions, .* .got uint8 of shape \(20,\)", (BYTES[:, 0, 0, 0], 0, 1)),
        (TypeError, r"none of them 0 .got uint8 of shape \(20, 0, 4, 5\)", (BYTES[:, :0], 0, 1)),
        (ValueError, "mean must be a finite number", (BYTES, torch.ones(3, requires_grad=True), 1)),
        (
            ValueError,
            "mean must be a finite number, or one for each of the 3 channels, dimension 0 of rows",
            (BYTES, [1, 2], 1),
        ),
        (ValueError, "mean must be a finite number", (BYTES, float("nan"), 1)),
        (ValueError, "mean must be a finite number", (BYTES, "a", 1)),
        (ValueError, "std must be a finite number", (BYTES, 0, [[1, 2, 3]])),
        (ValueError, "std must be above 0", (BYTES, 0, [1, 0, 3])),
    ],
)
def test_bad_arrays_are_refused(error: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=message):
        Normalized(*arguments)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be 'float16' or 'bfloat16' or 'float32'"):
        Normalized(BYTES, 0, 1, dtype="float64")
    with pytest.raises(ValueError, match=r"channel_dim must be an int in \[-3, 2\]"):
        Normalized(BYTES, 0, 1, channel_dim=3)
