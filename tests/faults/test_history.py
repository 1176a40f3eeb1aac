"""Values returned to the user share no memory with the loader, and records need little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from faults.programs import run
from l2m_fast import Learn2Mix, Loader

N = 60
CLASSES = np.arange(N) % 3


def make(**options: Any) -> Loader:
    usual: dict[str, Any] = {
        "batch_size": 6,
        "classes": CLASSES,
        "mixing": Learn2Mix(0.5),
        "format": "numpy",
        "seed": 0,
    }
    return Loader(np.arange(N), **usual | options)


def train(loader: Loader, epochs: int = 1) -> list[list[int]]:
    rows = []
    for _ in range(epochs):
        for batch in loader:
            rows.append(batch.tolist())
            loader.record(1.0 + 3 * CLASSES[batch])
    return rows


@pytest.mark.parametrize("spoil", [lambda p: p.sort(), lambda p: p.fill(1e9), lambda p: np.multiply(p, 1e6, out=p)])
def test_writing_into_the_history_changes_no_batch(spoil: Any) -> None:
    loader, expected = make(), make()
    train(loader)
    train(expected)
    for record in loader.history:
        for name in ("proportions", "class_losses"):
            spoil(record[name])
    spoil(loader.history[-1]["proportions"])
    spoil(loader.proportions)
    spoil(loader.class_losses)
    loader.class_sizes.fill(0)
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in expected]  # an epoch without record()
    assert loader.state_dict() == expected.state_dict()


def test_writing_into_the_history_does_not_corrupt_memory() -> None:
    """An earlier version shared its proportions with the user, and corrupted the heap."""
    program = """
        loader = Loader(np.arange(60), batch_size=6, classes=np.arange(60) % 3, mixing=Learn2Mix(0.5), format="numpy", seed=0)
        for _ in range(3):
            for batch in loader:
                loader.record(np.ones(6))
            for record in loader.history:
                record["proportions"] *= 1000
            for batch in loader:
                assert len(batch) == 6
        """
    assert run(program) == ""


def test_modifying_the_labels_does_not_change_the_loader() -> None:
    loader = make(classes=list("abc" * 20))
    labels = loader.class_labels
    assert labels is not None
    labels.clear()
    assert loader.class_labels == ["a", "b", "c"]


def test_modifying_a_saved_state_does_not_change_the_loader() -> None:
    loader = make()
    before = loader.state_dict()
    spoiled = loader.state_dict()
    spoiled["fingerprint"].clear()
    spoiled["due"].clear()
    assert loader.state_dict() == before


def test_a_history_is_a_sequence_of_records() -> None:
    loader = make()
    assert loader.history == []
    assert len(loader.history) == 0
    train(loader, 5)
    history = loader.history
    train(loader, 2)
    assert len(history) == 5
    assert len(loader.history) == 7
    assert [record["epoch"] for record in history] == [0, 1, 2, 3, 4]
    assert [record["epoch"] for record in history[1:3]] == [1, 2]
    assert history[-1]["epoch"] == 4
    assert history == list(history)
    assert history == loader.history[:5]
    assert history != loader.history
    assert repr(history) == "<History of 5 updates>"
    for index in (5, -6):
        with pytest.raises(IndexError):
            history[index]


def test_records_need_no_more_memory_than_their_numbers() -> None:
    """A dict per record needed about 15 times as much, and the limit did not include it."""
    program = """
        import tracemalloc
        loader = Loader(np.arange(4), batch_size=2, classes=np.arange(4) % 2, mixing=Learn2Mix(0.5), format="numpy", seed=0)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(40_000):
            loader.record([1.0, 2.0], [0, 1])
            loader.update()
        print(len(loader.history), tracemalloc.get_traced_memory()[0] - before < 6_000_000)
        """
    assert run(program) == "40000 True\n"


def test_the_oldest_records_are_dropped_when_the_history_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2m_fast.run._HISTORY_BYTES", 1 << 20)
    monkeypatch.setattr("l2m_fast.history._CHUNK_BYTES", 1 << 12)
    loader = make()
    for i in range(20_000):
        loader.record([1.0 + i], [i % 3])
        loader.update()
    history = loader.history
    assert 8_000 < len(history) < 12_000
    assert history[-1]["class_losses"][19_999 % 3] == 20_000
    assert [r["class_losses"].max() for r in history[:2]] == [20_001.0 - len(history), 20_002.0 - len(history)]
