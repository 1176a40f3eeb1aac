"""The history of a loader."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from l2m_fast import (
    Learn2Mix,
    Loader,
)
from l2m_fast.history import Recorder
from loader.small import SIZES, START, STEPS, make, record_means, stepped


def test_the_history_has_one_record_per_update() -> None:
    loader = make()
    for epoch in range(3):
        for _batch in loader:
            record_means(loader, 1.0, 2.0 + epoch)
    assert len(loader.history) == 3
    before = START
    for epoch, update in enumerate(loader.history):
        assert set(update) == {"epoch", "total_step", "proportions", "class_losses", "counts"}
        assert (update["epoch"], update["total_step"]) == (epoch, (epoch + 1) * STEPS)
        losses = [1, 2 + epoch, 0, (3 + epoch) / 2]
        assert update["class_losses"].tolist() == losses
        assert update["counts"].tolist() == [STEPS, STEPS, 0, 0]
        np.testing.assert_allclose(update["proportions"], stepped(before, losses))
        before = update["proportions"]
    assert loader.proportions.tolist() == before.tolist()


def test_modifying_the_history_does_not_change_the_loader() -> None:
    loader = make()
    for _batch in loader:
        record_means(loader, 1.0, 2.0, 3.0)
    before = loader.state_dict()
    for array in (loader.proportions, loader.class_losses, loader.class_sizes):
        array[:] = 7
    for array in (loader.history[0]["proportions"], next(iter(loader.history))["class_losses"]):
        array[:] = 7
    assert loader.state_dict() == before
    assert len(loader.history) == 1
    assert loader.history[0]["proportions"].sum() == pytest.approx(1)
    assert loader.class_sizes.tolist() == SIZES.tolist()


def test_the_history_keeps_the_newest_64_megabytes() -> None:
    num_classes = 1 << 20
    data = np.arange(num_classes)
    loader = Loader(
        data, batch_size=4, classes=data, mixing=Learn2Mix(), format="numpy", num_threads=0, prefetch=0, seed=0
    )
    for k in range(4):
        loader.record([1.0], classes=[k])
        loader.update()
    kept = loader.history
    assert len(kept) == 2
    assert [np.flatnonzero(update["counts"]).tolist() for update in kept] == [[2], [3]]


def test_the_history_can_be_read_while_another_thread_adds_to_it() -> None:
    zeros = np.zeros(50_000)
    recorder = Recorder(len(zeros), max_bytes=8 << 20)  # one record per chunk, and seven chunks

    def add() -> None:
        for step in range(1, 1001):
            recorder.append(0, step, zeros, zeros, zeros)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add)
        while not adding.done():
            history = recorder.snapshot()
            if history:
                assert history[-1]["total_step"] == history[0]["total_step"] + len(history) - 1
        adding.result()
    assert recorder.snapshot()[-1]["total_step"] == 1000
