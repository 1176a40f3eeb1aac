"""WebDataset: tar shards of raw bytes, read in shuffled order through a shuffle buffer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peers import Peer, numpy_pair
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import Fields

_SHARDS = 10


def webdataset(fields: Fields, batch_size: int, num_workers: int) -> Peer:
    """Return a pipeline over shards in the page cache. Decoding is one np.frombuffer per field and batch."""
    import webdataset

    folder = TemporaryDirectory(prefix="webdataset-")
    x, y = fields.x.numpy(), fields.y.numpy()
    urls = [str(Path(folder.name, f"{shard}.tar")) for shard in range(_SHARDS)]
    for url, rows in zip(urls, np.array_split(np.arange(len(y)), _SHARDS), strict=True):
        with webdataset.TarWriter(url, encoder=False) as shard:
            for row in rows:
                shard.write({"__key__": str(row), "x": x[row].tobytes(), "y": y[row].tobytes()})

    def collate(samples: list[tuple[bytes, bytes]]) -> tuple[Any, Any]:
        images, labels = map(b"".join, zip(*samples, strict=True))
        shape = (len(samples), *x.shape[1:])
        return np.frombuffer(bytearray(images), x.dtype).reshape(shape), np.frombuffer(bytearray(labels), y.dtype)

    batches = (
        webdataset.WebDataset(urls, shardshuffle=_SHARDS, empty_check=False)
        .shuffle(1000)
        .to_tuple("x", "y")
        .batched(batch_size, collation_fn=collate)
    )
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)
    return Peer.iterated(f"webdataset, {num_workers} workers", loader, numpy_pair, folder.cleanup)


_INSTALL = Install(("webdataset==1.0.2",))
RIVALS = tuple(Rival(partial(webdataset, num_workers=workers), install=_INSTALL, slow=True) for workers in (0, 2))
