"""Damaged states: an accepted one must give full batches, with rows of the right class that repeat only if they must."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np

from fuzz import run
from l2m_fast import Balanced, GroupDRO, Learn2Mix, Loader, Proportional, Static

_VALUES: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 40, 2**16, 2**31, 2**32, 2**52, 2**53 - 20, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e300, float("inf"), float("-inf"), float("nan")),
    *(None, True, "", "a", [], [[]], [0], {}, {"a": 1}),
]


class Case:
    """Loader, and the arguments that it was created with."""

    def __init__(self, rng: random.Random) -> None:
        self.num_rows = rng.choice([1, 2, 3, 10, 40, 200])
        num_classes = rng.choice([1, 2, 3, 8])
        self.classes = np.array([rng.randrange(num_classes) for _ in range(self.num_rows)])
        num_classes = int(self.classes.max()) + 1
        present = np.bincount(self.classes, minlength=num_classes) > 0
        world_size = rng.choice([1, 1, 1, 2])
        self.batch_size = rng.choice([1, 2, 5, 16, 50])
        self.options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "classes": self.classes,
            "mixing": rng.choice(
                [Proportional(), Balanced(), Learn2Mix(0.5), GroupDRO(0.1), Static(present / present.sum())]
            ),
            "steps_per_epoch": rng.choice([None, 3, 20]),
            "update_every": rng.choice([None, 1, 2, 5]),
            "lookahead": rng.choice([0, 0, 1]),
            "shuffle": rng.random() < 0.8,
            "num_threads": rng.choice([0, 0, 2]),
            "rank": rng.randrange(world_size),
            "world_size": world_size,
            "all_reduce": lambda sums: sums * world_size,
            "format": "numpy",
            "seed": 0,
        }

    def make(self) -> Loader:
        return Loader(np.arange(self.num_rows), **self.options)

    def check(self, loader: Loader, batches: int) -> None:
        """Take some batches, and check the guarantees of each."""
        sizes = np.bincount(self.classes, minlength=loader.num_classes)
        for _ in range(batches):
            try:
                batch = next(iter(loader), None)
            except RuntimeError as error:
                if "cannot count further" in str(error):
                    return
                raise
            if batch is None:
                continue
            assert len(batch) == self.batch_size
            assert np.array_equal(loader.batch_classes, self.classes[batch])
            for k, drawn in enumerate(np.bincount(self.classes[batch], minlength=len(sizes))):
                rows = batch[self.classes[batch] == k].tolist()
                num_drawn = drawn * self.options["world_size"]  # in the global batch
                assert len(rows) - len(set(rows)) <= max(num_drawn - sizes[k], 0)
            p = loader.proportions
            assert abs(p.sum() - 1) < 1e-9
            assert (p >= 0).all()
            if len(batch) % 2:
                loader.record(np.ones(len(batch)))


def damage(state: Any, rng: random.Random) -> Any:
    """Change a random entry of a state."""
    if isinstance(state, dict) and state and rng.random() < 0.95:
        key = rng.choice(list(state))
        if rng.random() < 0.03:
            del state[key]
        else:
            state[key] = damage(state[key], rng)
        return state
    if isinstance(state, list) and state and rng.random() < 0.9:
        i = rng.randrange(len(state))
        action = rng.random()
        if action < 0.05:
            del state[i]
        elif action < 0.1:
            state.insert(i, copy.deepcopy(state[i]))
        elif action < 0.15:
            rng.shuffle(state)
        else:
            state[i] = damage(state[i], rng)
        return state
    if isinstance(state, list) and rng.random() < 0.5:  # the rows held
        return [*state, [rng.randrange(8), [rng.randrange(200) for _ in range(rng.randrange(4))]]]
    if isinstance(state, (int, float)) and not isinstance(state, bool) and rng.random() < 0.5:
        return state + rng.choice([-1, 1, 2, 1e-13, 0.25, -0.25])
    return copy.deepcopy(rng.choice(_VALUES))


def case(rng: random.Random) -> str:
    """Run one case."""
    of = Case(rng)
    loader = of.make()
    of.check(loader, rng.randrange(8))
    state = json.loads(json.dumps(loader.state_dict()))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        damage(state, rng)
    resumed = of.make()
    before = resumed.state_dict()
    try:
        resumed.load_state_dict(state)
    except (TypeError, ValueError) as error:
        assert len(str(error)) < 2000
        assert resumed.state_dict() == before
        of.check(resumed, 2)
        return "refused"
    of.check(resumed, 12)
    again = of.make()
    again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
    assert again.state_dict() == resumed.state_dict()
    return "taken"


if __name__ == "__main__":
    raise SystemExit(run("states", case))
