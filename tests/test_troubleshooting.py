"""Every message that docs/troubleshooting.md explains is one that the package gives."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from l2m_fast import Annealed, BatchSampler, Learn2Mix, Loader, cross_entropy

TABLES = (Path(__file__).parent.parent / "docs/troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `(.+?)`(?: \(warning\))? \|", TABLES, re.MULTILINE)

X, Y = np.zeros((100, 4), np.float32), np.arange(100) % 5


def make(data: Any = (X, Y), **options: Any) -> Loader:
    return Loader(data, **{"batch_size": 10, "seed": 0, **options})


def following(**options: Any) -> Loader:
    return make(classes=Y, mixing=Learn2Mix(), **options)


def begun(**options: Any) -> Loader:
    loader = following(**options)
    next(iter(loader))
    return loader


def replaced_iterator() -> None:
    loader = make()
    older, newer = iter(loader), iter(loader)
    next(older), next(newer), next(older)


def moved() -> None:
    data = np.zeros(100)
    batches = iter(make(data))
    next(batches)
    data.resize(10_000, refcheck=False)
    next(batches), next(batches)


def other_version() -> None:
    make().load_state_dict(make().state_dict() | {"version": 1})


def closed() -> None:
    loader = make()
    loader.close()
    next(iter(loader))


def drawn_ahead() -> None:
    batches = iter(BatchSampler(Y, 10, mixing=Learn2Mix(), seed=0))
    next(batches), next(batches)


def averaged() -> None:
    loader = following(rank=0, world_size=2, all_reduce=lambda sums: sums)
    for _, targets in loader:
        loader.record(np.ones(len(targets)))


# In the order of the page.
MISTAKES: tuple[Callable[[], Any], ...] = (
    lambda: make("images.npy"),
    lambda: make((X, Y[:50])),
    lambda: make(np.zeros((4, 100)).T),
    lambda: make(classes=["a", "b"]),
    lambda: make(classes=["a", None] * 50),
    lambda: make(classes=Y * 1.0),
    lambda: make(mixing=Learn2Mix()),
    lambda: make(classes=Y, mixing="balanced"),
    lambda: make(classes=Y, mixing=Annealed()),
    lambda: make(seed=None, rank=0, world_size=2),
    lambda: make(batch_size=1000, drop_last=True),
    lambda: make(device="cuda:99"),
    lambda: make(num_workers=2),
    lambda: Loader.from_dataloader(DataLoader([1, 2, 3])),  # type: ignore[arg-type]
    lambda: pickle.dumps(make()),
    lambda: following().record(np.zeros(10)),
    lambda: begun().record(torch.tensor(1.0)),
    lambda: begun().record(torch.zeros(7)),
    lambda: [list(epoch) for epoch in [following()] * 2],
    lambda: begun().record(np.full(10, np.nan)),
    lambda: begun().record(np.zeros(10), step=7),
    drawn_ahead,
    replaced_iterator,
    moved,
    closed,
    lambda: make(classes=Y, shuffle=False),
    lambda: cross_entropy(torch.zeros(3, 5), torch.zeros(3), 5),
    lambda: make(batch_size=20).load_state_dict(make().state_dict()),
    other_version,
    lambda: make(classes=Y, update_every=2).update(),
    lambda: following(rank=0, world_size=2),
    averaged,
)


def test_every_message_has_a_mistake() -> None:
    assert len(MESSAGES) == len(MISTAKES) > 30


@pytest.mark.parametrize(("message", "mistake"), [*zip(MESSAGES, MISTAKES, strict=False)], ids=MESSAGES)
def test_the_mistake_gives_the_message(message: str, mistake: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # which are then raised
        with pytest.raises(Exception) as raised:  # noqa: PT011 -- the message is what matters
            mistake()
    pattern = ".+".join(map(re.escape, message.split("...")))
    assert re.match(pattern, str(raised.value), re.DOTALL), str(raised.value)
