"""The C API and the Python package deliver the same batches, and resume each other's states at every step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from c_api.library import FAILED, INVALID, Batch, CLoader, Error
from l2m_fast import (
    Annealed,
    Balanced,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Loader,
    Proportional,
    Static,
    Temperature,
    state_from_bytes,
    state_to_bytes,
)
from l2m_fast.fingerprint import description

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Remembering:
    """Policy with memory that depends on every part of the window."""

    memory_rows = 2

    def __init__(self, rate: float, *, schedule: bool) -> None:
        self.rate, self.schedule = rate, schedule

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        memory = window.memory + np.array([window.class_losses + window.passes, window.counts + window.rows_drawn])
        amounts = self.rate * memory[0] + memory[1] + window.step % 3 + (window.total_steps or 1)
        shares = np.where(window.class_sizes > 0, amounts + 1, 0.0) * window.proportions.max()
        return shares / shares.sum(), memory


def random_mixing(rng: random.Random, present: Any) -> tuple[Any, dict[str, Any]]:
    """Return a policy of Python, and the same one as arguments of `CLoader`."""
    rate = rng.choice([0.1, 0.3, 1.0])
    shares = present * rng.choice([1.0, 0.5 + np.arange(len(present))])
    shares = shares / shares.sum()
    own = Remembering(rate, schedule=rng.random() < 0.5)
    choices: list[tuple[Any, dict[str, Any]]] = [
        (None, {}),
        (Proportional(), {"mixing": ("Proportional", {})}),
        (Balanced(), {"mixing": ("Balanced", {})}),
        (Static(shares), {"mixing": ("Static", shares)}),
        (Temperature(3 * rate), {"mixing": ("Temperature", {"t": 3 * rate})}),
        (Annealed(rate / 3, rate), {"mixing": ("Annealed", {"start": rate / 3, "end": rate})}),
        (EffectiveNumber(rate / 3), {"mixing": ("EffectiveNumber", {"beta": rate / 3})}),
        (GroupDRO(rate), {"mixing": ("GroupDRO", {"step_size": rate})}),
        (Learn2Mix(), {"mixing": ("Learn2Mix", {})}),
        (
            Learn2Mix(rate, 0.01, "balanced"),
            {"mixing": ("Learn2Mix", {"balanced": 1, "mixing_rate": rate, "min_share": 0.01})},
        ),
        (own, {"policy": (own, description(own))}),
    ]
    return rng.choice(choices)


def doubled(sums: Any) -> None:
    sums *= 2


class Configuration:
    """Random arguments of a loader, for both languages."""

    def __init__(self, rng: random.Random) -> None:
        num_rows = rng.choice([1, 2, 7, 30, 60])
        dtypes = ["uint8", "int16", "float32", "float64"]
        self.data = [
            np.arange(num_rows * size).reshape(num_rows, size).astype(rng.choice(dtypes))[:: rng.choice([1, -1])]
            for size in rng.choices([1, 2, 5, 40], k=rng.randint(1, 3))
        ]
        num_classes = rng.choice([1, 2, 3, 6])
        class_type = rng.choice(["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
        classes = np.array([rng.randrange(num_classes) for _ in range(num_rows)], class_type)
        rows = None if rng.random() < 0.7 else np.array(rng.sample(range(num_rows), (num_rows + 1) // 2))
        self.common: dict[str, Any] = {
            "classes": classes if rng.random() < 0.8 else None,
            "rows": rows,
            "seed": rng.getrandbits(64),
            "batch_size": rng.choice([1, 2, 5, 12]),
        }
        used = classes if rows is None else classes[rows]
        present = np.bincount(used, minlength=int(classes.max()) + 1) > 0
        mixing, self.c_mixing = random_mixing(rng, present if self.common["classes"] is not None else np.ones(1))
        self.own: dict[str, Any] = {"mixing": mixing, "format": "numpy"}
        self.c_only: dict[str, int] = {}
        self.option(rng, "shuffle", [True, True, True, False])
        self.option(rng, "drop_last", [False, False, True])
        self.option(rng, "steps_per_epoch", [None, None, 1, 4, 9])
        self.option(rng, "total_steps", [20] if isinstance(mixing, Annealed) else [None, 20])
        self.option(rng, "update_every", [None, None, 1, 2, 5])
        self.option(rng, "lookahead", [0, 0, 1])
        self.option(rng, "num_threads", [0, 0, 2])
        self.option(rng, "prefetch", [0, 1, 4])
        self.own["order"], self.c_only["grouped"] = rng.choice([("shuffled", 0), ("grouped", 1)])
        if rng.random() < 0.25:
            self.option(rng, "rank", [0, 1])
            self.option(rng, "world_size", [2])
            self.own["all_reduce"] = self.c_mixing["all_reduce"] = doubled

    def option(self, rng: random.Random, name: str, values: list[Any]) -> None:
        self.own[name] = rng.choice(values)
        self.c_only[name] = int(self.own[name] or 0)

    def python(self) -> Loader:
        return Loader(self.data, **self.common | self.own)

    def c(self) -> CLoader:
        return CLoader(self.data, **self.common | self.c_mixing | self.c_only)


class Pair:
    """The same loader in both languages."""

    def __init__(self, configuration: Configuration) -> None:
        self.python, self.c = configuration.python(), configuration.c()
        self._batches: Any = None

    def next(self) -> Batch | None:
        """Take the next batch of both and compare them; None: the epoch has ended."""
        position = self.python.epoch, self.python.total_step
        self._batches = self._batches or iter(self.python)
        expected, batch = next(self._batches, None), self.c.next()
        if expected is None:
            assert batch is None
            self._batches = None
        else:
            assert batch is not None
            assert batch.fields == [array.tobytes() for array in expected]
            assert batch.rows == self.python.batch_rows.tolist()
            assert batch.classes == self.python.batch_classes.tolist()
            assert batch.step == position[1]
        self.compare()
        return batch

    def call(self, function: str, *arguments: Any) -> None:
        """Call both, and compare their messages if they fail."""
        try:
            positional, step = arguments[:2], {"step": arguments[2]} if len(arguments) > 2 else {}
            getattr(self.python, function)(*positional, **step)
        except RuntimeError as error:
            with pytest.raises(Error) as raised:
                getattr(self.c, function)(*arguments)
            assert (raised.value.code, str(raised.value)) == (FAILED, str(error))  # noqa: PT017
        else:
            getattr(self.c, function)(*arguments)
        self.compare()

    def compare(self) -> None:
        assert self.state == self.c.save()
        assert self.c.progress == (self.python.epoch, self.python.step, self.python.total_step)
        assert self.c.proportions.tolist() == self.python.proportions.tolist()
        np.testing.assert_array_equal(self.c.class_losses, self.python.class_losses)

    @property
    def state(self) -> bytes:
        return state_to_bytes(self.python.state_dict())

    def newest_state(self) -> bytes:
        """Return the state after the last batch, the same in both."""
        step = self.python.total_step - 1
        try:
            state = state_to_bytes(self.python.state_dict(step=step if step >= 0 else None))
        except ValueError:  # not available, since the window was closed or passes were started
            return self.state
        assert self.c.save(step if step >= 0 else None) == state
        return state


def drive(configuration: Configuration, rng: random.Random) -> int:
    """Run a pair, and at every step a pair that is resumed from the other language. Return the number of batches."""
    pair = Pair(configuration)
    batches = 0
    for _ in range(25):
        state = pair.newest_state()
        resumed = Pair(configuration)
        resumed.c.load(state)
        resumed.python.load_state_dict(state_from_bytes(pair.c.save() if state == pair.state else state))
        batch = pair.next()
        again = resumed.next() if batch is not None else None
        if batch is None or again is None:
            continue
        assert (again.rows, again.fields) == (batch.rows, batch.fields)
        batches += 1
        losses = np.array([(row * 7 + batch.step) % 13 + 0.1 for row in batch.rows], rng.choice(["float32", "float64"]))
        action = rng.random()
        if action < 0.5:
            pair.call("record", losses)
        elif action < 0.7:
            step = batch.step - rng.randint(0, 2) if batch.step > 2 else batch.step
            pair.call("record", losses[:1], np.array([batch.classes[0]], np.int32), step)
        elif action < 0.75:
            pair.call("update")
        elif action < 0.8:
            pair.call("set_epoch", rng.randrange(9))
    return batches


@pytest.mark.parametrize("group", range(20))
def test_both_give_the_same_batches_and_states(group: int) -> None:
    batches = 0
    for case in range(10):
        rng = random.Random(1000 * group + case)
        configuration = Configuration(rng)
        try:
            configuration.python()
        except ValueError:
            with pytest.raises(Error) as raised:
                configuration.c()
            assert raised.value.code == INVALID
        else:
            batches += drive(configuration, rng)
    assert batches > 50


def test_a_state_of_other_data_is_refused_in_both_directions() -> None:
    data = [np.arange(40)]
    classes = np.arange(40, dtype=np.int32) % 3
    python = Loader(data, batch_size=4, classes=classes, seed=1, format="numpy")
    c = CLoader(data, batch_size=5, classes=classes, seed=1)
    message = "global_batch: {} in the state, {} here"
    with pytest.raises(Error, match=message.format(4, 5)):
        c.load(state_to_bytes(python.state_dict()))
    with pytest.raises(ValueError, match=message.format(5, 4)):
        python.load_state_dict(state_from_bytes(c.save()))
