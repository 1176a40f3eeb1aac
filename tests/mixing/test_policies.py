"""Mixing policies as functions of class sizes and losses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2m_fast import (
    Annealed,
    Balanced,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Proportional,
    Static,
    Temperature,
    Window,
)
from l2m_fast.fingerprint import by_value

sizes_of = st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any).map(lambda n: np.array(n, np.int64))


def nonempty(sizes: Any) -> list[int]:
    return [k for k, n in enumerate(sizes) if n > 0]


def normal(amounts: Any) -> Any:
    return np.array(amounts) / math.fsum(amounts)


def assert_close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
    assert math.fsum(got) == pytest.approx(1, abs=1e-9)


@given(sizes=sizes_of)
def test_proportional_and_balanced_start_with_their_shares(sizes: Any) -> None:
    assert_close(Proportional().initial(sizes), [n / sizes.sum() for n in sizes.tolist()])
    assert_close(Balanced().initial(sizes), [(n > 0) / len(nonempty(sizes)) for n in sizes.tolist()])
    assert_close(GroupDRO(0.1).initial(sizes), Balanced().initial(sizes))
    assert_close(Learn2Mix().initial(sizes), Proportional().initial(sizes))
    assert_close(Learn2Mix(start="balanced").initial(sizes), Balanced().initial(sizes))


@given(sizes=sizes_of, beta=st.floats(0, 0.9999))
def test_effective_number_is_the_formula_of_cui(sizes: Any, beta: float) -> None:
    effective = [
        math.fsum(beta**i for i in range(n)) for n in sizes.tolist()
    ]  # (1 - beta^n) / (1 - beta), term by term
    amounts = [n / e if n > 0 else 0 for n, e in zip(sizes.tolist(), effective, strict=True)]
    assert_close(EffectiveNumber(beta).initial(sizes), normal(amounts))


@given(sizes=sizes_of)
def test_effective_number_goes_from_proportional_to_balanced(sizes: Any) -> None:
    assert_close(EffectiveNumber(0).initial(sizes), Proportional().initial(sizes))
    np.testing.assert_allclose(
        EffectiveNumber(math.nextafter(1, 0)).initial(sizes), Balanced().initial(sizes), atol=1e-9
    )


@given(sizes=sizes_of, t=st.floats(0.3, 50))
def test_temperature_is_a_power_of_the_sizes(sizes: Any, t: float) -> None:
    assert_close(Temperature(t).initial(sizes), normal([n ** (1 / t) if n > 0 else 0 for n in sizes.tolist()]))


@given(sizes=sizes_of)
def test_temperature_goes_from_proportional_to_balanced(sizes: Any) -> None:
    assert_close(Temperature(1).initial(sizes), Proportional().initial(sizes))
    assert_close(Temperature(math.inf).initial(sizes), Balanced().initial(sizes))


def test_a_tiny_temperature_gives_all_to_the_largest_classes() -> None:
    assert Temperature(1e-5).initial(np.array([3, 7, 0, 7])).tolist() == [0, 0.5, 0, 0.5]


@st.composite
def _window(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Draw class sizes, proportions and class losses; the latter are 0 for classes without rows."""
    sizes = draw(sizes_of)
    amounts = [draw(st.floats(0.01, 1)) if n > 0 else 0.0 for n in sizes]
    losses = [draw(st.floats(0, 10)) if n > 0 else 0.0 for n in sizes]
    return sizes, normal(amounts), np.array(losses)


@given(window=_window(), rate=st.floats(1e-3, 1), floor=st.floats(0, 1))
def test_learn2mix_steps_towards_the_loss_shares(window: Any, rate: float, floor: float) -> None:
    sizes, p, losses = window
    count = len(nonempty(sizes))
    min_share = floor / count * (1 - 1e-12)
    got = Learn2Mix(rate, min_share=min_share).update(Window.of(p, losses, sizes))
    total = math.fsum(losses)
    if total == 0:
        assert got.tolist() == p.tolist()
        return
    expected = [(1 - rate) * share + rate * (loss / total) for share, loss in zip(p, losses, strict=True)]
    expected = [
        min_share + (1 - count * min_share) * share if n > 0 else 0 for n, share in zip(sizes, expected, strict=True)
    ]
    assert_close(got, expected)
    assert min(got[nonempty(sizes)]) >= min_share * (1 - 1e-9)


