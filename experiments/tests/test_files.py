"""Data files: located, downloaded, verified and read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from numpy.typing import NDArray
from PIL import Image

from l2m_experiments import datasets
from l2m_experiments.files import FILES, DataFile, locate
from l2m_experiments.formats import read_cifar, read_image_folders, read_jpeg_pack, read_reviews
from l2m_experiments.user_input import InputError

CONTENT = b"some,columns\n1,2\n"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
NAME = "tabular/small.csv"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the log out of the output of the tests."""


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """Serve `small.csv`, and return the address."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "small.csv").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("L2M_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")


def register(monkeypatch: pytest.MonkeyPatch, checksum: str, url: str | None, name: str = NAME) -> None:
    monkeypatch.setitem(FILES, name, DataFile(checksum, url))


def lay(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, name: str = NAME) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    monkeypatch.setenv("L2M_DATA", str(folder))
    return path


def test_a_file_is_downloaded_once_and_then_cached(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, SHA256, f"{server_url}small.csv")
    path = locate(NAME)
    assert path.read_bytes() == CONTENT
    (tmp_path / "home" / "small.csv").unlink()
    assert locate(NAME) == path


def test_a_download_with_a_wrong_checksum_is_refused_and_removed(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, f"sha256:{'0' * 64}", f"{server_url}small.csv")
    with pytest.raises(InputError) as refused:
        locate(NAME)
    message = str(refused.value)
    assert NAME in message
    assert "0" * 64 in message
    assert SHA256.removeprefix("sha256:") in message
    assert "\n" not in message
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_failed_download_says_which_file_to_put_where(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, SHA256, f"{server_url}gone.csv")
    with pytest.raises(InputError, match=r"gone\.csv: .*404.*put tabular/small\.csv into the folder .* L2M_DATA"):
        locate(NAME)


def test_a_file_without_an_address_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, SHA256, None)
    with pytest.raises(InputError, match=r"put tabular/small\.csv into .* L2M_DATA names \(it is not set\)"):
        locate(NAME)
    monkeypatch.setenv("L2M_DATA", str(tmp_path))
    with pytest.raises(InputError, match=rf"\(it names {tmp_path}\)"):
        locate(NAME)


def test_a_local_file_is_used_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, SHA256, "http://127.0.0.1:9/small.csv")
    path = lay(tmp_path, CONTENT, monkeypatch)
    assert locate(NAME) == path


def test_a_local_file_with_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, SHA256, None)
    path = lay(tmp_path, CONTENT[:-1], monkeypatch)
    got = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(InputError) as refused:
        locate(NAME)
    assert (
        str(refused.value) == f"{path} is damaged or a different file: expected {SHA256.replace(':', ' ')}, got {got}"
    )


def test_the_first_local_form_of_a_file_is_used(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, SHA256, f"{server_url}small.csv", "official.csv")
    register(monkeypatch, SHA256, None, "pack.csv")
    assert "cache" in locate("official.csv", "pack.csv").parts
    pack = lay(tmp_path, CONTENT, monkeypatch, "pack.csv")
    assert locate("official.csv", "pack.csv") == pack
    official = lay(tmp_path, CONTENT, monkeypatch, "official.csv")
    assert locate("official.csv", "pack.csv") == official


def test_every_known_file_has_a_checksum_pooch_understands() -> None:
    digits = {"sha256": 64, "md5": 32}
    for file in FILES.values():
        algorithm, value = file.checksum.split(":")
        assert len(value) == digits[algorithm]
        int(value, 16)


def jpeg(rng: np.random.Generator, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def write_pack(path: Path, streams: list[bytes], offsets: NDArray[np.int64]) -> None:
    labels, names = np.arange(len(streams), dtype=np.uint8) % 2, np.array(["cat", "dog"])
    joined = np.frombuffer(b"".join(streams), np.uint8)
    np.savez(path, train_jpeg=joined, train_offsets=offsets, train_labels=labels, class_names=names)


def test_a_jpeg_pack_is_decoded_image_for_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    streams = [jpeg(rng) for _ in range(5)]
    write_pack(tmp_path / "pack.npz", streams, np.cumsum([0, *map(len, streams)]))
    (images, labels), names = read_jpeg_pack(tmp_path / "pack.npz", "train")
    assert images.dtype == np.uint8
    assert names == ("cat", "dog")
    np.testing.assert_array_equal(labels, [0, 1, 0, 1, 0])
    for image, stream in zip(images, streams, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(stream))))


def test_a_damaged_jpeg_pack_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, streams = tmp_path / "pack.npz", [jpeg(rng) for _ in range(3)]
    offsets = np.cumsum([0, *map(len, streams)])
    write_pack(path, streams, offsets[:-1])
    with pytest.raises(InputError, match=r"pack\.npz cannot be read: train_offsets must be 4"):
        read_jpeg_pack(path, "train")
    write_pack(path, [streams[0][:20], *streams[1:]], offsets - np.minimum(offsets, len(streams[0]) - 20))
    with pytest.raises(InputError, match=r"pack\.npz cannot be read: "):
        read_jpeg_pack(path, "train")
    with pytest.raises(InputError, match=r"pack\.npz cannot be read: .*test_jpeg"):
        read_jpeg_pack(path, "test")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"pack\.npz cannot be read: "):
        read_jpeg_pack(path, "train")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_image_folders_are_numbered_by_name_and_resized(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("set/train/n2/a.JPEG", "set/train/n1/b.JPEG", "set/val/n1/c.JPEG", "set/train/n2/d.JPEG", "set/noise.csv")
    write_tar(
        tmp_path / "set.tgz", {name: jpeg(rng, size) for name, size in zip(names, (8, 12, 8, 20, 8), strict=True)}
    )
    (images, labels), folders = read_image_folders(tmp_path / "set.tgz", "train", 10)
    assert images.shape == (3, 3, 10, 10)
    np.testing.assert_array_equal(labels, [1, 0, 1])
    assert folders == ("n1", "n2")


def test_cifar_batches_are_read_in_the_given_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (2, 4, 3072), dtype=np.uint8)
    batches = [{"data": of_batch, "labels": [b, 1, 2, 3]} for b, of_batch in enumerate(data)]
    members = {f"cifar/data_batch_{b}": pickle.dumps(batch) for b, batch in reversed(list(enumerate(batches)))}
    write_tar(tmp_path / "cifar.tar.gz", members)
    images, labels = read_cifar(tmp_path / "cifar.tar.gz", ("data_batch_0", "data_batch_1"), "labels")
    np.testing.assert_array_equal(images, data.reshape(8, 3, 32, 32))
    np.testing.assert_array_equal(labels, [0, 1, 2, 3, 1, 1, 2, 3])
    with pytest.raises(InputError, match=r"cifar\.tar\.gz cannot be read: 'data_batch_2'"):
        read_cifar(tmp_path / "cifar.tar.gz", ("data_batch_2",), "labels")


def test_both_forms_of_the_reviews_give_the_same_rows(tmp_path: Path) -> None:
    reviews = {"train/pos/0_9.txt": "Good, é.", "train/neg/1_2.txt": "Bad.", "test/pos/2_8.txt": "A joy.<br />Yes."}
    with lzma.open(tmp_path / "reviews.jsonl.xz", "wt", encoding="utf-8") as lines:
        for name, text in reviews.items():
            lines.write(json.dumps({"text": text, "label": int("pos" in name)}) + "\n")
    unlabeled = {"aclImdb/train/unsup/3_0.txt": b"?", "aclImdb/README": b"?"}
    write_tar(
        tmp_path / "reviews.tar.gz", unlabeled | {f"aclImdb/{name}": text.encode() for name, text in reviews.items()}
    )
    texts, labels = read_reviews(tmp_path / "reviews.jsonl.xz")
    assert dict(zip(texts, labels.tolist(), strict=True)) == {"Good, é.": 1, "Bad.": 0, "A joy.<br />Yes.": 1}
    other_texts, other_labels = read_reviews(tmp_path / "reviews.tar.gz")
    assert texts == other_texts
    np.testing.assert_array_equal(labels, other_labels)
    (tmp_path / "reviews.tar.gz").write_bytes((tmp_path / "reviews.tar.gz").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"reviews\.tar\.gz cannot be read: "):
        read_reviews(tmp_path / "reviews.tar.gz")


def adult_line(age: int, work: str, income: str) -> str:
    return f"{age}, {work}, 7, HS, 9, No, Sales, Wife, White, Female, 0, 0, 40, Cuba, {income}"


@pytest.fixture
def adult_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    train = [adult_line(30, "Private", "<=50K"), adult_line(50, "?", ">50K"), ""]
    test = ["|1x3 Cross validator", adult_line(40, "Elsewhere", ">50K.")]
    for part, lines in (("data", train), ("test", test)):
        content = gzip.compress("\n".join(lines).encode())
        register(monkeypatch, f"md5:{hashlib.md5(content).hexdigest()}", None, f"tabular/adult.{part}.gz")
        lay(tmp_path, content, monkeypatch, f"tabular/adult.{part}.gz")
    datasets.adult.cache_clear()
    yield
    datasets.adult.cache_clear()


@pytest.mark.usefixtures("adult_files")
def test_adult_has_a_column_for_each_value_of_the_training_set() -> None:
    train, test = datasets.adult()
    # Six numbers, then the values of each text field in alphabetical order: two of the first, one of each other.
    np.testing.assert_array_equal(
        train.columns, [[30, 7, 9, 0, 0, 40, 0, 1, *[1] * 7], [50, 7, 9, 0, 0, 40, 1, 0, *[1] * 7]]
    )
    np.testing.assert_array_equal(test.columns, [[40, 7, 9, 0, 0, 40, 0, 0, *[1] * 7]])
    np.testing.assert_array_equal(train.classes, [0, 1])
    np.testing.assert_array_equal(test.classes, [1])
