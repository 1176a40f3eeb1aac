"""Data files: locate, verify and read them.

A file is taken from the folder in the environment variable `L2M_DATA`, or else downloaded once into pooch's cache. Its
checksum is verified before it is used.
"""

from __future__ import annotations

import gzip
import lzma
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from l2m_experiments.user_input import InputError


@dataclass(frozen=True)
class DataFile:
    """A published data file.

    Attributes:
        checksum: Checksum in pooch's format: "sha256:..." or "md5:...".
        url: Download address, or None if the file is not published in this form.
    """

    checksum: str
    url: str | None = None


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_AUTHORS = "https://raw.githubusercontent.com/shyamven/Learn2Mix/1c1b2827cc1dca50c24a523014261d0b2ac2fd1d/data/"


def _idx_files(folder: str, url: str, checksums: tuple[str, str, str, str]) -> dict[str, DataFile]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {
        f"{folder}/{name}-ubyte.gz": DataFile(f"sha256:{checksum}", f"{url}{name}-ubyte.gz")
        for name, checksum in zip(names, checksums, strict=True)
    }


# Files by their path below L2M_DATA.
FILES: dict[str, DataFile] = {
    **_idx_files(
        "mnist",
        _MNIST,
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    **_idx_files(
        "fashion_mnist",
        _FASHION_MNIST,
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar-10-python.tar.gz": DataFile("md5:c58f30108f718f92721af3b95e74349a", f"{_CIFAR}cifar-10-python.tar.gz"),
    "cifar-100-python.tar.gz": DataFile("md5:eb9058c3a382ffc7106e4002c42a8d85", f"{_CIFAR}cifar-100-python.tar.gz"),
    "cifar10_jpeg.npz": DataFile("sha256:cb6fe2a3cddca4b8c088824be221ecf79ed3094e5cdb305051739bed11b7ad2c"),
    "tiny_imagenet100_32x32_jpeg.npz": DataFile(
        "sha256:88ad1fb458345a12430abecf4df38bbfbc062fb57111b06a2e0b31b7845d4a15"
    ),
    "imagenette_96x96_jpeg.npz": DataFile("sha256:75be4f5dac3742a5b6a9f2807c2d49ca1cc079edf0a43aac62bf79a64dc54236"),
    "imagenette2-160.tgz": DataFile(
        "md5:e793b78cc4c9e9a4ccc0c1155377a412", "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
    ),
    "imdb_reviews.jsonl.xz": DataFile("sha256:93571fd6db0d0232d6dfa739c0ecdf3f22b651ebfcd28e397ecf8d9080b92954"),
    "aclImdb_v1.tar.gz": DataFile(
        "md5:7c2ac02c03563afcf9b574c7e56c153a", "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
    ),
    "tabular/winequality-red.csv": DataFile(
        "sha256:4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
        f"{_UCI}wine-quality/winequality-red.csv",
    ),
    "tabular/winequality-white.csv": DataFile(
        "sha256:76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
        f"{_UCI}wine-quality/winequality-white.csv",
    ),
    # A. Geron's table with house values in units of 100,000 dollars, which the paper uses.
    "tabular/housing.csv": DataFile(
        "sha256:e83f6d654aa25b44f94787c70f699488a8c73b9a46614e0c46a9188acf7ef791", f"{_AUTHORS}housing.csv"
    ),
    "tabular/adult.data.gz": DataFile("sha256:fb9b6b419c38dd70d75d31f014b7f0905bf76e9625473c593455e31679a93184"),
    "tabular/adult.test.gz": DataFile("sha256:5dd8e51005f6a86e42f058d66a957721196362cf8e8dde3efc8508532af4a083"),
    "tabular/adult.data": DataFile("md5:5d7c39d7b8804f071cdd1f2a7c460872", f"{_UCI}adult/adult.data"),
    "tabular/adult.test": DataFile("md5:35238206dfdf7f1fe215bbb874adecdc", f"{_UCI}adult/adult.test"),
}


def locate(*names: str) -> Path:
    """Return the path of a verified data file, and download it if necessary.

    Args:
        *names: Keys of `FILES`, alternative forms of the same data. The first that is in the folder of `L2M_DATA` is taken;
            if there is none, the first with a download address is downloaded.

    Raises:
        InputError: The checksum differs, or the file is neither in the folder nor can be downloaded.
    """
    import pooch

    folder = os.environ.get("L2M_DATA")
    if folder is not None:
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                _verify_checksum(path, FILES[name].checksum)
                return path
    # The remedy is the same whether the variable is unset or names another folder.
    remedy = f"put {' or '.join(names)} into the folder that the environment variable L2M_DATA names" + (
        f" (it names {folder})" if folder is not None else " (it is not set)"
    )
    for name in names:
        file = FILES[name]
        if file.url is not None:
            try:
                path = pooch.os_cache("l2m-fast")
                return Path(pooch.retrieve(file.url, file.checksum, name.replace("/", "-"), path))
            except (OSError, ValueError) as error:  # no network, or a wrong checksum, which pooch reports
                reason = " ".join(str(error).split())
                msg = f"{name} cannot be downloaded from {file.url}: {reason}; {remedy}"
                raise InputError(msg) from error
    msg = f"{names[0]} is missing and cannot be downloaded; {remedy}"
    raise InputError(msg)


def _verify_checksum(path: Path, checksum: str) -> None:
    import pooch

    algorithm, expected = checksum.split(":")
    with readable(path):
        got = pooch.file_hash(str(path), algorithm)
    if got != expected:
        msg = f"{path} is damaged or a different file: expected {algorithm} {expected}, got {got}"
        raise InputError(msg)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert any error that a damaged file causes into an InputError that names the file."""
    try:
        yield
    except (
        *(OSError, EOFError, KeyError, IndexError, ValueError, SyntaxError),
        *(zlib.error, lzma.LZMAError, tarfile.TarError, BadZipFile, pickle.UnpicklingError),
    ) as error:
        msg = f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        raise InputError(msg) from error


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        path: Path of the file; gzip is detected from its content.
        ndim: Required number of dimensions: 3 for images, 1 for labels.

    Returns:
        The array, uint8, `ndim` dimensions, read-only.

    Raises:
        InputError: The file cannot be read, is cut short or too long, or has a wrong magic number.
    """
    content = read_bytes(path)
    magic = bytes((0, 0, 8, ndim))
    if not content.startswith(magic):
        msg = f"{path} must start with the IDX magic number {magic.hex()} (got {content[:4].hex() or 'an empty file'})"
        raise InputError(msg)
    header = 4 + 4 * ndim
    # Padded, so that the check below also reports a header that is cut short.
    shape = np.frombuffer(content[4:header].ljust(4 * ndim, b"\0"), ">u4").tolist()
    expected = header + math.prod(shape)
    if len(content) != expected:
        msg = (
            f"{path} is {'cut short' if len(content) < expected else 'too long'}: "
            f"its header asks for {expected} bytes (got {len(content)})"
        )
        raise InputError(msg)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzipped.

    Raises:
        InputError: The file cannot be read.
    """
    with readable(path):
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