@given(sizes=sizes_of, floor=st.floats(0, 1), start=st.sampled_from(["proportional", "balanced"]))
def test_learn2mix_raises_its_start_to_the_min_share(sizes: Any, floor: float, start: Any) -> None:
    count = len(nonempty(sizes))
    min_share = floor / count * (1 - 1e-12)
    before = (Proportional() if start == "proportional" else Balanced()).initial(sizes)
    expected = [
        min_share + (1 - count * min_share) * share if n > 0 else 0 for n, share in zip(sizes, before, strict=True)
    ]
    assert_close(Learn2Mix(min_share=min_share, start=start).initial(sizes), expected)


def test_learn2mix_reaches_the_loss_shares_in_one_step_of_1() -> None:
    sizes, losses = np.array([5, 5, 0, 10]), np.array([1.0, 2.0, 0.0, 5.0])
    assert Learn2Mix(1.0).update(Window.of([0.25, 0.25, 0, 0.5], losses, sizes)).tolist() == [0.125, 0.25, 0, 0.625]


def test_learn2mix_converges_on_the_loss_shares() -> None:
    sizes, losses = np.array([900, 90, 10]), np.array([0.1, 0.3, 0.6])
    p = Learn2Mix(0.1).initial(sizes)
    for _ in range(300):
        p = Learn2Mix(0.1).update(Window.of(p, losses, sizes))
    np.testing.assert_allclose(p, losses, rtol=1e-9)


@given(window=_window(), step_size=st.floats(1e-3, 5))
def test_group_dro_weights_the_shares_by_exponentials_of_the_losses(window: Any, step_size: float) -> None:
    sizes, p, losses = window
    expected = normal([share * math.exp(step_size * loss) for share, loss in zip(p, losses, strict=True)])
    assert_close(GroupDRO(step_size).update(Window.of(p, losses, sizes)), expected)


def test_group_dro_does_not_overflow() -> None:
    got = GroupDRO(100.0).update(Window.of([0.5, 0.5, 0.0], [1e4, 1.0, 0.0], [3, 3, 0]))
    assert got.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "policy", [Proportional(), Balanced(), EffectiveNumber(0.9), Temperature(2.0), Static([0.5, 0.5])]
)
def test_fixed_policies_are_marked_fixed_and_keep_their_proportions(policy: Any) -> None:
    assert policy.fixed is True
    assert policy.update(Window.of([0.25, 0.75], [1.0, 9.0], [4, 4])).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.0), (1.0, 0.0), (0.0, 0.3), (1 / 3, 1 / 3)])
def test_annealed_moves_the_exponent_with_the_steps(start: float, end: float) -> None:
    sizes = np.array([100, 10, 0, 1])
    policy = Annealed(start, end)
    assert_close(policy.initial(sizes), normal([100**start, 10**start, 0, 1]))
    for step in (0, 1, 50, 99, 100, 10**9):
        window = dataclasses.replace(Window.of([1.0, 0, 0, 0], [0.0] * 4, sizes), step=step, total_steps=100)
        a = start + (end - start) * min(step, 100) / 100
        assert_close(policy.update(window), normal([100**a, 10**a, 0, 1]))


@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 10, 49, 100, 1000, 12_345])
def test_classes_of_equal_size_have_equal_shares_to_the_last_bit(num_classes: int) -> None:
    for size in (1, 3, 50, 6000, 12_345):
        sizes = np.full(num_classes, size)
        classical = Proportional().initial(sizes).tolist()
        assert Balanced().initial(sizes).tolist() == classical
        assert Temperature(2).initial(sizes).tolist() == classical
        for step in (0, 1, 17, 50, 99, 100):
            window = dataclasses.replace(Window.of(classical, sizes * 0.0, sizes), step=step, total_steps=100)
            assert Annealed().update(window).tolist() == classical


def test_annealed_for_a_million_classes_of_which_some_are_empty() -> None:
    sizes = np.arange(1_000_000) % 1000
    window = dataclasses.replace(Window.of(sizes * 0.0, sizes * 0.0, sizes), step=1, total_steps=2)
    assert_close(Annealed(0.0, 0.5).update(window), normal(np.where(sizes > 0, sizes**0.25, 0)))
    assert Annealed().initial(np.array([7])).tolist() == [1]


def test_policies_that_follow_losses_are_not_fixed() -> None:
    assert not any(getattr(policy, "fixed", False) for policy in (Learn2Mix(), GroupDRO(0.01)))


