"""Loss windows of the oracle."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from oracle import Balanced, Floats, Ints, Learn2Mix, OracleLoader, Proportional, Window
from specification.cases import long_tail, loss_of, recording


@dataclass
class Given:
    """Policy that starts with `start` and continues with `change(window.class_losses)`."""

    start: list[float]
    change: Callable[[list[float]], list[float]]

    def initial(self, _class_sizes: Ints, /) -> list[float]:
        return self.start

    def update(self, window: Window, /) -> list[float]:
        return self.change(window.class_losses.tolist())


def test_the_window_of_an_epoch_takes_effect_from_the_next_epoch() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    for epoch, group in itertools.groupby(enumerate(recording(loader, 4)), lambda item: item[0] // 10):
        in_force = {tuple(proportions) for _, (_, proportions) in group}
        assert len(in_force) == 1
        start = Learn2Mix(0.3).initial(loader.class_sizes).tolist()
        assert list(in_force.pop()) == (loader.history[epoch - 1]["proportions"] if epoch else start)
    assert len(loader.history) == 4


@pytest.mark.parametrize("every", [1, 3, 10, 13])
def test_window_w_takes_effect_from_the_first_batch_of_window_w_plus_2(every: int) -> None:
    means: list[float] = []

    def change(class_losses: list[float]) -> list[float]:
        means.append(class_losses[0])
        return [0.25 + len(means) / 128, 0.75 - len(means) / 128]

    mixing = Given([0.25, 0.75], change)
    loader = OracleLoader(40, batch_size=4, classes=np.arange(40) % 2, mixing=mixing, update_every=every)
    step = 0
    for _ in range(4):
        batches = iter(loader)
        for _ in range(len(loader)):
            window = step // every
            assert loader.proportions[0] == 0.25 + max(window - 1, 0) / 128
            next(batches)
            assert loader.state_dict()["windows"] == window
            assert means == [np.mean(range(w * every, (w + 1) * every)) for w in range(window)]
            loader.record([step, step], classes=[0, 1])
            step += 1


def test_every_update_starts_from_the_newest_proportions() -> None:
    loader = OracleLoader(4, batch_size=4, classes=np.array([0, 0, 0, 1]), mixing=Learn2Mix(0.5))
    next(iter(loader))
    for _ in range(2):
        loader.record([1.0, 3.0], classes=[0, 1])
        loader.update()
    assert [record["proportions"] for record in loader.history] == [[0.5, 0.5], [0.375, 0.625]]
    assert loader.proportions.tolist() == [0.75, 0.25]


def test_update_closes_the_window_and_takes_effect_from_the_next_epoch() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    batches = iter(loader)
    start = loader.proportions.tolist()
    rows, _ = next(batches)
    loader.record(loss_of(rows))
    loader.update()
    assert len(loader.history) == 1
    assert loader.proportions.tolist() == start
    assert len(list(batches)) == len(loader) - 1
    assert len(loader.history) == 1, "nothing was recorded since"
    assert loader.proportions.tolist() == loader.history[0]["proportions"]
    with pytest.raises(RuntimeError, match="update_every=None"):
        OracleLoader(60, batch_size=6, mixing=Proportional(), update_every=3).update()


def test_class_losses_are_the_means_of_the_finite_losses() -> None:
    seen: list[list[float]] = []

    def change(class_losses: list[float]) -> list[float]:
        seen.append(class_losses)
        return [0.5, 0.25, 0.25, 0.0]

    mixing = Given([0.5, 0.25, 0.25, 0.0], change)
    loader = OracleLoader(8, batch_size=4, classes=np.arange(8) // 2, mixing=mixing, rows=np.arange(6))
    loader.record([1.0, np.nan, 2.0, -4.0, np.inf], classes=[0, 0, 0, 1, 1])
    loader.update()
    loader.record([7.0], classes=[3])  # an empty class
    loader.update()
    loader.record([5.0, 3.0], classes=[2, 0])
    loader.update()
    assert seen == [[1.5, 0.0, 0.75, 0.0], [3.0, 0.0, 5.0, 0.0]]
    assert loader.class_losses == [3.0, 0.0, 5.0, None]
    assert [record["class_losses"][2] for record in loader.history] == [None, 5.0]


def test_bad_records_add_nothing() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    with pytest.raises(RuntimeError, match="needs a batch"):
        loader.record([1.0])
    next(iter(loader))
    for losses, classes in (([1.0], None), ([1.0, 2.0], [0]), ([1.0, 2.0], [0, 5]), ([1.0, 2.0], [0, -1])):
        with pytest.raises(ValueError, match="one class in"):
            loader.record(losses, classes)
    assert sum(loader.state_dict()["window_counts"][0]) == 0


def test_fixed_policies_keep_their_proportions_and_the_class_losses() -> None:
    for every in (None, 3):
        loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Balanced(), update_every=every)
        assert {tuple(proportions) for _, proportions in recording(loader, 2)} == {(0.2,) * 5}
        assert None not in loader.class_losses
        assert loader.history == []


def test_ranks_that_sum_their_losses_agree_with_one_process() -> None:
    world_size = 3
    barrier, buffers, results = threading.Barrier(world_size), {}, {}

    def run(rank: int, world_size: int, all_reduce: Callable[[Floats], object] | None) -> None:
        loader = OracleLoader(
            60,
            batch_size=12 // world_size,
            classes=long_tail(),
            mixing=Learn2Mix(0.3),
            update_every=4,
            rank=rank,
            world_size=world_size,
            all_reduce=all_reduce,
        )
        for _ in range(4):
            for rows, _ in loader:
                loader.record(np.sqrt(rows))
        results[rank, world_size] = loader.history

    def all_reduce_of(rank: int) -> Callable[[Floats], object]:
        def all_reduce(buffer: Floats) -> None:
            buffers[rank] = buffer.copy()
            barrier.wait(timeout=60)
            buffer[:] = sum(buffers[other] for other in range(world_size))
            barrier.wait(timeout=60)

        return all_reduce

    threads = [threading.Thread(target=run, args=(rank, world_size, all_reduce_of(rank))) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(0, 1, None)
    assert len(results[0, 1]) == 4
    assert all(results[rank, world_size] == results[0, 1] for rank in range(world_size))
