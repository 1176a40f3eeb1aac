"""SPDL: a pipeline of a source of row ids, threads that gather, and a buffer of ready batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import NUM_THREADS, SEED, Fields


def spdl(fields: Fields, batch_size: int) -> Peer:
    """Return a pipeline that runs across epochs. np.take is single-threaded, so all threads are those of SPDL."""
    from spdl.pipeline import PipelineBuilder

    x, y = fields.x.numpy(), fields.y.numpy()
    rng = np.random.default_rng(SEED)

    def source() -> Iterator[Any]:
        order = rng.permutation(len(y))
        return iter(np.split(order, range(batch_size, len(order), batch_size)))

    def gather(rows: Any) -> tuple[Any, Any]:
        return x.take(rows, axis=0), y.take(rows)

    pipeline: Any = (
        PipelineBuilder()
        .add_source(Epochs(source), continuous=True)
        .pipe(gather, concurrency=NUM_THREADS)
        .add_sink(4)
        .build(num_threads=NUM_THREADS)
    )
    pipeline.start()
    return Peer.iterated("SPDL", pipeline, numpy_pair, pipeline.stop)


_INSTALL = Install(("spdl-core==0.8.0",))
RIVALS = (Rival(spdl, install=_INSTALL),)
