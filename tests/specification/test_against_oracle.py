"""The loader equals tests/oracle bit for bit: row ids, classes, proportions and states."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import l2m_fast
import oracle
from l2m_fast import Loader
from oracle import OracleLoader


class Annealed:
    """Schedule from balanced to proportional that depends on rows drawn and steps; its memory counts updates."""

    schedule = True
    memory_rows = 2

    def initial(self, class_sizes: Any) -> Any:
        return (class_sizes > 0) / np.count_nonzero(class_sizes)

    def update(self, window: Any) -> Any:
        memory = window.memory + np.array([[1.0], [float(window.counts.sum())]])
        weight = 1.0 / (1.0 + memory[0, 0] + window.step / (window.total_steps or 100))
        amounts = np.where(
            window.class_sizes > 0, window.class_sizes + weight * window.rows_drawn + window.passes % 3, 0
        )
        return amounts / amounts.sum(), memory


class Towards(Annealed):
    """Policy that follows losses and keeps its proportions in memory."""

    schedule = False

    def update(self, window: Any) -> Any:
        losses = np.where(window.class_sizes > 0, window.class_losses + 0.01, 0)
        proportions = 0.5 * window.memory[0] + losses + window.proportions
        return proportions / proportions.sum(), np.array([window.proportions, window.class_losses])


# Functions that create a policy from a module with the built-in ones: the package, or the oracle.
_POLICIES: dict[str, Callable[[Any, Any], Any]] = {
    "proportional": lambda of, _: of.Proportional(),
    "balanced": lambda of, _: of.Balanced(),
    "static": lambda of, sizes: of.Static(_odd_shares(sizes)),
    "effective": lambda of, _: of.EffectiveNumber(0.9),
    "effective near 1": lambda of, _: of.EffectiveNumber(0.99999),
    "temperature": lambda of, _: of.Temperature(3.0),
    "temperature below 1": lambda of, _: of.Temperature(0.3),
    "learn2mix": lambda of, _: of.Learn2Mix(0.3),
    "learn2mix floor": lambda of, sizes: of.Learn2Mix(0.5, min_share=0.5 / np.count_nonzero(sizes), start="balanced"),
    "group_dro": lambda of, _: of.GroupDRO(0.2),
    "annealed": lambda of, _: of.Annealed(0.3, 0.9),
    "schedule": lambda _, __: Annealed(),
    "memory": lambda _, __: Towards(),
}
_WITHOUT_CLASSES = [name for name in _POLICIES if not name.startswith(("learn2mix", "group", "memory"))]


def _odd_shares(sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shares = np.where(sizes > 0, np.sqrt(np.arange(1, len(sizes) + 1)), 0.0)
    normalized: np.ndarray[Any, Any] = shares / shares.sum()
    return normalized


class _AllReduce:
    """Reduction as if all ranks had recorded the same losses, in place or into a new array."""

    def __init__(self, world_size: int, in_place: bool) -> None:
        self._world_size, self._in_place = world_size, in_place

    def __call__(self, sums: np.ndarray[Any, Any]) -> object:
        if not self._in_place:
            return sums * self._world_size
        sums *= self._world_size
        return None


class Pair:
    """Loader and oracle that receive the same calls and are compared after every step."""

    def __init__(self, options: dict[str, Any], num_threads: int, prefetch: int) -> None:
        classes, self.num_rows = options["classes"], options["num_rows"]
        self._options = {key: value for key, value in options.items() if key not in ("classes", "num_rows")}
        self._classes = classes
        self._machine: dict[str, Any] = {"num_threads": num_threads, "prefetch": prefetch}
        self.loader, self.oracle = self._make()
        self._steps: list[int] = []
        self._batches: Any = None
        self._expected: Any = None

    def _make(self) -> tuple[Loader, OracleLoader]:
        ids = np.arange(self.num_rows)
        options = dict(self._options)
        policy, sizes = options.pop("mixing")
        make = _POLICIES[policy]
        include: Any = ("rows", "classes", "step")
        loader = Loader(
            ids,
            classes=self._classes,
            format="numpy",
            include=include,
            mixing=make(l2m_fast, sizes),
            **options,
            **self._machine,
        )
        return loader, OracleLoader(self.num_rows, classes=self._classes, mixing=make(oracle, sizes), **options)

    def begin(self) -> None:
        iter(self.loader)  # an iterator that is never advanced changes nothing
        self._batches, self._expected = iter(self.loader), iter(self.oracle)
        self.compare()

    def begin_forever(self) -> None:
        made: list[Any] = []
        for loader in (self.loader, self.oracle):
            try:
                made.append(loader.forever())
            except ValueError:
                made.append(None)
        assert (made[0] is None) == (made[1] is None)
        if made[0] is not None:
            self._batches, self._expected = made

    def step(self) -> bool:
        """Draw a batch from both. Return False at the end of the epoch of both."""
        if self._batches is None:
            self.begin()
        batch, expected = next(self._batches, None), next(self._expected, None)
        if batch is None or expected is None:
            assert batch is None
            assert expected is None
            self._batches = None
            self.compare()
            return False
        rows, classes = expected
        self._steps.append(batch[3])
        assert batch[0].tolist() == batch[1].tolist() == rows.tolist()
        assert batch[2].tolist() == classes.tolist()
        assert np.asarray(self.loader.batch_rows).tolist() == rows.tolist()
        assert np.asarray(self.loader.batch_classes).tolist() == classes.tolist()
        self.compare()
        return True

    def record(self, losses: np.ndarray[Any, Any], back: int = 0) -> None:
        """Record losses of the last batch or of one before it. Check that both refuse them or neither."""
        step = self._steps[-1 - back] if 0 < back < len(self._steps) else None
        failed: list[Any] = []
        for loader in (self.loader, self.oracle):
            if step is None:
                try:
                    of = len(np.asarray(self.loader.batch_rows))
                except RuntimeError:
                    return
            else:
                of = self.loader.batch_size
            try:
                loader.record(losses[np.arange(of) % len(losses)], step=step)
                failed.append(None)
            except (RuntimeError, ValueError) as error:
                failed.append(type(error))
        assert failed[0] == failed[1]

    def restore(self, back: int = 0) -> None:
        """Restore both from a state, by default the newest one saved."""
        step = self.loader.total_step - 1 - back
        options: dict[str, Any] = {} if back < 0 or step < 0 else {"step": step}
        try:
            expected = self.oracle.state_dict(**options)
        except ValueError:
            with pytest.raises(ValueError, match="step must be in"):
                self.loader.state_dict(**options)
            return
        state = json.loads(json.dumps(self.loader.state_dict(**options)))
        self.loader.close()
        self.loader, self.oracle = self._make()
        self.loader.load_state_dict(state)
        del state["fingerprint"]
        assert state == expected
        self.oracle.load_state_dict(state)
        self._batches, self._steps = None, []
        self.compare()

    def compare(self) -> None:
        state = self.loader.state_dict()
        del state["fingerprint"]
        assert state == self.oracle.state_dict()
        assert (self.loader.epoch, self.loader.step) == (self.oracle.epoch, self.oracle.step)
        assert self.loader.proportions.tolist() == self.oracle.proportions.tolist()
        assert self.loader.class_sizes.tolist() == self.oracle.class_sizes.tolist()


@st.composite
def _options(draw: st.DrawFn) -> dict[str, Any]:
    num_rows = draw(st.integers(1, 80))
    with_classes = draw(st.booleans())
    num_classes = draw(st.integers(1, 12))
    classes = np.array(draw(st.lists(st.integers(0, num_classes - 1), min_size=num_rows, max_size=num_rows)))
    rows = None
    if draw(st.booleans()):
        rows = np.array(draw(st.permutations(range(num_rows)))[: draw(st.integers(1, num_rows))])
    taken = np.arange(num_rows) if rows is None else rows
    sizes = np.bincount(classes[taken], minlength=int(classes.max()) + 1) if with_classes else np.array([len(taken)])
    world_size = draw(st.sampled_from([1, 1, 1, 2, 3, 5, 64]))
    batch_size = draw(st.integers(1, 30))
    default_steps = draw(st.booleans())
    shuffle = draw(st.sampled_from([True, True, True, False]))
    possible = with_classes or not shuffle or len(taken) >= world_size
    policies = sorted(_POLICIES if with_classes else _WITHOUT_CLASSES)
    update_every = draw(st.sampled_from([None, None, 1, 2, 3, 7]))
    policy = draw(st.sampled_from(policies))
    return {
        "num_rows": num_rows,
        "classes": classes if with_classes else None,
        "rows": rows,
        "batch_size": batch_size,
        "mixing": (policy, sizes),
        "shuffle": shuffle,
        "order": draw(st.sampled_from(["shuffled", "grouped"])),
        "drop_last": draw(st.booleans()) and len(taken) >= batch_size * world_size,
        "steps_per_epoch": None if default_steps and possible else draw(st.integers(1, 9)),
        "total_steps": draw(st.sampled_from([50] if policy == "annealed" else [None, 50])),
        "update_every": update_every,
        "lookahead": draw(st.integers(0, min(update_every or 5, 5))) if draw(st.booleans()) else 0,
        "seed": draw(st.sampled_from([0, 1, 2**64 - 1])),
        "rank": draw(st.integers(0, world_size - 1)),
        "world_size": world_size,
        "all_reduce": _AllReduce(world_size, draw(st.booleans())),
    }


_LOSSES = st.lists(st.floats(-0.5, 9) | st.sampled_from([0.0, float("nan"), float("inf")]), min_size=1, max_size=20)
_ACTION = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 12)),
    st.tuples(st.just("record"), _LOSSES.map(np.array)),
    st.tuples(st.just("record back"), st.tuples(_LOSSES.map(np.array), st.integers(1, 6))),
    st.tuples(st.just("restore at"), st.integers(0, 6)),
    st.tuples(st.just("forever"), st.none()),
    st.tuples(st.just("record and step"), _LOSSES.map(np.array)),
    st.tuples(st.just("begin"), st.none()),
    st.tuples(st.just("restore"), st.none()),
    st.tuples(st.just("set_epoch"), st.integers(0, 4)),
    st.tuples(st.just("update"), st.none()),
)


@pytest.mark.filterwarnings(
    "ignore:non-finite losses",
    "ignore:the mean loss of a class is negative",
    "ignore:a batch of .* repeats rows",
    "ignore:shuffle=False with classes=",
    "ignore:mixing has no effect without classes",
    "ignore:.* follows losses, and none was recorded",
)
@settings(
    max_examples=int(os.environ.get("L2M_EXAMPLES", "400")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    options=_options(),
    num_threads=st.sampled_from([0, 1, 2, 3]),
    prefetch=st.sampled_from([0, 1, 4]),
    actions=st.lists(_ACTION, min_size=1, max_size=14),
)
def test_loader_equals_the_oracle(
    options: dict[str, Any], num_threads: int, prefetch: int, actions: list[tuple[str, Any]]
) -> None:
    """Make any calls in any order, with any number of threads and any prefetch depth."""
    pair = Pair(options, num_threads, prefetch)
    for action, argument in actions:
        if action == "steps":
            for _ in range(argument):
                pair.step()
        elif action == "record":
            pair.record(argument)
        elif action == "record and step":
            for _ in range(30):  # it may be endless
                if not pair.step():
                    break
                pair.record(argument)
        elif action == "begin":
            pair.begin()
        elif action == "record back":
            pair.record(*argument)
        elif action == "restore":
            pair.restore(back=-1)
        elif action == "restore at":
            pair.restore(back=argument)
        elif action == "forever":
            pair.begin_forever()
        elif action == "set_epoch":
            pair.loader.set_epoch(argument)
            pair.oracle.set_epoch(argument)
            pair.begin()
        elif options["update_every"] is None:
            pair.loader.update()
            pair.oracle.update()
    pair.step()
    pair.loader.close()


@pytest.mark.parametrize("num_threads", [0, 3])
@pytest.mark.parametrize("num_rows", [524_289, 700_001])
def test_large_classes_equal_the_oracle(num_rows: int, num_threads: int) -> None:
    """Draw a class that several threads shuffle in buckets, together with a small one, beyond the end of a pass."""
    classes = np.zeros(num_rows, np.int64)
    classes[:5000] = 1
    options: dict[str, Any] = {"num_rows": num_rows, "classes": classes, "batch_size": num_rows // 3, "seed": 0}
    options["mixing"] = ("balanced", None)
    pair = Pair(options, num_threads, prefetch=2)
    for _ in range(8):
        pair.step()
    pair.restore()
    for _ in range(3):
        pair.step()
