"""Loss sums of each class on the CPU."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m_fast import _core, class_loss
from l2m_fast.losses.sums import ClassSums, HostClassLoss, num_host_words

K = 5
CLASSES = np.array([0, 3, 3, 1, 0, 3, 4, 0])
LOSSES = np.array([1.5, 0.25, 8.0, 2.0, 0.5, 3.0, 0.0, -1.0])  # exact in every float type
SUMS, COUNTS = [1.0, 2.0, 0.0, 11.25, 0.0], [3, 1, 0, 3, 1]


def assert_is(result: ClassSums, sums: Any, counts: Any) -> None:
    assert isinstance(result, HostClassLoss)
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
def test_classes_of_any_integer_kind_are_accepted(convert: Any) -> None:
    assert_is(class_loss(LOSSES, convert(CLASSES), K), SUMS, COUNTS)


def test_bools_are_two_classes() -> None:
    assert_is(class_loss([1.0, 2.0, 4.0], np.array([True, False, True]), 2), [2, 5], [1, 2])


def test_no_losses_give_sums_of_0() -> None:
    assert_is(class_loss(np.zeros(0), np.zeros(0, np.int64), 3), [0, 0, 0], [0, 0, 0])
    assert_is(class_loss(torch.zeros(0), torch.zeros(0, dtype=torch.int32), 1), [0], [0])


def test_non_finite_losses_are_skipped() -> None:
    losses = [1.0, math.nan, math.inf, -math.inf, 2.0]
    for dtype in (np.float16, np.float32, np.float64):
        assert_is(class_loss(np.array(losses, dtype), [0, 0, 1, 1, 1], 2), [1, 2], [1, 1])
    assert_is(class_loss(torch.tensor(losses, dtype=torch.bfloat16), [0, 0, 1, 1, 1], 2), [1, 2], [1, 1])


def test_subnormal_and_largest_losses_are_summed() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        information = np.finfo(np.float32 if dtype == np.float64 else dtype)
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
        st.tuples(
            st.integers(0, 6),
            st.floats(-1e6, 1e6) | st.floats(width=32) | st.sampled_from([1e39, -1e300, 2.0**-149, 3e-46]),
        ),
        max_size=200,
    )
)
def test_the_sums_are_exact(entries: list[tuple[int, float]]) -> None:
    classes, losses = np.array([k for k, _ in entries], int), np.array([loss for _, loss in entries], float)
    result = class_loss(losses, classes, 7)
    finite = np.abs(losses) <= np.finfo(np.float32).max
    assert result.count.tolist() == np.bincount(classes[finite], minlength=7).tolist()
    unit = 2**149
    for k in range(7):
        exact = sum(round(Fraction(loss) * unit) for loss in losses[finite & (classes == k)].tolist())
        assert result.sum[k] == float(Fraction(exact, unit))


@pytest.mark.parametrize("num_classes", [1, 10, 3000, 300_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_inputs_have_the_same_bits_for_any_number_of_threads(dtype: str, num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    losses = generator.gamma(1.0, size=1_000_003).astype(dtype)
    classes = generator.integers(0, num_classes, len(losses)).astype(np.int32)
    losses[::1000] = np.nan
    results = []
    for num_threads in (1, 2, 3, 7):
        words = np.zeros(num_host_words(num_classes), np.int64)
        assert _core.add_class_loss(losses, classes, words, num_threads=num_threads) == 1001
        result = HostClassLoss(words)
        results.append((result.sum.tobytes(), result.count.tobytes()))
    backwards = class_loss(losses[::-1], classes[::-1], num_classes)
    results.append((backwards.sum.tobytes(), backwards.count.tobytes()))
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
        words = np.zeros(num_host_words(2), np.int64)
        with pytest.raises(ValueError, match=r"\[0, 2\) \(got 2 at position 777777\)"):
            _core.add_class_loss(losses, classes, words, num_threads=num_threads)
        assert not words.any()


def nested_tensor() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning that it is a prototype
        return torch.nested.nested_tensor([torch.zeros(1)])


@pytest.mark.parametrize(
    ("losses", "classes", "num_classes", "error", "message"),
    [
        (np.zeros(3), [0, 1], 2, ValueError, "3"),
        (np.zeros((3, 1)), [0, 1, 1], 2, ValueError, r"losses must have shape \[n\] \(got shape \(3, 1\)\)"),
        (np.zeros(3), [[0], [1], [1]], 2, ValueError, r"classes must have shape \[n\]"),
        (0.5, 0, 2, ValueError, r"must have shape \[n\] \(got shape \(\)\)"),
        ([[1.0], [1.0, 2.0]], [0, 1], 2, ValueError, r"losses must be an array of shape \[n\]"),
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


def test_losses_that_are_not_aligned_are_copied() -> None:
    losses = np.frombuffer(b"-" + np.ones(3, np.float32).tobytes(), np.float32, offset=1)
    assert class_loss(losses, [0, 1, 1], 2).sum.tolist() == [1, 2]


def test_an_empty_list_of_losses_is_accepted() -> None:
    assert class_loss([], [], 2).count.tolist() == [0, 0]
