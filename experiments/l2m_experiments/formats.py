"""Readers for the file formats of the data sets; they return arrays, or raise an InputError that names the file."""

from __future__ import annotations

import io
import json
import lzma
import pickle
import re
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.files import readable

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
LabeledImages = tuple[Images, Labels]


def read_jpeg_pack(path: Path, split: str) -> tuple[LabeledImages, tuple[str, ...]]:
    """Decode one split of a JPEG pack, an npz of `SPLIT_jpeg` (concatenated streams), `SPLIT_offsets` and `SPLIT_labels`.

    Returns:
        Images, uint8 `[N, 3, height, width]`; labels `[N]`; class names `[K]`.

    Raises:
        InputError: The file cannot be read, or its parts do not match.
    """
    # Opened here, because np.load does not close a file that is not an archive.
    with readable(path), path.open("rb") as file, np.load(file) as pack:
        streams, offsets = pack[f"{split}_jpeg"].tobytes(), pack[f"{split}_offsets"]
        labels, names = pack[f"{split}_labels"].astype(np.int64), tuple(pack["class_names"].tolist())
        if len(offsets) != len(labels) + 1 or offsets[-1] != len(streams):
            msg = (
                f"{split}_offsets must be {len(labels) + 1} and end at {len(streams)} "
                f"(got {len(offsets)}, ending at {offsets[-1]})"
            )
            raise ValueError(msg)
        images = [_decoded(streams[start:end]) for start, end in pairwise(offsets)]
        return (np.stack(images), labels), names


def read_image_folders(path: Path, split: str, size: int) -> tuple[LabeledImages, tuple[str, ...]]:
    """Decode one split of a tar of `*/SPLIT/CLASS/*.JPEG`, resized to `size` x `size` (Lanczos).

    Returns:
        The same as `read_jpeg_pack`; classes are numbered and named by their sorted folders.

    Raises:
        InputError: The file cannot be read, or has no matching images.
    """
    pattern = re.compile(rf"[^/]+/{split}/([^/]+)/[^/]+\.JPEG")
    images, folders = [], []
    with readable(path), tarfile.open(path) as archive:
        for member in archive:
            if found := pattern.fullmatch(member.name.removeprefix("./")):
                images.append(_decoded(_content(archive, member), size))
                folders.append(found[1])
        names, labels = np.unique(folders, return_inverse=True)
        return (np.stack(images), labels.astype(np.int64)), tuple(names.tolist())


def read_cifar(path: Path, members: tuple[str, ...], label: str) -> LabeledImages:
    """Read batches of an official CIFAR tarball, Python version. Its members are pickles, so verify its checksum first.

    Args:
        path: Path of the tarball.
        members: Names of the batches, without their folder.
        label: Key of the labels: "labels" for CIFAR-10, "fine_labels" for CIFAR-100.

    Returns:
        Images, uint8 `[N, 3, 32, 32]`, and labels `[N]`.

    Raises:
        InputError: The file cannot be read or lacks a batch.
    """
    batches = read_pickles(path, members)
    with readable(path):
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return images, np.concatenate([batch[label] for batch in batches]).astype(np.int64)


def read_pickles(path: Path, members: tuple[str, ...]) -> list[dict[str, Any]]:
    """Unpickle members of a tarball, named without their folder. Pickles are programs, so verify the checksum first."""
    with readable(path), tarfile.open(path) as archive:
        content = {Path(m.name).name: _content(archive, m) for m in archive if Path(m.name).name in members}
        return [pickle.loads(content[member], encoding="latin1") for member in members]


def read_reviews(path: Path) -> tuple[list[str], Labels]:
    """Read all labeled reviews of IMDB, from the official tarball or from xz-compressed JSON lines (fields `text`, `label`).

    Returns:
        Texts, and labels `[N]`: 1 positive, 0 negative.

    Raises:
        InputError: The file cannot be read.
    """
    with readable(path):
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8") as lines:
                rows = [(row["text"], row["label"]) for row in map(json.loads, lines)]
        else:
            pattern = re.compile(r"aclImdb/(?:train|test)/(pos|neg)/[^/]+\.txt")
            with tarfile.open(path) as archive:
                rows = [
                    (_content(archive, member).decode(), int(found[1] == "pos"))
                    for member in archive
                    if (found := pattern.fullmatch(member.name))
                ]
        texts, labels = zip(*sorted(rows), strict=True)  # sorted, so that both forms give the same rows
        return list(texts), np.array(labels, np.int64)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        msg = f"{member.name} must be a file"
        raise ValueError(msg)
    return file.read()


def _decoded(stream: bytes, size: int | None = None) -> Images:
    from PIL import Image

    image = Image.open(io.BytesIO(stream)).convert("RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
