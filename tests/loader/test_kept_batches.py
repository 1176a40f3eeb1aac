"""Batches do not change while they are kept; memory is reused after the last reference is gone."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Loader
from loader.batches import CLASSES, IMAGES, N


def address(batch: Any) -> int:
    return int(batch.data_ptr() if isinstance(batch, torch.Tensor) else batch.ctypes.data)


def _kept(loader: Loader) -> list[tuple[Any, Any]]:
    return [(batch, np.asarray(loader.batch_rows)) for batch in loader]


@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_batches_stay_unchanged_while_they_are_referred_to(num_threads: int, batch_format: Any) -> None:
    loader = Loader(IMAGES, batch_size=7, num_threads=num_threads, format=batch_format, seed=0)
    kept = _kept(loader) + _kept(loader)
    assert len({address(batch) for batch, _ in kept}) == len(kept)
    loader.close()
    for batch, rows in kept:
        np.testing.assert_array_equal(np.asarray(batch), IMAGES.numpy()[rows])
    iter(Loader(IMAGES + 1, batch_size=7, num_threads=num_threads, format=batch_format, seed=0))
    del loader
    gc.collect()
    for batch, rows in kept:
        np.testing.assert_array_equal(np.asarray(batch), IMAGES.numpy()[rows])


def test_a_list_of_a_loader_holds_a_whole_epoch() -> None:
    batches = list(Loader(IMAGES, batch_size=8, seed=0))
    assert sorted(torch.cat(batches)[:, 0].tolist()) == IMAGES[:, 0].tolist()


@pytest.mark.parametrize(
    "part",
    [
        lambda batch: batch[2:5],
        lambda batch: batch[:, ::2],
        lambda batch: batch.T,
        lambda batch: np.asarray(batch)[1],
        lambda batch: torch.as_tensor(batch).view(-1)[3:],
        lambda batch: np.asarray(batch).data,
        lambda batch: np.from_dlpack(batch),
    ],
)
@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
def test_a_view_keeps_the_batch_alive(part: Any, batch_format: Any) -> None:
    loader = Loader(IMAGES, batch_size=6, format=batch_format, shuffle=False, seed=0)
    batches = iter(loader)
    view = part(next(batches))
    expected = np.asarray(view).copy()
    for _ in itertools.chain(batches, loader):
        np.testing.assert_array_equal(np.asarray(view), expected)


@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_memory_is_recycled_after_the_last_reference(num_threads: int, prefetch: int, batch_format: Any) -> None:
    loader = Loader(
        IMAGES,
        batch_size=6,
        num_threads=num_threads,
        prefetch=prefetch,
        format=batch_format,
        steps_per_epoch=100,
        seed=0,
    )
    addresses = set()
    for batch in loader:
        addresses.add(address(batch))
    assert len(addresses) <= 2 * (prefetch + 3)


def test_a_kept_batch_is_not_recycled_until_it_is_released() -> None:
    loader = Loader(IMAGES, batch_size=6, steps_per_epoch=50, num_threads=0, prefetch=4, seed=0)
    batches = iter(loader)
    kept = next(batches)
    kept_address = address(kept)
    assert all(address(batch) != kept_address for batch in itertools.islice(batches, 30))
    del kept
    assert kept_address in [address(batch) for batch in list(batches)]


@pytest.mark.parametrize("batch_format", ["torch", "numpy"])
def test_a_batch_is_an_ordinary_array(batch_format: Any) -> None:
    loader = Loader(
        (IMAGES.float(), torch.from_numpy(CLASSES)), batch_size=6, classes=CLASSES, format=batch_format, seed=0
    )
    for images, labels in loader:
        for copied in (copy.copy(images), copy.deepcopy(images), pickle.loads(pickle.dumps(images))):
            np.testing.assert_array_equal(np.asarray(copied), np.asarray(images))
        if isinstance(images, torch.Tensor):
            assert type(images) is torch.Tensor
            assert images.is_contiguous()
            assert images.device.type == "cpu"
            assert torch.equal(images.clone(), images)
            images.add_(1).requires_grad_().sum().backward()
        else:
            assert type(images) is np.ndarray
            assert images.flags.c_contiguous
            assert images.flags.writeable
            images += 1
        assert labels.dtype == (torch.int64 if batch_format == "torch" else np.int64)
    assert IMAGES[0, 1] == 1


def test_writing_into_a_batch_changes_no_other() -> None:
    loader = Loader(IMAGES, batch_size=6, seed=0)
    for _ in range(3):
        for batch in loader:
            assert torch.equal(batch, IMAGES[loader.batch_rows])
            batch.zero_()
    assert IMAGES.sum() == sum(range(N * 300))


def test_batch_rows_and_batch_classes_are_copies() -> None:
    loader = Loader(IMAGES, batch_size=6, classes=CLASSES, format="numpy", seed=0)
    next(iter(loader))
    rows, classes = np.asarray(loader.batch_rows), np.asarray(loader.batch_classes)
    before = rows.copy(), classes.copy()
    for owned in (loader.batch_rows, loader.batch_classes):
        owned[:] = 0
    np.testing.assert_array_equal(loader.batch_rows, before[0])
    np.testing.assert_array_equal(loader.batch_classes, before[1])
    list(loader)
    loader.close()
    np.testing.assert_array_equal(classes, CLASSES[before[0]])
