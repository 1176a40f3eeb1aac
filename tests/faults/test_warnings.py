"""Warnings that are errors, as `python -W error` makes them: they come once, and the run goes on as if they had been shown."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from l2m_fast import Loader
from loader.small import CLASSES, make


class Schedule:
    """Steps towards equal shares, and counts its windows; or fails."""

    schedule = True
    memory_rows = 1

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        if self._error is not None:
            raise self._error
        equal = (window.class_sizes > 0) / 3
        return 0.5 * window.proportions + 0.5 * equal, window.memory + 1


WINDOWS: list[dict[str, Any]] = [{}, {"lookahead": 2}, {"update_every": 2}, {"update_every": 2, "lookahead": 1}]


def run(loader: Loader, steps: int, *, updates: bool = False) -> tuple[list[Any], list[str]]:
    """Record negative losses, and return the batches and what was raised instead of one, or of an update."""
    seen: list[Any] = []
    raised: list[str] = []
    batches = iter(loader)
    while len(seen) < steps:
        try:
            rows = next(batches)
        except StopIteration:
            batches = iter(loader)
            if updates:
                try:
                    loader.update()
                except RuntimeWarning as warning:
                    raised.append(str(warning))
            continue
        except (ValueError, RuntimeWarning) as error:
            raised.append(str(error))
            assert len(raised) < 100, "the run does not go on"
            continue
        seen.append([rows.tolist(), loader.proportions.tolist()])
        loader.record(-np.ones(len(rows)), CLASSES[rows])
    return seen, raised


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_a_window_whose_warning_is_an_error_acts_once(options: dict[str, Any], updates: bool) -> None:
    updates = updates and "update_every" not in options
    states = []
    for action in ("ignore", "error"):
        loader = make(mixing=Schedule(), **options)
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            seen, raised = run(loader, 20, updates=updates)
        states.append((seen, loader.state_dict(), loader.history))
        negative = "the mean loss of a class is negative; it counts as 0"
        assert raised == ([negative] if action == "error" else [])
    assert states[0] == states[1]


def test_an_update_whose_warning_is_an_error_acts_in_the_next_epoch() -> None:
    loader = make(mixing=Schedule(), steps_per_epoch=2)
    list(loader)
    before = loader.proportions
    loader.record(-np.ones(3), [0, 1, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="negative"):
            loader.update()
    assert loader.proportions.tolist() != before.tolist()
    assert loader.state_dict()["memory"][0] == 2.0


@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_a_policy_that_keeps_failing_lets_the_run_go_on_where_the_warning_is_an_error(options: dict[str, Any]) -> None:
    loader = make(mixing=Schedule(ValueError("no")), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen, raised = run(loader, 20)
    assert len(seen) == 20
    assert any("failed again on the same losses" in text for text in raised)


@pytest.mark.parametrize("text", ["é" * 300, "a" + "é" * 300, "日" * 300, "\N{PILE OF POO}" * 300, "\ud800" * 300])
def test_what_a_policy_says_is_cut_between_characters(text: str) -> None:
    loader = make(mixing=Schedule(ValueError(text)), update_every=2)
    batches = iter(loader)
    next(batches), next(batches)
    with pytest.raises(ValueError, match=text.encode("utf-8", "replace").decode()[:1].replace("?", ".")):
        next(batches)
    with pytest.warns(RuntimeWarning, match=r"the proportions stay unchanged: ValueError: .{10,200}\.\.\.$"):
        next(batches)
    assert loader.total_step == 3