@pytest.mark.parametrize("policy", [Learn2Mix(), GroupDRO(0.1)])
def test_policies_do_not_modify_their_arguments(policy: Any) -> None:
    arguments = np.array([0.25, 0.75]), np.array([1.0, 9.0]), np.array([4, 4])
    before = [argument.tolist() for argument in arguments]
    policy.update(Window.of(*arguments))
    policy.initial(arguments[2])
    assert [argument.tolist() for argument in arguments] == before


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Learn2Mix(0), ValueError, r"mixing_rate must be in \(0, 1\] \(got 0\)"),
        (lambda: Learn2Mix(1.5), ValueError, r"mixing_rate must be in \(0, 1\] \(got 1.5\)"),
        (lambda: Learn2Mix(-0.1), ValueError, "mixing_rate"),
        (lambda: Learn2Mix(math.nan), ValueError, "mixing_rate"),
        (lambda: Learn2Mix("0.1"), TypeError, r"mixing_rate must be a number .* \(got '0.1'\)"),  # type: ignore[arg-type]
        (lambda: Learn2Mix(True), TypeError, "mixing_rate"),
        (lambda: Learn2Mix(None), TypeError, "mixing_rate"),  # type: ignore[arg-type]
        (lambda: Learn2Mix(min_share=-0.1), ValueError, r"min_share must be in \[0, 1\]"),
        (lambda: Learn2Mix(min_share=1.1), ValueError, "min_share"),
        (lambda: Learn2Mix(min_share=math.nan), ValueError, "min_share"),
        (lambda: Learn2Mix(min_share=0.4).initial(np.array([1, 2, 3])), ValueError, "min_share must be at most 1 / 3"),
        (lambda: Learn2Mix(start="uniform"), ValueError, r"start must be .* \(got 'uniform'\)"),  # type: ignore[arg-type]
        (lambda: EffectiveNumber(1), ValueError, r"beta must be in \[0, 1\) \(got 1\)"),
        (lambda: EffectiveNumber(-0.1), ValueError, "beta"),
        (lambda: EffectiveNumber(math.nan), ValueError, "beta"),
        (lambda: EffectiveNumber([0.9]), TypeError, "beta"),  # type: ignore[arg-type]
        (lambda: Temperature(0), ValueError, r"t must be above 0 \(got 0\)"),
        (lambda: Temperature(-1), ValueError, "t must be above 0"),
        (lambda: Temperature(math.nan), ValueError, "t must be above 0"),
        (lambda: Temperature(10**400), ValueError, r"t must be above 0 \(got 10+\.\.\."),
        (lambda: Temperature(False), TypeError, "t must be a number"),
        (lambda: Annealed(-0.1), ValueError, r"start must be in \[0, 1\] \(got -0.1\)"),
        (lambda: Annealed(end=1.1), ValueError, r"end must be in \[0, 1\] \(got 1.1\)"),
        (lambda: Annealed(math.nan), ValueError, "start"),
        (lambda: Annealed(end="1"), TypeError, r"end must be a number .* \(got '1'\)"),  # type: ignore[arg-type]
        (lambda: Annealed().update(Window.of([1.0], [0.0], [3])), ValueError, "total_steps must be given for Annealed"),
        (
            lambda: Annealed().update(dataclasses.replace(Window.of([1.0], [0.0], [3]), total_steps=0)),
            ValueError,
            "total_steps must be given for Annealed",
        ),
        (lambda: GroupDRO(0), ValueError, "step_size must be above 0"),
        (lambda: GroupDRO(math.inf), ValueError, "step_size must be above 0 and finite"),
        (lambda: GroupDRO(math.nan), ValueError, "step_size"),
        (lambda: GroupDRO("x"), TypeError, "step_size"),  # type: ignore[arg-type]
    ],
)
def test_bad_parameters_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        make()
    assert raised.type is error


@pytest.mark.filterwarnings("error")
def test_proportions_may_be_a_tensor() -> None:
    p = torch.tensor([0.25, 0.75], requires_grad=True)
    policy = Static(p)
    p.data[0] = 1
    assert policy == Static([0.25, 0.75])


def test_numpy_numbers_are_accepted_as_parameters() -> None:
    half: Any = np.float32(0.5)
    two: Any = np.int64(2)
    assert Learn2Mix(half).mixing_rate == 0.5
    assert Temperature(two).initial(np.array([1, 4])).tolist() == [1 / 3, 2 / 3]


def test_policies_compare_by_value() -> None:
    for make in (Learn2Mix, lambda: Learn2Mix(0.3, 0.01, "balanced"), Balanced, lambda: Temperature(2.0)):
        policy: Any = make()
        assert policy == make()
        assert by_value(policy) == by_value(make())
        with pytest.raises(AttributeError):
            policy.fixed = False
