"""Loss windows, and the batches from which they take effect."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from l2m_fast import (
    Learn2Mix,
)
from loader.small import CLASSES, START, STEPS, Spy, make, record_means, stepped


def test_an_epoch_is_a_window_and_takes_effect_from_the_next() -> None:
    loader = make(prefetch=4)
    expected = START
    for _ in range(3):
        for _batch in loader:
            record_means(loader, 1.0, 2.0, 3.0)
            assert loader.proportions.tolist() == pytest.approx(expected.tolist(), abs=1e-15)
        expected = stepped(expected, [1, 2, 0, 3])
    assert loader.proportions.tolist() == pytest.approx(expected.tolist(), abs=1e-15)
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)
    assert loader.proportions[2] == 0


def test_the_window_of_an_unfinished_epoch_closes_when_the_next_begins() -> None:
    loader = make()
    for _ in itertools.islice(loader, 2):
        record_means(loader, 1.0, 2.0, 3.0)
    assert loader.proportions.tolist() == START.tolist()
    next(iter(loader))
    np.testing.assert_allclose(loader.proportions, stepped(START, [1, 2, 0, 3]))
    assert [(update["epoch"], update["total_step"]) for update in loader.history] == [(0, 2)]


def test_an_epoch_without_losses_makes_no_update() -> None:
    spy = Spy()
    loader = make(mixing=spy)
    list(loader)
    with pytest.warns(RuntimeWarning, match=r"Spy\(\) follows losses, and none was recorded"):
        list(loader)
    list(loader)
    assert spy.calls == []
    assert loader.history == []


@pytest.mark.parametrize("every", [1, 2, 4, 6, 7, 15])
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (1, 1), (2, 4), (1, 30)])
def test_window_w_takes_effect_from_the_first_batch_of_window_w_plus_2(
    every: int, num_threads: int, prefetch: int
) -> None:
    loader = make(update_every=every, num_threads=num_threads, prefetch=prefetch)
    means = [START]  # by the number of windows
    total = 0
    for _ in range(5):
        for rows in loader:
            window = total // every
            np.testing.assert_allclose(
                np.bincount(CLASSES[rows], minlength=4) / 6, means[max(window - 1, 0)], atol=1 / 6
            )
            record_means(loader, 1.0 + window, 2.0, 3.0)
            total += 1
            if total % every == 0:
                means.append(stepped(means[-1], [1.0 + window, 2, 0, 3]))
            of_next = max(total // every - 1, 0)
            np.testing.assert_allclose(loader.proportions, means[of_next], rtol=1e-13)
    closed = (total - 1) // every
    assert len(loader.history) == closed
    assert [update["total_step"] for update in loader.history] == [every * (w + 1) for w in range(closed)]


def test_the_batches_that_follow_are_drawn_with_the_new_proportions() -> None:
    loader = make(mixing=Learn2Mix(1.0), update_every=2, steps_per_epoch=8, prefetch=4)
    shares = []
    for rows in loader:
        shares.append(np.bincount(CLASSES[rows], minlength=4).tolist())
        loader.record([1.0, 0.0, 0.0], classes=[3, 0, 1])
    assert shares[4:] == [[0, 0, 0, 6]] * 4
    assert all(max(share) < 6 for share in shares[:4])


def test_update_between_epochs_takes_effect_from_the_next() -> None:
    loader = make(prefetch=4)
    list(loader)
    record_means(loader, 1.0, 2.0, 3.0)
    assert loader.proportions.tolist() == START.tolist()
    loader.update()
    expected = stepped(START, [1, 2, 0, 3])
    np.testing.assert_allclose(loader.proportions, expected)
    list(loader)
    np.testing.assert_allclose(loader.proportions, expected)
    assert [update["epoch"] for update in loader.history] == [1]


def test_update_before_the_first_epoch_takes_effect_in_it() -> None:
    loader = make(mixing=Learn2Mix(1.0))
    loader.record([1.0, 0.0, 0.0], classes=[1, 0, 3])
    loader.update()
    assert loader.proportions.tolist() == [0, 1, 0, 0]
    assert all((CLASSES[rows] == 1).all() for rows in loader)


def test_update_in_mid_epoch_takes_effect_from_the_next() -> None:
    loader = make(prefetch=4)
    expected = START
    for rows in loader:
        record_means(loader, 1.0, 2.0, 3.0)
        loader.update()
        expected = stepped(expected, [1, 2, 0, 3])
        assert loader.proportions.tolist() == START.tolist()
        assert len(rows) == 6
    np.testing.assert_allclose(loader.proportions, expected)
    assert len(loader.history) == STEPS
    list(loader)
    np.testing.assert_allclose(loader.proportions, expected)


def test_update_without_losses_changes_nothing() -> None:
    loader = make()
    loader.update()
    list(loader)
    loader.update()
    assert loader.history == []
    assert loader.proportions.tolist() == START.tolist()


def test_losses_recorded_after_an_epoch_belong_to_the_next_window() -> None:
    loader = make()
    list(loader)
    loader.record(np.ones(6))
    assert loader.history == []
    assert sum(loader.state_dict()["window_counts"][0]) == 6
    list(loader)
    assert [update["epoch"] for update in loader.history] == [1]
    assert loader.history[0]["counts"].sum() == 6
