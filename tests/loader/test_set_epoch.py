"""Jumps to an epoch."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from l2m_fast import Balanced, Learn2Mix, Proportional
from loader.small import CLASSES, STEPS, drive, make


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["classless", "classes"])
def test_set_epoch_to_the_coming_epoch_changes_nothing(classes: Any) -> None:
    mixing = Proportional()
    plain, told = make(classes=classes, mixing=mixing), make(classes=classes, mixing=mixing)
    for epoch in range(4):
        told.set_epoch(epoch)
        for one, other in zip(plain, told, strict=True):
            np.testing.assert_array_equal(one, other)
        assert told.state_dict() == plain.state_dict()


def test_set_epoch_without_classes_gives_the_batches_of_that_epoch() -> None:
    plain, told = make(classes=None, mixing=None), make(classes=None, mixing=None)
    epochs = [[batch.tolist() for batch in plain] for _ in range(5)]
    for epoch in (3, 0, 0, 4, 2):
        told.set_epoch(epoch)
        assert told.epoch in (epoch, told.state_dict()["epoch"])
        assert [batch.tolist() for batch in told] == epochs[epoch]
    assert told.epoch == 3


def test_set_epoch_with_classes_starts_new_passes_that_depend_on_the_epoch() -> None:
    runs = []
    for before in (0, 2):
        loader = make(mixing=Balanced(), batch_size=6, prefetch=5)
        for _ in range(before):
            list(itertools.islice(loader, 3))
        loader.set_epoch(7)
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        assert state["epoch"] == 7
        assert state["passes"] == [7, 7, 7, 7]
        assert max(state["positions"]) == 2
        rows = np.concatenate(list(batches))
        runs.append([rows[CLASSES[rows] == k].tolist() for k in (0, 1, 3)])
    # Quotas continue from before; the order inside a class is that of its new pass.
    for one, other in zip(*runs, strict=True):
        assert set(one) & set(other)


def test_set_epoch_keeps_proportions_losses_and_the_count_of_steps() -> None:
    loader = make()
    drive(loader, STEPS + 2)
    loader.set_epoch(5)
    before = loader.proportions.tolist()
    assert loader.state_dict()["total_step"] == STEPS + 2
    assert loader.proportions.tolist() == before
    next(iter(loader))
    state = loader.state_dict()
    assert state["total_step"] == STEPS + 3
    assert (state["epoch"], state["step"]) == (5, 1)
    assert loader.proportions.tolist() != before  # the losses recorded in the unfinished epoch take effect now


def test_set_epoch_does_not_disturb_the_running_epoch() -> None:
    plain, told = make(mixing=Balanced()), make(mixing=Balanced())
    batches = iter(told)
    expected = [batch.tolist() for batch in plain]
    got = [next(batches).tolist()]
    told.set_epoch(9)
    got += [batch.tolist() for batch in batches]
    assert got == expected
    next(iter(told))
    assert told.epoch == 9


def test_an_epoch_that_was_set_is_part_of_attributes_and_states() -> None:
    loader = make(mixing=Balanced())
    list(loader)
    loader.set_epoch(9)
    assert (loader.epoch, loader.step) == (9, 0)
    restored = make(mixing=Balanced())
    restored.load_state_dict(loader.state_dict())
    expected = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in restored] == expected

    batches = iter(loader)
    next(batches)
    loader.set_epoch(20)  # takes effect at the end of the running epoch, even if it was restored
    assert (loader.epoch, loader.step) == (10, 1)
    restored.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    for one in (batches, iter(restored)):
        assert len(list(one)) == STEPS - 1
    assert (loader.epoch, restored.epoch) == (20, 20)
    assert [batch.tolist() for batch in restored] == [batch.tolist() for batch in loader]


@pytest.mark.parametrize("running", [True, False])
def test_set_epoch_keeps_the_last_batch(running: bool) -> None:
    loader, plain = make(mixing=Learn2Mix()), make(mixing=Learn2Mix())
    for one in (loader, plain):
        for step, _ in enumerate(one):
            if running and step == 1 and one is loader:
                one.set_epoch(7)
        if one is loader:
            one.set_epoch(7)
        one.record(np.ones(len(one.batch_rows)))
    assert np.array_equal(loader.batch_rows, plain.batch_rows)
    assert loader.state_dict()["window_counts"][0] == plain.state_dict()["window_counts"][0]


def test_set_epoch_to_a_restored_epoch_resumes_in_its_middle() -> None:
    loader = make(mixing=Balanced())
    batches = iter(loader)
    list(itertools.islice(batches, 2))
    state = loader.state_dict()
    rest = [batch.tolist() for batch in batches]
    for epoch, steps in ((0, STEPS - 2), (1, STEPS), (3, STEPS)):
        restored = make(mixing=Balanced())
        restored.load_state_dict(state)
        restored.set_epoch(epoch)
        got = [batch.tolist() for batch in restored]
        assert len(got) == steps
        assert (got == rest) is (epoch == 0)
        assert restored.epoch == epoch + 1


def test_the_last_set_epoch_takes_effect() -> None:
    loader = make()
    for epoch in (4, 2, 0):
        loader.set_epoch(epoch)
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in make()]
