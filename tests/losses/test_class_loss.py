"""class_loss, build_info, and what the mixing policies compute, against formulas written down independently."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import l2m_fast
from l2m_fast import (
    Balanced,
    ClassLoss,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Proportional,
    Static,
    Temperature,
    _core,
    class_loss,
)
from l2m_fast.fingerprint import by_value
from l2m_fast.losses.sums import ClassSums

K = 5
CLASSES = np.array([0, 3, 3, 1, 0, 3, 4, 0])
LOSSES = np.array([1.5, 0.25, 8.0, 2.0, 0.5, 3.0, 0.0, -1.0])  # exact in every float type
SUMS, COUNTS = [1.0, 2.0, 0.0, 11.25, 0.0], [3, 1, 0, 3, 1]

# ---- class_loss


def assert_is(result: ClassSums, sums: Any, counts: Any) -> None:
    assert isinstance(result, ClassLoss)
    assert result.sum.dtype == np.float64
    assert result.count.dtype == np.int64
    assert result.sum.tolist() == list(sums)
    assert result.count.tolist() == list(counts)


@pytest.mark.parametrize(
    "convert",
    [
        np.float16,
        np.float32,
        np.float64,
        lambda losses: losses.astype(">f4"),
        lambda losses: losses.tolist(),
        lambda losses: np.repeat(losses, 3)[::3],
        lambda losses: losses[::-1].copy()[::-1],
        torch.from_numpy,
        lambda losses: torch.from_numpy(losses).half(),
        lambda losses: torch.from_numpy(losses).bfloat16(),
        lambda losses: torch.from_numpy(np.repeat(losses, 2)).bfloat16()[::2],
        lambda losses: torch.from_numpy(losses).float().requires_grad_(),
        lambda losses: torch.from_numpy(losses).bfloat16().requires_grad_() * 1,
        lambda losses: torch.stack([torch.from_numpy(losses)] * 2, dim=1)[:, 1],
    ],
)
def test_losses_of_any_float_kind_are_summed(convert: Any) -> None:
    assert_is(class_loss(convert(LOSSES), CLASSES, K), SUMS, COUNTS)


@pytest.mark.parametrize(
    "convert",
    [
        *(np.dtype(name).type for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        lambda classes: classes.astype(">i2"),
        lambda classes: classes.tolist(),
        lambda classes: np.repeat(classes, 2)[::2],
        torch.from_numpy,
        lambda classes: torch.from_numpy(classes).to(torch.int8),
        lambda classes: torch.from_numpy(classes).to(torch.uint8),
    ],
)
def test_classes_of_any_integer_kind_are_taken(convert: Any) -> None:
    assert_is(class_loss(LOSSES, convert(CLASSES), K), SUMS, COUNTS)


def test_bools_are_two_classes() -> None:
    assert_is(class_loss([1.0, 2.0, 4.0], np.array([True, False, True]), 2), [2, 5], [1, 2])


def test_no_losses_are_no_sums() -> None:
    assert_is(class_loss(np.zeros(0), np.zeros(0, np.int64), 3), [0, 0, 0], [0, 0, 0])
    assert_is(class_loss(torch.zeros(0), torch.zeros(0, dtype=torch.int32), 1), [0], [0])


def test_losses_that_are_not_finite_are_skipped() -> None:
    losses = [1.0, math.nan, math.inf, -math.inf, 2.0]
    for dtype in (np.float16, np.float32, np.float64):
        assert_is(class_loss(np.array(losses, dtype), [0, 0, 1, 1, 1], 2), [1, 2], [1, 1])
    assert_is(class_loss(torch.tensor(losses, dtype=torch.bfloat16), [0, 0, 1, 1, 1], 2), [1, 2], [1, 1])


def test_subnormal_and_largest_losses_are_summed() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        information = np.finfo(dtype)
        losses = np.array([information.smallest_subnormal, information.tiny, information.max, -information.max], dtype)
        assert_is(class_loss(losses, [0, 1, 2, 3], 4), losses.astype(np.float64), [1, 1, 1, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_precision_number_is_read_as_torch_reads_it(dtype: str) -> None:
    bits = torch.arange(1 << 16).to(torch.uint16).view(torch.int16)
    losses = bits.view(getattr(torch, dtype))
    expected = losses.double().numpy()
    finite = np.isfinite(expected)
    result = class_loss(losses, np.arange(1 << 16), 1 << 16)
    assert result.sum.tolist() == np.where(finite, expected, 0).tolist()
    assert result.count.tolist() == finite.astype(int).tolist()


@settings(max_examples=150, deadline=None)
@given(
    entries=st.lists(
        st.tuples(st.integers(0, 6), st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])),
        max_size=200,
    )
)
def test_the_sums_are_those_of_an_independent_sum(entries: list[tuple[int, float]]) -> None:
    classes, losses = np.array([k for k, _ in entries], int), np.array([loss for _, loss in entries], float)
    result = class_loss(losses, classes, 7)
    finite = np.isfinite(losses)
    in_order = np.zeros(7)
    np.add.at(in_order, classes[finite], losses[finite])
    assert result.sum.tolist() == in_order.tolist()
    assert result.count.tolist() == np.bincount(classes[finite], minlength=7).tolist()
    for k in range(7):
        of_class = losses[finite & (classes == k)]
        assert result.sum[k] == pytest.approx(
            math.fsum(of_class), rel=1e-13, abs=1e-13 * np.abs(of_class).sum() + 1e-300
        )


@pytest.mark.parametrize("num_classes", [1, 10, 3000, 300_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_inputs_have_the_same_bits_for_any_number_of_threads(dtype: str, num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    losses = generator.gamma(1.0, size=1_000_003).astype(dtype)
    classes = generator.integers(0, num_classes, len(losses)).astype(np.int32)
    losses[::1000] = np.nan
    results = []
    for num_threads in (1, 2, 3, 7):
        result = ClassLoss(np.zeros(num_classes), np.zeros(num_classes, np.int64))
        assert _core.add_class_loss(losses, classes, *result, num_threads=num_threads) == 1001
        results.append((result.sum.tobytes(), result.count.tobytes()))
    assert len(set(results)) == 1
    whole = class_loss(losses, classes, num_classes)
    assert (whole.sum.tobytes(), whole.count.tobytes()) == results[0]
    finite = np.isfinite(losses)
    expected = np.bincount(classes[finite], weights=losses[finite], minlength=num_classes)
    np.testing.assert_allclose(whole.sum, expected, rtol=1e-9)
    assert whole.count.tolist() == np.bincount(classes[finite], minlength=num_classes).tolist()


def test_a_bad_class_far_inside_a_large_input_adds_nothing() -> None:
    losses, classes = np.ones(1_000_000, np.float32), np.zeros(1_000_000, np.int64)
    classes[777_777] = 2
    for num_threads in (1, 3):
        result = ClassLoss(np.zeros(2), np.zeros(2, np.int64))
        with pytest.raises(ValueError, match=r"\[0, 2\) \(got 2 at position 777777\)"):
            _core.add_class_loss(losses, classes, *result, num_threads=num_threads)
        assert_is(result, [0, 0], [0, 0])


def nested_tensor() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        return torch.nested.nested_tensor([torch.zeros(1)])


@pytest.mark.parametrize(
    ("losses", "classes", "num_classes", "error", "message"),
    [
        (np.zeros(3), [0, 1], 2, ValueError, "3"),
        (np.zeros((3, 1)), [0, 1, 1], 2, ValueError, r"losses must have one dimension, \[n\] \(got shape \(3, 1\)\)"),
        (np.zeros(3), [[0], [1], [1]], 2, ValueError, r"classes must have one dimension"),
        (0.5, 0, 2, ValueError, r"one dimension, \[n\] \(got shape \(\)\)"),
        ([[1.0], [1.0, 2.0]], [0, 1], 2, ValueError, "losses must be an array of one dimension"),
        (np.zeros(2), [0, 2], 2, ValueError, r"classes must be in \[0, 2\) \(got 2 at position 1\)"),
        (np.zeros(2), [-1, 0], 2, ValueError, r"classes must be in \[0, 2\) \(got -1 at position 0\)"),
        (np.zeros(1), np.array([2**64 - 1], np.uint64), 2, ValueError, r"below 2\*\*63"),
        (np.zeros(1), np.array([2**32], np.int64), 2, ValueError, r"got 4294967296 at position 0"),
        (
            np.zeros(1, int),
            [0],
            1,
            TypeError,
            r"losses must be float16, float32, float64 or torch.bfloat16 \(got int64\)",
        ),
        (np.zeros(1, complex), [0], 1, TypeError, r"got complex128"),
        (["a"], [0], 1, TypeError, r"losses must be float16"),
        (np.zeros(1, np.longdouble), [0], 1, TypeError, r"losses must be float16.*\(got float128\)"),
        (
            nested_tensor(),
            [0],
            1,
            TypeError,
            r"losses must be .* \(got a nested Tensor of torch.float32 on cpu\)",
        ),
        (np.zeros(1), [0.0], 1, TypeError, r"classes must be integers \(got float64\)"),
        (np.zeros(1), [None], 1, TypeError, r"classes must be integers \(got object\)"),
        (torch.zeros(1, device="meta"), [0], 1, ValueError, r"losses must be on the CPU.*device meta"),
        (torch.zeros(2).to_sparse(), [0, 0], 1, TypeError, r"losses must be a plain dense tensor"),
        (
            torch.zeros(2, dtype=torch.bfloat16).to_sparse(),
            [0, 0],
            1,
            TypeError,
            r"losses must be a plain dense tensor",
        ),
        (np.zeros(1), torch.zeros(1, dtype=torch.bfloat16), 1, TypeError, r"classes must be integers \(got .*bfloat16"),
        (
            torch.zeros(1, dtype=torch.float8_e5m2),
            [0],
            1,
            TypeError,
            r"plain dense .* \(got a Tensor of torch.float8_e5m2",
        ),
        (np.ma.masked_array([1.0], [True]), [0], 1, TypeError, r"masked array"),
        (np.zeros(1), [0], 0, ValueError, r"num_classes must be in \[1, 2147483647\] \(got 0\)"),
        (np.zeros(1), [0], -3, ValueError, r"num_classes must be in \[1, 2147483647\] \(got -3\)"),
        (np.zeros(1), [0], 2**62, ValueError, r"num_classes must be in .* \(got 4611686018427387904\)"),
        (np.zeros(1), [0], 2.0, TypeError, r"num_classes must be an int \(got 2.0\)"),
        (np.zeros(1), [0], True, TypeError, r"num_classes must be an int \(got True\)"),
        (np.zeros(1), [0], None, TypeError, r"num_classes must be an int \(got None\)"),
    ],
)
def test_class_loss_refuses(losses: Any, classes: Any, num_classes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message or "losses") as raised:
        class_loss(losses, classes, num_classes)
    assert raised.type is error


@pytest.mark.parametrize("copies", [1, 1 << 17], ids=["few", "many"])
def test_a_sum_too_large_for_a_float_stays_at_the_largest(copies: int) -> None:
    largest = np.finfo(np.float64).max
    losses = np.tile([largest, largest, -largest, 1.0, -largest, -largest, np.inf], copies)
    classes = np.tile([0, 0, 1, 2, 1, 1, 0], copies)
    result = class_loss(losses, classes, 3)
    assert result.sum.tolist() == [largest, -largest, copies]
    assert result.count.tolist() == [2 * copies, 3 * copies, copies]


def test_losses_that_are_not_aligned_are_copied() -> None:
    losses = np.frombuffer(b"-" + np.ones(3, np.float32).tobytes(), np.float32, offset=1)
    assert class_loss(losses, [0, 1, 1], 2).sum.tolist() == [1, 2]


def test_an_empty_list_of_losses_is_no_losses() -> None:
    assert class_loss([], [], 2).count.tolist() == [0, 0]


# ---- build_info


def test_build_info_says_what_the_installation_is() -> None:
    information = l2m_fast.build_info()
    assert set(information) == {
        "version",
        "compiler",
        "cuda_built",
        "without_cuda",
        "cuda_usable",
        "usable_cpus",
        "pool_threads",
    }
    assert information["version"].count(".") == 2
    assert information["compiler"]
    assert information["usable_cpus"] >= 1
    assert information["pool_threads"] >= 0
    assert information["cuda_built"] == (information["without_cuda"] == "")
    assert information["cuda_usable"] <= information["cuda_built"]


def test_everything_public_is_importable_from_the_top() -> None:
    assert all(getattr(l2m_fast, name) is not None for name in l2m_fast.__all__)
    assert {"Loader", "Learn2Mix", "class_loss", "ClassLoss", "build_info"} <= set(l2m_fast.__all__)


# ---- mixing policies

sizes_of = st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any).map(lambda n: np.array(n, np.int64))


def nonempty(sizes: Any) -> list[int]:
    return [k for k, n in enumerate(sizes) if n > 0]


def normal(amounts: Any) -> Any:
    return np.array(amounts) / math.fsum(amounts)


def assert_close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
    assert math.fsum(got) == pytest.approx(1, abs=1e-9)


@settings(deadline=None)
@given(sizes=sizes_of)
def test_proportional_and_balanced_start_with_their_shares(sizes: Any) -> None:
    assert_close(Proportional().initial(sizes), [n / sizes.sum() for n in sizes.tolist()])
    assert_close(Balanced().initial(sizes), [(n > 0) / len(nonempty(sizes)) for n in sizes.tolist()])
    assert_close(GroupDRO(0.1).initial(sizes), Balanced().initial(sizes))
    assert_close(Learn2Mix().initial(sizes), Proportional().initial(sizes))
    assert_close(Learn2Mix(start="balanced").initial(sizes), Balanced().initial(sizes))


@settings(deadline=None)
@given(sizes=sizes_of, beta=st.floats(0, 0.9999))
def test_effective_number_is_the_formula_of_cui(sizes: Any, beta: float) -> None:
    effective = [
        math.fsum(beta**i for i in range(n)) for n in sizes.tolist()
    ]  # (1 - beta^n) / (1 - beta), term by term
    amounts = [n / e if n > 0 else 0 for n, e in zip(sizes.tolist(), effective, strict=True)]
    assert_close(EffectiveNumber(beta).initial(sizes), normal(amounts))


@settings(deadline=None)
@given(sizes=sizes_of)
def test_effective_number_goes_from_proportional_to_balanced(sizes: Any) -> None:
    assert_close(EffectiveNumber(0).initial(sizes), Proportional().initial(sizes))
    np.testing.assert_allclose(
        EffectiveNumber(math.nextafter(1, 0)).initial(sizes), Balanced().initial(sizes), atol=1e-9
    )


@settings(deadline=None)
@given(sizes=sizes_of, t=st.floats(0.3, 50))
def test_temperature_is_a_power_of_the_sizes(sizes: Any, t: float) -> None:
    assert_close(Temperature(t).initial(sizes), normal([n ** (1 / t) if n > 0 else 0 for n in sizes.tolist()]))


@settings(deadline=None)
@given(sizes=sizes_of)
def test_temperature_goes_from_proportional_to_balanced(sizes: Any) -> None:
    assert_close(Temperature(1).initial(sizes), Proportional().initial(sizes))
    assert_close(Temperature(math.inf).initial(sizes), Balanced().initial(sizes))


def test_a_tiny_temperature_gives_all_to_the_largest_classes() -> None:
    assert Temperature(1e-5).initial(np.array([3, 7, 0, 7])).tolist() == [0, 0.5, 0, 0.5]


@st.composite
def _window(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Class sizes, proportions and class losses; both are 0 for classes without rows."""
    sizes = draw(sizes_of)
    amounts = [draw(st.floats(0.01, 1)) if n > 0 else 0.0 for n in sizes]
    losses = [draw(st.floats(0, 10)) if n > 0 else 0.0 for n in sizes]
    return sizes, normal(amounts), np.array(losses)


