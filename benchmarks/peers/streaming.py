"""MosaicML's streaming: MDS shards on a local disk, in the system's file cache."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.peers import Peer, named_pair
from benchmarks.peers.elsewhere import elsewhere
from benchmarks.peers.torchvision_stand_in import torchvision_stand_in
from benchmarks.workloads import SEED, Fields


def streaming(fields: Fields, batch_size: int) -> Peer:
    """Makes a shuffled StreamingDataset in streaming's environment."""
    return elsewhere("streaming", "streaming", _shuffled, fields, batch_size)


def stratified_streaming(fields: Fields, batch_size: int) -> Peer:
    """Makes a StreamingDataset with a stream a class, equal proportions and stratified batching."""
    return elsewhere("streaming, stratified", "streaming", _stratified, fields, batch_size)


def _shuffled(fields: Fields, batch_size: int) -> Peer:
    folder = TemporaryDirectory(prefix="streaming-")
    _write(fields, folder.name)
    return _peer(folder, batch_size, local=folder.name)


def _stratified(fields: Fields, batch_size: int) -> Peer:
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
    return _peer(folder, batch_size, streams=streams, batching_method="stratified", epoch_size=len(fields.y))


def _write(fields: Fields, folder: str) -> None:
    with torchvision_stand_in():
        from streaming import MDSWriter

    x = fields.x.numpy()
    columns = {"x": f"ndarray:{x.dtype}:{','.join(map(str, x.shape[1:]))}", "y": "int"}
    with MDSWriter(out=folder, columns=columns) as writer:
        for row, label in zip(x, fields.y.tolist(), strict=True):
            writer.write({"x": row, "y": label})


def _peer(folder: TemporaryDirectory[str], batch_size: int, **what: Any) -> Peer:
    with torchvision_stand_in():
        from streaming import StreamingDataset

    # Without workers: the locks that they inherit are refused by filelock as of 2026.
    dataset = StreamingDataset(batch_size=batch_size, shuffle=True, shuffle_seed=SEED, **what)
    return Peer.iterated("streaming", DataLoader(dataset, batch_size), named_pair, folder.cleanup)
