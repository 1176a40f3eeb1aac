"""CPU time of loss windows on the ranks of a process group. Run by torchrun; rank 0 prints one JSON object.

Each round trains with a group, with a function that pretends that all ranks have the same losses, and does as many
sums over the ranks by torch alone. In a step, the CPU waits, as for a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from l2m_fast import Learn2Mix, Loader

ROUNDS = 7
STEPS = 4  # per window
SECONDS = 0.001  # per step
NUM_WINDOWS = 50
NUM_CLASSES = 10
ROWS = 256  # per rank and batch


def main() -> None:
    """Measure, and print microseconds per window and round by name."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    world_size = dist.get_world_size()
    classes = np.arange(100 * NUM_CLASSES) % NUM_CLASSES
    losses = torch.rand(ROWS)
    options: dict[str, Any] = {
        "batch_size": ROWS, "classes": classes, "mixing": Learn2Mix(), "update_every": STEPS, "num_threads": 0,
        "steps_per_epoch": STEPS * NUM_WINDOWS, "seed": 0,
    }  # fmt: skip
    ranks: dict[str, Any] = {
        "rank": dist.get_rank(), "world_size": world_size, "all_reduce": partial(np.multiply, world_size)
    }  # fmt: skip
    loaders = {
        "with a group": Loader(classes, group=True, **options),
        "without": Loader(classes, **ranks, **options),
    }

    def train(loader: Loader) -> None:
        for _ in loader:
            loader.record(losses)
            time.sleep(SECONDS)

    def reduce() -> None:
        for _ in range(NUM_WINDOWS):
            dist.all_reduce(torch.zeros(11 * NUM_CLASSES, dtype=torch.float64))

    runs: dict[str, Callable[[], None]] = {name: partial(train, loader) for name, loader in loaders.items()}
    runs["all_reduce of torch"] = reduce
    microseconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(ROUNDS + 1):
        for name, run in runs.items():
            dist.barrier()
            start = time.process_time()
            run()
            if round_number > 0:  # the first one warms up
                microseconds[name].append((time.process_time() - start) / NUM_WINDOWS * 1e6)
    if dist.get_rank() == 0:
        print(json.dumps(microseconds))  # noqa: T201
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