@settings(deadline=None)
@given(window=_window(), rate=st.floats(1e-3, 1), floor=st.floats(0, 1))
def test_learn2mix_steps_towards_the_loss_shares(window: Any, rate: float, floor: float) -> None:
    sizes, p, losses = window
    count = len(nonempty(sizes))
    least = floor / count * (1 - 1e-12)
    got = Learn2Mix(rate, min_share=least).update(p, losses, sizes)
    total = math.fsum(losses)
    if total == 0:
        assert got.tolist() == p.tolist()
        return
    expected = [(1 - rate) * share + rate * (loss / total) for share, loss in zip(p, losses, strict=True)]
    expected = [least + (1 - count * least) * share if n > 0 else 0 for n, share in zip(sizes, expected, strict=True)]
    assert_close(got, expected)
    assert min(got[nonempty(sizes)]) >= least * (1 - 1e-9)


@settings(deadline=None)
@given(sizes=sizes_of, floor=st.floats(0, 1), start=st.sampled_from(["proportional", "balanced"]))
def test_learn2mix_raises_its_start_to_the_min_share(sizes: Any, floor: float, start: Any) -> None:
    count = len(nonempty(sizes))
    least = floor / count * (1 - 1e-12)
    before = (Proportional() if start == "proportional" else Balanced()).initial(sizes)
    expected = [least + (1 - count * least) * share if n > 0 else 0 for n, share in zip(sizes, before, strict=True)]
    assert_close(Learn2Mix(min_share=least, start=start).initial(sizes), expected)


