"""Stop in the middle of an epoch, save the state as JSON, and resume with exactly the remaining batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from l2m_fast import Balanced, Loader

labels = np.repeat([0, 1, 2], [700, 250, 50])


def make_loader() -> Loader:
    """Create the loader. A state can only be loaded with the same data and options."""
    return Loader(np.arange(1000), batch_size=100, classes=labels, mixing=Balanced(), format="numpy", seed=0)


with make_loader() as loader:
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    Path("state.json").write_text(json.dumps(loader.state_dict()))
    due = list(batches)

with make_loader() as loader:
    loader.load_state_dict(json.loads(Path("state.json").read_text()))
    resumed = list(loader)

assert all(np.array_equal(x, y) for x, y in zip(due, resumed, strict=True))
print(f"{len(resumed)} batches after the restart, equal to those of the uninterrupted run")
