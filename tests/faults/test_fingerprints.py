"""States recognize their loader by the values of its options, in every process."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import functools
import json
import math
import threading
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faults.programs import run
from l2m_fast import EffectiveNumber, GroupDRO, Learn2Mix, Loader, Static, Temperature
from l2m_fast.fingerprint import by_value

CLASSES = np.arange(24) % 3


def make(mixing: Any, classes: Any = CLASSES) -> Loader:
    return Loader(np.arange(len(classes)), batch_size=6, classes=classes, mixing=mixing, format="numpy", seed=0)


class Custom:
    """Policy with parameters of any kind."""

    def __init__(self, **parameters: Any) -> None:
        self.__dict__.update(parameters)

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        return window.proportions


class Slotted(Custom):
    """Policy with slots, one of them private."""

    __slots__ = ("__private", "rate")

    def __init__(self, rate: float, private: float) -> None:
        self.rate, self.__private = rate, private


class OneSlot:
    """Policy with a single slot, named by a string."""

    __slots__ = "rate"  # noqa: PLC0205

    def __init__(self, rate: float) -> None:
        self.rate = rate


def square(x: float) -> float:
    return x * x


EQUAL: dict[str, tuple[Any, Any]] = {
    "a NumPy float": (Learn2Mix(0.1), Learn2Mix(np.float64(0.1))),
    "an int and a float": (Temperature(2), Temperature(2.0)),
    "a float32 that is a power of two": (GroupDRO(0.5), GroupDRO(cast("Any", np.float32(0.5)))),
    "a NumPy int": (Temperature(3), Temperature(cast("Any", np.int16(3)))),
    "a list and an array": (Static([0.5, 0.25, 0.25]), Static(np.array([0.5, 0.25, 0.25]))),
    "a tensor and a list": (Custom(p=torch.tensor([1.0, 2.0])), Custom(p=[1, 2])),
    "functions by name": (Custom(f=square), Custom(f=square)),
    "classes by name": (Custom(f=Custom), Custom(f=Custom)),
    "partials": (Custom(f=functools.partial(square, 2)), Custom(f=functools.partial(square, 2.0))),
    "objects without a repr": (Custom(inner=Custom(rate=1)), Custom(inner=Custom(rate=1.0))),
    "long arrays": (Custom(p=np.arange(3000)), Custom(p=np.arange(3000.0))),
    "NaN-free dicts": (Custom(d={"a": 1, "b": (2, 3)}), Custom(d={"a": 1.0, "b": [2.0, 3.0]})),
    "infinity": (Temperature(math.inf), Temperature(np.inf)),
    "NaN": (Custom(p=math.nan, q=[math.nan, 1.5]), Custom(p=np.nan, q=np.array([np.nan, 1.5]))),
    "texts": (Custom(p=np.array(["a", "b"])), Custom(p=np.array(["a", "b"]))),
    "locks": (Custom(p=threading.Lock()), Custom(p=threading.Lock())),
    "generators of random numbers": (Custom(p=np.random.default_rng(3)), Custom(p=np.random.default_rng(3))),
}
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "a parameter": (Learn2Mix(0.1), Learn2Mix(0.1 + 1e-16)),
    "another policy": (GroupDRO(0.5), Learn2Mix(0.5)),
    "long arrays that differ in the middle": (
        Custom(p=np.arange(2000.0)),
        Custom(p=np.where(np.arange(2000) == 1000, -1.0, np.arange(2000.0))),
    ),
    "arrays of another shape": (Custom(p=np.zeros((2, 3))), Custom(p=np.zeros((3, 2)))),
    "large arrays of another shape": (Custom(p=np.zeros((20, 30))), Custom(p=np.zeros((30, 20)))),
    "functions": (Custom(f=square), Custom(f=make)),
    "True and 2": (Custom(flag=True), Custom(flag=2)),
    "objects inside": (Custom(inner=Custom(rate=1)), Custom(inner=Custom(rate=2))),
    "large integers": (Custom(p=2**60), Custom(p=2**60 + 1)),
    "arrays of large integers": (Custom(p=np.array([2**60])), Custom(p=np.array([2**60 + 1]))),
    "a slot": (Slotted(1, 1), Slotted(2, 1)),
    "a private slot": (Slotted(1, 1), Slotted(1, 2)),
    "a slot named by a string": (Custom(inner=OneSlot(1)), Custom(inner=OneSlot(2))),
    "bytes": (Custom(p=b"a"), Custom(p=b"b")),
    "texts": (Custom(p=np.array(["a", "b"])), Custom(p=np.array(["a", "c"]))),
    "arrays of objects": (Custom(p=np.array([1, "a"], object)), Custom(p=np.array([1, "b"], object))),
    "arrays of times": (Custom(p=np.array(["2026-01-01"], "M8[D]")), Custom(p=np.array(["2026-01-02"], "M8[D]"))),
    "structured arrays": (Custom(p=np.array([(1, 2.0)], "i4,f8")), Custom(p=np.array([(1, 2.5)], "i4,f8"))),
    "complex numbers": (Custom(p=1j, q=np.array([1j])), Custom(p=1j, q=np.array([2j]))),
    "decimals": (Custom(p=decimal.Decimal("0.1")), Custom(p=decimal.Decimal("0.2"))),
    "ranges": (Custom(p=range(3)), Custom(p=range(4))),
    "deques": (Custom(p=collections.deque([1])), Custom(p=collections.deque([2]))),
    "dates": (Custom(p=dt.date(2026, 1, 1)), Custom(p=dt.date(2026, 1, 2))),
    "generators of random numbers": (Custom(p=np.random.default_rng(3)), Custom(p=np.random.default_rng(4))),
    "NaN and a number": (Custom(p=math.nan), Custom(p=1.5)),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL.keys())
def test_equal_values_are_the_same_policy(one: Any, other: Any) -> None:
    state = json.loads(json.dumps(make(one).state_dict()))
    make(other).load_state_dict(state)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_other_values_are_another_policy(one: Any, other: Any) -> None:
    state = json.loads(json.dumps(make(one).state_dict()))
    with pytest.raises(
        ValueError, match="the state must be from a loader with the same data and options \\(got mixing: "
    ):
        make(other).load_state_dict(state)


def test_long_shares_that_differ_in_the_middle_are_another_policy() -> None:
    shares = np.full(2000, 1 / 2000)
    other = shares.copy()
    other[999:1001] += [1e-9, -1e-9]
    classes = np.arange(4000) % 2000
    state = make(Static(shares), classes).state_dict()
    make(Static(shares.tolist()), classes).load_state_dict(state)
    with pytest.raises(ValueError, match="mixing: "):
        make(Static(other), classes).load_state_dict(state)


def test_a_policy_that_holds_a_function_resumes_in_another_process() -> None:
    program = """
        import json, sys
        class Following:
            def __init__(self, f): self.f = f
            def initial(self, sizes): return sizes / sizes.sum()
            def update(self, window): return self.f(window.proportions)
        def same(p): return p
        loader = Loader(np.arange(24), batch_size=6, classes=np.arange(24) % 3, mixing=Following(same), format="numpy", seed=0)
        if sys.argv[1:]:
            loader.load_state_dict(json.loads(sys.argv[1]))
        print(json.dumps(loader.state_dict()))
        """
    state = run(program)
    assert run(program, state) == state


def test_attributes_set_during_a_run_do_not_change_the_fingerprint() -> None:
    loader = make(policy := Custom(calls=0))
    before = loader.state_dict()["fingerprint"]
    policy.calls = 7  # type: ignore[attr-defined]
    assert loader.state_dict()["fingerprint"] == before


@dataclass(frozen=True)
class Recursive:
    """Object in a reference cycle with itself."""

    inner: Any


def test_reference_cycles_are_supported() -> None:
    loop: list[Any] = []
    loop += [{"loop": loop}] * 9
    assert json.dumps(by_value(Recursive(loop)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_a_fingerprint_survives_json(value: Any) -> None:
    fingerprint = by_value(value)
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert by_value(value) == fingerprint


def test_modifying_a_state_does_not_change_the_loader() -> None:
    loader = make(Learn2Mix(0.5))
    state = loader.state_dict()
    state["fingerprint"]["mixing"] = "Learn2Mix()"
    state["fingerprint"].pop("fields")
    assert loader.state_dict() == make(Learn2Mix(0.5)).state_dict()


def test_policies_of_arrays_are_values() -> None:
    one, same, other = Static(np.array([0.5, 0.5])), Static([0.5, 0.5]), Static([0.25, 0.75])
    assert one == same
    assert one != other
    assert one != EffectiveNumber(0.5)
    assert len({one, same, other}) == 2


def test_a_static_keeps_the_shares_that_it_was_given() -> None:
    shares = np.array([0.5, 0.25, 0.25])
    policy = Static(shares)
    loader = make(policy)
    shares[:] = [0, 0, 1]
    assert policy == Static([0.5, 0.25, 0.25])
    assert loader.proportions.tolist() == [0.5, 0.25, 0.25]
