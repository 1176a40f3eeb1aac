"""A small loader of plain NumPy batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from l2m_fast import Loader

N = 24
CLASSES = np.arange(N) % 3


def make(data: Any = None, **options: Any) -> Loader:
    """Return a small loader of plain NumPy batches with one thread; `options` override its options."""
    data = np.arange(N) if data is None else data
    return Loader(data, **{"batch_size": 6, "format": "numpy", "num_threads": 1, "seed": 0, **options})
