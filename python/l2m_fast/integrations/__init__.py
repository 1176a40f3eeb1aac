"""Loaders and samplers in trainers: one module per trainer, which needs its library."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from l2m_fast._checks import truncated
from l2m_fast.loader import Loader
from l2m_fast.samplers import BatchSampler


def run_of(data: Any) -> Loader | BatchSampler:
    """Return the loader of training data, or the sampler of a DataLoader.

    Raises:
        TypeError: There is none.
        ValueError: It is a `Sampler` that lists the batches of several processes, which would train on all of them.
    """
    samplers = (data.batch_sampler, data.sampler) if isinstance(data, DataLoader) else ()
    for run in (data, *samplers):
        if isinstance(run, (Loader, BatchSampler)):
            if run._source.listed_ranks > 1:
                msg = (
                    "on several processes, training data must be a Loader, or a DataLoader with a BatchSampler (got a "
                    "Sampler, which lists the batches of all of them, for accelerator.prepare() to deal out)"
                )
                raise ValueError(msg)
            return run
    got = truncated(type(data).__name__)
    if isinstance(data, DataLoader):
        got += f" with a {truncated(type(data.batch_sampler).__name__)}"
    msg = (
        f"training data must be a Loader, or a DataLoader with a BatchSampler or Sampler of l2m_fast (got {got}); with "
        "Lightning on several processes, create the Trainer with use_distributed_sampler=False, or it replaces the sampler"
    )
    raise TypeError(msg)
