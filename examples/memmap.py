"""Read batches from a memory-mapped file, which may be larger than memory. Needs no torch."""

from __future__ import annotations

import numpy as np

from l2m_fast import Loader

images = np.lib.format.open_memmap("images.npy", mode="w+", dtype=np.uint8, shape=(10_000, 28, 28))
images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
images.flush()

data = {"image": np.load("images.npy", mmap_mode="r"), "row": np.arange(len(images))}
with Loader(data, batch_size=256, format="numpy", seed=0) as loader:
    total = sum(int(batch["image"].sum(dtype=np.int64)) for batch in loader)
print(f"{len(loader)} batches, mean pixel {total / images.size:.1f}")
