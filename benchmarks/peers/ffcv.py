"""FFCV: a .beton file in the page cache, compiled decoders on its own threads, random order.

It is built from source, with pkg-config and the headers of OpenCV and libjpeg-turbo (Debian: libopencv-dev libturbojpeg0-dev), and
imports pandas and pillow without requiring them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.data import TensorDataset

from benchmarks.peers import Peer
from benchmarks.rivals import Install, Rival
from benchmarks.workloads import NUM_THREADS, SEED, Fields


def ffcv(fields: Fields, batch_size: int) -> Peer:
    """Write the file and return FFCV's loader of it."""
    from ffcv.fields import IntField, TorchTensorField
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.ndarray import NDArrayDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor
    from ffcv.writer import DatasetWriter

    folder = TemporaryDirectory(prefix="ffcv-")
    path = str(Path(folder.name, "rows.beton"))
    columns = {"x": TorchTensorField(fields.x.dtype, tuple(fields.x.shape[1:])), "y": IntField()}
    DatasetWriter(path, columns, num_workers=NUM_THREADS).from_indexed_dataset(
        TensorDataset(fields.x, fields.y), chunksize=1000
    )
    loader = Loader(
        path,
        batch_size=batch_size,
        num_workers=NUM_THREADS,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=False,
        pipelines={"x": [NDArrayDecoder(), ToTensor()], "y": [IntDecoder(), ToTensor(), Squeeze(1)]},
    )
    return Peer.iterated("FFCV", loader, close=folder.cleanup)


_INSTALL = Install(("ffcv==1.0.2", "pandas", "pillow", "torch"), environment="ffcv")
RIVALS = (Rival(ffcv, install=_INSTALL),)
