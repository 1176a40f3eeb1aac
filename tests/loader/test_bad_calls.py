"""Bad calls of methods of a loader raise errors that name the problem, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import ClassLoss, Learn2Mix
from loader.plain import CLASSES, make


def _bad_records() -> dict[str, tuple[type[Exception], str, tuple[Any, ...]]]:
    zeros = np.zeros(6)
    return {
        "too few": (ValueError, r"one value for each of the 6 rows of the last batch \(got 5\)", (np.zeros(5),)),
        "too many": (ValueError, r"6 rows of the last batch \(got 7\)", (np.zeros(7),)),
        "two dimensions": (ValueError, r"must have shape \[n\] \(got shape \(6, 1\)\)", (np.zeros((6, 1)),)),
        "the mean": (ValueError, r"must have shape \[n\] \(got shape \(\)\)", (torch.tensor(0.5),)),
        "integers": (TypeError, r"losses must be float16, .*\(got int64\)", (np.zeros(6, np.int64),)),
        "bools": (TypeError, r"losses must be float16, .*\(got bool\)", (np.zeros(6, bool),)),
        "complex": (TypeError, r"\(got complex128\)", (zeros * 1j,)),
        "strings": (TypeError, r"losses must be float16", (["a"] * 6,)),
        "None": (ValueError, r"must have shape \[n\]", (None,)),
        "on a device": (ValueError, r"losses must be on the CPU.*meta", (torch.zeros(6, device="meta"),)),
        "classes too short": (ValueError, r"5", (zeros, np.zeros(5, np.int64))),
        "classes out of range": (
            ValueError,
            r"\[0, 3\) \(got 3 at position 3\)",
            (zeros, np.array([0, 1, 2, 3, 0, 0])),
        ),
        "classes negative": (ValueError, r"\[0, 3\) \(got -1 at position 3\)", (zeros, np.array([0, 1, 2, -1, 0, 0]))),
        "classes float": (TypeError, r"classes must be integers \(got float64\)", (zeros, zeros)),
        "classes twice": (
            ValueError,
            r"classes must be None",
            (ClassLoss(np.zeros(3), np.zeros(3, np.int64)), np.zeros(6, np.int64)),
        ),
        "sums of another K": (
            ValueError,
            r"shape \(3,\) \(got \(2,\)",
            (ClassLoss(np.zeros(2), np.zeros(2, np.int64)),),
        ),
        "counts negative": (ValueError, r"counts", (ClassLoss(np.zeros(3), np.array([1, -1, 1])),)),
        "counts absurd": (ValueError, r"counts", (ClassLoss(np.zeros(3), np.array([1, 2**60, 1])),)),
        "counts float": (TypeError, r"count of integers", (ClassLoss(np.zeros(3), np.zeros(3)),)),  # type: ignore[arg-type]
        "sums of nothing": (ValueError, r"sum 0", (ClassLoss(np.ones(3), np.array([1, 0, 1])),)),
    }


@pytest.mark.parametrize("name", _bad_records())
def test_record_refuses_and_adds_nothing(name: str) -> None:
    error, message, arguments = _bad_records()[name]
    loader = make(classes=CLASSES, mixing=Learn2Mix(0.5))
    batches = iter(loader)
    next(batches)
    loader.record(np.ones(6))
    before = loader.state_dict()
    with pytest.raises(error, match=message) as raised:
        loader.record(*arguments)
    assert raised.type is error
    assert loader.state_dict() == before
    assert len(list(batches)) == 3


def test_record_before_any_batch_is_refused() -> None:
    loader = make(classes=CLASSES)
    for call in (lambda: loader.record(np.zeros(6)), lambda: loader.batch_rows, lambda: loader.batch_classes):
        with pytest.raises(RuntimeError, match="no batch has been yielded"):
            call()
    iter(loader)
    with pytest.raises(RuntimeError, match="no batch has been yielded"):
        loader.record(np.zeros(6))
    assert len(list(loader)) == 4


def test_record_with_classes_works_before_any_batch() -> None:
    loader = make(classes=CLASSES)
    loader.record(np.ones(3), classes=[0, 1, 2])
    loader.update()
    assert loader.class_losses.tolist() == [1, 1, 1]


def test_update_is_refused_with_update_every() -> None:
    loader = make(classes=CLASSES, update_every=2)
    with pytest.raises(RuntimeError, match=r"update\(\) requires update_every=None \(got 2\)"):
        loader.update()
    assert len(list(loader)) == 4


@pytest.mark.parametrize(
    ("epoch", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), (2**70, ValueError)]
)
def test_set_epoch_refuses(epoch: Any, error: type[Exception]) -> None:
    loader = make()
    with pytest.raises(error, match=r"epoch must be an int in \[0, "):
        loader.set_epoch(epoch)
    assert loader.epoch == 0
    assert len(list(loader)) == 4


def test_an_initialized_process_group_without_a_rank_warns_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("l2m_fast.distributed._warned_of_ranks", False)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        make()  # no warning for a single process
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        make(rank=0, world_size=1)
        with pytest.warns(RuntimeWarning, match="this loader has no rank") as caught:
            make()
        assert len(caught) == 1
        make()
    finally:
        torch.distributed.destroy_process_group()
