"""Fields of several kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from l2m_fast import Normalized

N = 107
DATA = {
    "x": torch.arange(N * 6, dtype=torch.float32).reshape(N, 3, 2),
    "y": torch.arange(N) % 5,
    "z": np.arange(N * 3, dtype=np.uint8).reshape(N, 3),
    "image": Normalized(
        torch.arange(N * 12, dtype=torch.uint8).reshape(N, 2, 3, 2), [1.5, 100.25], [3.3, 7], dtype="bfloat16"
    ),
    "pixels": Normalized(
        torch.arange(N * 6, dtype=torch.uint8).reshape(N, 2, 3), [1, 2, 3], 1.1, dtype="float16", channel_dim=-1
    ),
}


def loader_options(**changed: Any) -> dict[str, Any]:
    return {"data": DATA, "batch_size": 10, "seed": 3, **changed}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
