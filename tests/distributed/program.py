"""Program of one rank, which trains on `group=True` and writes what it saw. Run by test_group.py.

Arguments: folder, then `name=value` pairs, see `main()`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from l2m_fast import BatchSampler, Learn2Mix, Loader

N, GLOBAL_BATCH = 240, 12
CLASSES = np.arange(N) % 7 % 4


def losses_of(rows: torch.Tensor) -> torch.Tensor:
    """Return losses that are a function of the row, whose sums a float64 would have to round."""
    return (torch.from_numpy(CLASSES)[rows] + 1.1) * torch.exp2(-6.0 * (rows % 8))


class InterruptedOnce:
    """Policy that is interrupted once on one rank, after the losses of all ranks were summed."""

    def __init__(self, interrupted: bool) -> None:
        self._interrupted = interrupted

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        if self._interrupted and window.step > 8:
            self._interrupted = False
            raise KeyboardInterrupt
        return 0.5 * (window.proportions + window.class_losses / window.class_losses.sum())


def without_interrupts(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield all batches, and repeat a `next()` that was interrupted."""
    while True:
        try:
            yield next(batches)
        except KeyboardInterrupt:
            continue
        except StopIteration:
            return


def main(
    folder: Path,
    steps: int,
    kill_rank: int = -1,
    kill_step: int = -1,
    sampler: int = 0,
    seed: int = 7,
    interrupt: int = -2,
    timeout: int = 120,
) -> None:
    """Take batches until `steps` have been taken, from the newest checkpoint, and write one after each batch."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    options: dict[str, Any] = {"init_method": f"file://{folder}/meeting"} if "MASTER_ADDR" not in os.environ else {}
    if options:
        options |= {"rank": rank, "world_size": world_size}
    dist.init_process_group("gloo", timeout=dt.timedelta(seconds=timeout), **options)
    mixing: Any = Learn2Mix(0.5) if interrupt < -1 else InterruptedOnce(rank == interrupt)
    common: dict[str, Any] = {
        "mixing": mixing, "update_every": 4, "lookahead": 2, "group": True, "seed": None if seed < 0 else seed
    }  # fmt: skip
    batch_size = GLOBAL_BATCH // world_size
    loader: Loader | BatchSampler
    if sampler:
        loader = BatchSampler(CLASSES, batch_size, **common)
    else:
        loader = Loader(torch.arange(N), batch_size=batch_size, classes=CLASSES, **common)
    checkpoint = folder / "checkpoint.json"
    if checkpoint.exists():
        loader.load_state_dict(json.loads(checkpoint.read_text()))
    with (folder / f"rank{rank}.jsonl").open("a") as out:
        while loader.total_step < steps:
            for batch in without_interrupts(iter(loader)):
                rows = torch.as_tensor(batch)
                line = {
                    "step": loader.total_step - 1,
                    "rows": rows.tolist(),
                    "proportions": loader.proportions.tolist(),
                }
                print(json.dumps(line), file=out, flush=True)
                if rank == kill_rank and loader.total_step - 1 == kill_step:
                    os.kill(os.getpid(), signal.SIGKILL)
                loader.record(losses_of(rows))
                state = loader.state_dict()  # the same on all ranks
                if rank == 0:
                    (folder / "new.json").write_text(json.dumps(state))
                    (folder / "new.json").rename(checkpoint)
                if loader.total_step == steps:
                    break
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), **{name: int(value) for name, value in (pair.split("=") for pair in sys.argv[2:])})
