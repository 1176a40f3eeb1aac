"""MosaicML streaming: MDS shards on a local disk, in the page cache."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.peers import Peer, named_pair
from benchmarks.rivals import Install, Rival
from benchmarks.torchvision_stand_in import torchvision_stand_in
from benchmarks.workloads import SEED, Fields


def streaming(fields: Fields, batch_size: int) -> Peer:
    """Return a shuffled StreamingDataset."""
    folder = TemporaryDirectory(prefix="streaming-")
    _write(fields, folder.name)
    return _peer("streaming", folder, batch_size, local=folder.name)


def stratified_streaming(fields: Fields, batch_size: int) -> Peer:
    """Return a StreamingDataset with one stream per class, equal proportions and stratified batching."""
    with torchvision_stand_in():
        from streaming import Stream

    folder = TemporaryDirectory(prefix="streaming-")
    streams = []
    labels = fields.y.unique().tolist()
    for label in labels:
        local = str(Path(folder.name, str(label)))
        rows = fields.y == label
        _write(Fields(fields.x[rows], fields.y[rows]), local)
        streams.append(Stream(local=local, proportion=1 / len(labels)))
    options = {"streams": streams, "batching_method": "stratified", "epoch_size": len(fields.y)}
    return _peer("streaming, stratified", folder, batch_size, **options)


def _write(fields: Fields, folder: str) -> None:
    with torchvision_stand_in():
        from streaming import MDSWriter

    x = fields.x.numpy()
    columns = {"x": f"ndarray:{x.dtype}:{','.join(map(str, x.shape[1:]))}", "y": "int"}
    with MDSWriter(out=folder, columns=columns) as writer:
        for row, label in zip(x, fields.y.tolist(), strict=True):
            writer.write({"x": row, "y": label})


def _peer(name: str, folder: TemporaryDirectory[str], batch_size: int, **options: Any) -> Peer:
    with torchvision_stand_in():
        from streaming import StreamingDataset

    # No workers: filelock refuses the locks that they would inherit (2026).
    dataset = StreamingDataset(batch_size=batch_size, shuffle=True, shuffle_seed=SEED, **options)
    return Peer.iterated(name, DataLoader(dataset, batch_size), named_pair, folder.cleanup)


# No constraints: it needs an older NumPy.
_INSTALL = Install(("mosaicml-streaming==0.13.0", "torch==2.13.0"), environment="streaming", options=())
RIVALS = (
    Rival(streaming, install=_INSTALL, slow=True),
    Rival(stratified_streaming, "balanced in every batch", install=_INSTALL),
)
