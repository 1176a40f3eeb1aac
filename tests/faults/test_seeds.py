"""The source of randomness of a loader without a seed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from l2m_fast import Balanced, Loader

CLASSES = np.arange(60) % 3


def rows(loader: Any) -> list[int]:
    return [int(row) for batch in loader for row in batch]


def torch_loader(**options: Any) -> Loader:
    return Loader(torch.arange(60), **{"batch_size": 6, **options})


def test_torch_manual_seed_decides_the_batches() -> None:
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(rows(torch_loader()))
    assert runs[0] == runs[1] != runs[2]


def test_two_loaders_pair_their_rows_differently() -> None:
    torch.manual_seed(0)
    a, b = torch_loader(), torch_loader()
    assert rows(a) != rows(b)
    c, d = (Loader(np.arange(60), batch_size=6, format="numpy") for _ in range(2))
    assert rows(c) != rows(d)


def test_the_seed_is_drawn_at_the_first_batch() -> None:
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    loader = torch_loader(classes=CLASSES, mixing=Balanced())
    iter(loader)
    _ = loader.proportions, loader.epoch, len(loader), loader.history
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(5)
    first = rows(loader)
    state = torch.get_rng_state()
    rows(loader)
    assert torch.equal(torch.get_rng_state(), state)  # once
    torch.manual_seed(5)
    assert rows(torch_loader(classes=CLASSES, mixing=Balanced())) == first


@pytest.mark.parametrize("options", [{}, {"rows": np.arange(0, 60, 2)}, {"drop_last": True, "batch_size": 7}])
def test_without_randomness_no_seed_is_drawn(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loader = torch_loader(shuffle=False, **options)
    rows(loader)
    state = loader.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert state["seed"] == 0


def test_a_drawn_seed_is_part_of_the_state_and_gives_the_same_batches() -> None:
    for loader, batch_format in (
        (torch_loader(), "torch"),
        (Loader(np.arange(60), batch_size=6, format="numpy"), "numpy"),
    ):
        batches = iter(loader)
        next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        rest = rows(batches)
        data: Any = torch.arange(60) if batch_format == "torch" else np.arange(60)
        resumed = Loader(data, batch_size=6, format=batch_format)  # type: ignore[arg-type]
        resumed.load_state_dict(state)
        assert rows(resumed) == rest
        explicit = Loader(data, batch_size=6, format=batch_format, seed=state["seed"])  # type: ignore[arg-type]
        assert rows(explicit)[6:] == rest


def test_a_state_saved_before_the_first_batch_fixes_the_seed() -> None:
    loader = torch_loader()
    state = loader.state_dict()
    assert isinstance(state["seed"], int)
    resumed = torch_loader()
    resumed.load_state_dict(state)
    assert rows(resumed) == rows(loader)


@pytest.mark.parametrize("first", ["update", "set_epoch", "record", "state_dict"])
def test_a_drawn_seed_equals_a_given_one_whichever_call_comes_first(first: str) -> None:
    def make(seed: int | None) -> Loader:
        return Loader(np.arange(60), batch_size=6, classes=CLASSES, mixing=Balanced(), format="numpy", seed=seed)

    def begin(loader: Loader) -> list[int]:
        if first in ("update", "record"):
            loader.record(np.ones(3), [0, 1, 2])
        if first == "update":
            loader.update()
        if first == "set_epoch":
            loader.set_epoch(4)
        if first == "state_dict":
            loader.state_dict()
        return rows(loader) + rows(loader)

    drawn = make(None)
    got = begin(drawn)
    assert begin(make(drawn.state_dict()["seed"])) == got


def test_seeds_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    torch.manual_seed(1)
    expected = rows(torch_loader())
    torch.manual_seed(1)
    data = torch.arange(60)
    with torch.device("meta"):
        assert rows(Loader(data, batch_size=6)) == expected
