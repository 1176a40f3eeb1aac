"""SPDL's pipeline: a source of batches of rows, threads that gather them, a buffer of what is ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.peers import Epochs, Peer, numpy_pair
from benchmarks.workloads import NUM_THREADS, SEED, Fields


def spdl(fields: Fields, batch_size: int) -> Peer:
    """Makes a pipeline that runs on from epoch to epoch; np.take gathers in one thread, so the threads are SPDL's."""
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