def test_learn2mix_reaches_the_loss_shares_in_one_step_of_1() -> None:
    sizes, losses = np.array([5, 5, 0, 10]), np.array([1.0, 2.0, 0.0, 5.0])
    assert Learn2Mix(1.0).update(np.array([0.25, 0.25, 0, 0.5]), losses, sizes).tolist() == [0.125, 0.25, 0, 0.625]


def test_learn2mix_converges_on_the_loss_shares() -> None:
    sizes, losses = np.array([900, 90, 10]), np.array([0.1, 0.3, 0.6])
    p = Learn2Mix(0.1).initial(sizes)
    for _ in range(300):
        p = Learn2Mix(0.1).update(p, losses, sizes)
    np.testing.assert_allclose(p, losses, rtol=1e-9)


@settings(deadline=None)
@given(window=_window(), step_size=st.floats(1e-3, 5))
def test_group_dro_weighs_the_shares_by_the_exponents_of_the_losses(window: Any, step_size: float) -> None:
    sizes, p, losses = window
    expected = normal([share * math.exp(step_size * loss) for share, loss in zip(p, losses, strict=True)])
    assert_close(GroupDRO(step_size).update(p, losses, sizes), expected)


def test_group_dro_does_not_overflow() -> None:
    got = GroupDRO(100.0).update(np.array([0.5, 0.5, 0.0]), np.array([1e4, 1.0, 0.0]), np.array([3, 3, 0]))
    assert got.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "policy", [Proportional(), Balanced(), EffectiveNumber(0.9), Temperature(2.0), Static([0.5, 0.5])]
)
def test_fixed_policies_say_so_and_keep_what_they_have(policy: Any) -> None:
    assert policy.fixed is True
    p = np.array([0.25, 0.75])
    assert policy.update(p, np.array([1.0, 9.0]), np.array([4, 4])).tolist() == [0.25, 0.75]


def test_policies_that_follow_losses_are_not_fixed() -> None:
    assert not any(getattr(policy, "fixed", False) for policy in (Learn2Mix(), GroupDRO(0.01)))


@pytest.mark.parametrize("policy", [Learn2Mix(), GroupDRO(0.1)])
def test_policies_leave_their_arguments_alone(policy: Any) -> None:
    arguments = np.array([0.25, 0.75]), np.array([1.0, 9.0]), np.array([4, 4])
    before = [argument.tolist() for argument in arguments]
    policy.update(*arguments)
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
        (lambda: Temperature(False), TypeError, "t must be a number"),
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


def test_numpy_numbers_are_parameters_like_others() -> None:
    half: Any = np.float32(0.5)
    two: Any = np.int64(2)
    assert Learn2Mix(half).mixing_rate == 0.5
    assert Temperature(two).initial(np.array([1, 4])).tolist() == [1 / 3, 2 / 3]


def test_policies_are_values() -> None:
    for make in (Learn2Mix, lambda: Learn2Mix(0.3, 0.01, "balanced"), Balanced, lambda: Temperature(2.0)):
        policy: Any = make()
        assert policy == make()
        assert by_value(policy) == by_value(make())
        with pytest.raises(AttributeError):
            policy.fixed = False
