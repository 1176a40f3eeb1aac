"""States of the oracle."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oracle import Balanced, Learn2Mix, OracleLoader, Proportional
from specification.cases import MAX_WORD, epoch_of, long_tail, loss_of, recording

CONFIGURATIONS: list[dict[str, Any]] = [
    {"mixing": Learn2Mix(0.3), "classes": long_tail(), "batch_size": 7},
    {"mixing": Learn2Mix(0.3, min_share=0.05), "classes": long_tail(), "batch_size": 7, "update_every": 3},
    {"mixing": Learn2Mix(0.3), "classes": long_tail(), "batch_size": 7, "update_every": 1, "steps_per_epoch": 4},
    {"mixing": Balanced(), "classes": long_tail(), "batch_size": 20, "shuffle": False, "update_every": 2},
    {"mixing": Proportional(), "batch_size": 9},
    {"mixing": Proportional(), "batch_size": 9, "drop_last": True, "rank": 1, "world_size": 2},
    {"mixing": Proportional(), "batch_size": 9, "steps_per_epoch": 5, "seed": MAX_WORD},
]


@pytest.mark.parametrize("options", CONFIGURATIONS)
@pytest.mark.parametrize("pending", [False, True], ids=["before_recording", "after_recording"])
def test_restored_loader_repeats_the_uninterrupted_run(options: dict[str, Any], pending: bool) -> None:
    """Restore at every step of three epochs, including their ends, with and without pending losses."""

    def run(loader: OracleLoader, batches: int, note: Callable[[], None]) -> list[Any]:
        seen: list[Any] = []
        while len(seen) < batches:
            for rows, classes in loader:
                if not pending:
                    note()
                loader.record(loss_of(rows))
                if pending:
                    note()
                seen.append((rows.tolist(), classes.tolist(), loader.quotas.tolist()))
                if len(seen) == batches:
                    return [*seen, loader.state_dict()]
            note()
        return seen

    uninterrupted = OracleLoader(60, **options)
    states: list[str] = []
    total = 3 * len(uninterrupted)
    expected = run(uninterrupted, total, lambda: states.append(json.dumps(uninterrupted.state_dict())))
    assert len(states) == total + 2
    for text in states:
        state = json.loads(text)
        loader = OracleLoader(60, **{**options, "seed": 99})
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        consumed = state["total_step"]
        if not pending and state["step"] > 0:
            rows, classes = np.array(expected[consumed - 1][:2])
            loader.record(loss_of(rows), classes)
        if consumed < total:
            assert run(loader, total - consumed, lambda: None) == expected[consumed:]


def test_a_state_at_the_end_of_an_epoch_resumes_with_the_next() -> None:
    loader = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    batches = iter(loader)
    for rows, _ in itertools.islice(batches, len(loader)):
        loader.record(loss_of(rows))
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, len(loader))
    restored = OracleLoader(60, batch_size=6, classes=long_tail(), mixing=Learn2Mix(0.3))
    restored.load_state_dict(state)
    assert next(batches, None) is None
    assert epoch_of(restored) == epoch_of(loader)
    assert restored.history == loader.history != []


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_state_has_plain_types_and_is_small(options: dict[str, Any]) -> None:
    loader = OracleLoader(60, **options)
    list(recording(loader, 2))
    text = json.dumps(loader.state_dict(), allow_nan=False)
    assert json.loads(text) == loader.state_dict()
    held = sum(len(rows) for _, rows in loader.state_dict()["held"])
    assert held <= loader.quotas.sum()


def test_without_classes_the_cursor_is_epoch_and_step() -> None:
    loader = OracleLoader(10, batch_size=4, mixing=Proportional())
    for epoch in range(3):
        for step, _ in enumerate(loader, 1):
            state = loader.state_dict()
            assert (state["passes"], state["positions"], state["held"]) == ([epoch], [min(4 * step, 10)], [])


def test_a_state_of_another_number_of_ranks_resumes_with_the_same_global_batches() -> None:
    def loader(rank: int, world_size: int) -> OracleLoader:
        return OracleLoader(
            60, batch_size=12 // world_size, classes=long_tail(), mixing=Balanced(), rank=rank, world_size=world_size
        )

    one = loader(0, 1)
    batches = iter(one)
    next(batches)
    two = [loader(rank, 2) for rank in range(2)]
    for part in two:
        part.load_state_dict(one.state_dict())
    for (rows, _), (left, _), (right, _) in zip(batches, *two, strict=True):
        assert sorted(rows) == sorted([*left, *right])
