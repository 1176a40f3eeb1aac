"""Class sizes of imbalanced training sets, and the rows drawn for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from l2m_experiments import imbalance
from l2m_experiments.user_input import InputError


def test_linear_gives_the_papers_imagenette() -> None:
    sizes = (963, 955, 993, 858, 941, 956, 961, 931, 951, 960)
    left = imbalance.linear(sizes)
    assert sum(left) == 5207
    assert left == tuple(int(size * share / 10) for size, share in zip(sizes, range(10, 0, -1), strict=True))


def test_log_decreasing_gives_the_cifar_100_of_the_authors_code() -> None:
    left = imbalance.log_decreasing([500] * 100)
    assert sum(left) == 13290
    assert (left[0], left[99]) == (500, 12)
    np.testing.assert_array_equal(left, np.floor(500 * np.logspace(0, -1, base=40, num=100)))


def test_step_gives_shares_of_a_tenth_and_1_9_percent() -> None:
    left = np.array(imbalance.step([500] * 100))
    np.testing.assert_allclose(left[:50] / left.sum(), 0.001, atol=2e-5)
    np.testing.assert_allclose(left[50:] / left.sum(), 0.019, atol=2e-5)


def test_exponential_starts_from_the_smallest_class() -> None:
    assert imbalance.exponential([1000, 2000, 3000], imbalance=100) == (1000, 100, 10)


@pytest.mark.parametrize("ratio", [2, 5, 20])
def test_minority_reduces_half_of_the_classes(ratio: int) -> None:
    assert imbalance.minority([100] * 5, ratio) == (100, 100, 100, 100 // ratio, 100 // ratio)


@example(100, 29)  # 0.29 * 100 is a little less than 29
@given(st.integers(1, 10_000), st.integers(1, 100))
def test_a_share_of_hundredths_is_rounded_down_exactly(size: int, hundredths: int) -> None:
    assert imbalance.keep([size], [hundredths / 100]) == (max(1, size * hundredths // 100),)


PATTERNS: list[Callable[[list[int]], tuple[int, ...]]] = [
    lambda sizes: imbalance.exponential(sizes, 50),
    imbalance.linear,
    imbalance.log_decreasing,
    imbalance.step,
    lambda sizes: imbalance.minority(sizes, 20),
]


@given(st.sampled_from(PATTERNS), st.lists(st.integers(1, 5000), min_size=2, max_size=30))
def test_a_pattern_keeps_a_row_of_each_class_and_no_more_than_it_has(
    pattern: Callable[[list[int]], tuple[int, ...]], sizes: list[int]
) -> None:
    left = pattern(sizes)
    assert len(left) == len(sizes)
    assert all(1 <= keep <= size for keep, size in zip(left, sizes, strict=True))


@given(st.integers(0, 2**32), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_draw_rows_draws_the_given_number_of_each_class(seed: int, sizes: list[int]) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), 30))
    rows = imbalance.draw_rows(classes, sizes, np.random.default_rng(seed))
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(np.bincount(classes[rows], minlength=len(sizes)), sizes)
    np.testing.assert_array_equal(rows, imbalance.draw_rows(classes, sizes, np.random.default_rng(seed)))


def test_draw_rows_draws_every_row_equally_often() -> None:
    rng = np.random.default_rng(0)
    drawn = np.bincount(
        np.concatenate([imbalance.draw_rows(np.zeros(20), [5], rng) for _ in range(2000)]), minlength=20
    )
    # 2000 draws with probability 1/4: a standard deviation of 19.4, and five of them.
    np.testing.assert_allclose(drawn, 500, atol=97)


def test_draw_rows_refuses_more_rows_than_a_class_has() -> None:
    with pytest.raises(InputError, match=r"class 1 must have at least 3 rows, the number to draw \(got 2\)"):
        imbalance.draw_rows([0, 0, 0, 1, 1], [3, 3], np.random.default_rng(0))
