"""Corrections of a loss for the proportions with which a batch was drawn."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from l2m_fast import Balanced, BatchSampler, Learn2Mix, Loader, Static, Temperature, cross_entropy

N = 600
CLASSES = np.repeat([0, 1, 3], [400, 150, 50])  # class 2 has no rows
SHARES = np.array([400, 150, 0, 50]) / N


def make(mixing: Any = None, **options: Any) -> Loader:
    usual: dict[str, Any] = {"batch_size": 30, "classes": CLASSES, "seed": 0, "format": "numpy", "num_threads": 0}
    return Loader(np.arange(N), mixing=mixing, **usual | options)


def taken(loader: Loader) -> Loader:
    next(iter(loader))
    return loader


TARGETS = {"balanced": [1 / 3, 1 / 3, 0, 1 / 3], "proportional": SHARES, (0.5, 0.3, 0, 0.2): [0.5, 0.3, 0, 0.2]}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("mixing", [None, Balanced(), Temperature(2), Static([0.1, 0.2, 0, 0.7])], ids=str)
def test_they_are_the_ratio_of_target_and_proportions(mixing: Any, target: Any) -> None:
    loader = taken(make(mixing))
    p, q = loader.batch_proportions, np.array(TARGETS[target])
    rows = [0, 1, 3]
    weights, offsets = loader.class_weights(target), loader.class_offsets(target)
    assert weights.dtype == offsets.dtype == np.float32
    np.testing.assert_allclose(weights[rows], q[rows] / p[rows], rtol=1e-6)
    np.testing.assert_allclose(offsets[rows], np.log(p[rows] / q[rows]), rtol=1e-6, atol=1e-7)
    assert (weights[2], offsets[2]) == (0, 0)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 10, 49, 100, 1000])
def test_classes_of_equal_size_need_no_correction(num_classes: int) -> None:
    classes = np.arange(5 * num_classes) % num_classes
    for mixing in (None, Balanced(), Temperature(2), Learn2Mix()):
        loader = Loader(classes, batch_size=num_classes, classes=classes, mixing=mixing, seed=0, format="numpy")
        next(iter(loader))
        for target in ("balanced", "proportional"):
            assert not loader.class_offsets(target).any()
            assert (loader.class_weights(target) == 1).all()


def test_offsets_of_the_smallest_shares_are_finite_and_weights_are_refused() -> None:
    p = np.array([4e-51, 1e-310, 0, 1.0])
    loader = taken(make(Static(p), batch_size=30))
    offsets = loader.class_offsets("balanced")
    np.testing.assert_allclose(offsets[[0, 1, 3]], np.log(p[[0, 1, 3]]) + np.log(3), rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"must be a float32 \(got 8.3.*e\+49 for class 0, drawn with a share of 4e-51\)"
    ):
        loader.class_weights("balanced")


def test_targets_of_any_float_dtype_are_accepted() -> None:
    loader = taken(make())
    for target in (
        torch.tensor([0.5, 0.25, 0, 0.25], dtype=torch.bfloat16),
        np.array([2**-1, 2**-2, 0, 2**-2], np.float16),
    ):
        assert loader.class_weights(target).tolist() == loader.class_weights([0.5, 0.25, 0, 0.25]).tolist()


def test_they_are_of_the_batch_and_not_of_the_next_one() -> None:
    loader = make(Learn2Mix(0.5), update_every=2, lookahead=2)
    seen = []
    for step, rows in enumerate(islice(loader.forever(), 40)):
        seen.append(loader.batch_proportions)
        loader.record(np.ones(len(rows)) * CLASSES[rows])
        for back in range(min(step + 1, 3)):
            weights = loader.class_weights("proportional", step=step - back)
            expected = np.divide(SHARES, seen[step - back], out=np.zeros(4), where=SHARES > 0)
            np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert len({tuple(p) for p in seen}) > 10


def test_proportions_of_a_batch_are_kept_when_its_window_ends_with_it() -> None:
    loader = make(Learn2Mix(0.5), steps_per_epoch=3)
    before = loader.proportions
    for rows in loader:
        loader.record(CLASSES[rows] + 1.0)
    assert loader.proportions.tolist() != before.tolist()
    assert loader.batch_proportions.tolist() == before.tolist()
    state = loader.state_dict()
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match="no batch has been yielded"):
        _ = loader.batch_proportions


def test_weighted_losses_have_the_mean_of_the_target() -> None:
    """The mean over many batches converges to that of the target, within 5 standard errors."""
    loader = make(Static([0.2, 0.3, 0, 0.5]), batch_size=60)
    values = np.sqrt(np.arange(N))
    means = []
    for rows in islice(loader.forever(), 400):
        means.append((loader.class_weights("proportional")[CLASSES[rows]] * values[rows]).mean())
    assert abs(np.mean(means) - values.mean()) < 5 * np.std(means) / math.sqrt(len(means))


def test_offsets_give_the_classifier_of_the_target() -> None:
    """Bias terms trained on any proportions end at the log-shares of the target."""
    y = torch.from_numpy(CLASSES)
    for target, expected in (("proportional", SHARES[[0, 1, 3]]), ("balanced", np.full(3, 1 / 3))):
        loader = Loader(y, batch_size=60, classes=y, mixing=Temperature(3), seed=0)
        bias = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.SGD([bias], 1.0)
        for labels in islice(loader.forever(), 1000):
            offsets: Any = loader.class_offsets(target)
            loss, _ = cross_entropy(bias.expand(60, 4), labels, 4, offsets=offsets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        shares = functional.softmax(bias.detach()[[0, 1, 3]], 0)
        np.testing.assert_allclose(shares, expected, atol=0.02)


def test_tensors_are_of_the_format_of_batches_and_own_their_memory() -> None:
    y = torch.from_numpy(CLASSES)
    loader = Loader(y, batch_size=30, classes=y, mixing=Balanced(), seed=0)
    next(iter(loader))
    offsets = loader.class_offsets("proportional")
    assert isinstance(offsets, torch.Tensor)
    assert offsets.dtype == torch.float32
    copy = offsets.clone()
    offsets.zero_()
    assert loader.class_offsets("proportional").tolist() == copy.tolist()


def test_a_sampler_corrects_the_oldest_batch_without_losses() -> None:
    options: dict[str, Any] = {"mixing": Learn2Mix(0.5), "update_every": 2, "lookahead": 2, "seed": 0}
    loader = make(**options)
    sampler = BatchSampler(CLASSES, 30, **options)
    with pytest.raises(RuntimeError, match="a batch must be drawn"):
        sampler.class_weights("balanced")
    expected, draws = [], iter(sampler)
    drawn = [next(draws) for _ in range(3)]
    for rows in loader:
        expected.append((loader.class_weights("balanced"), loader.class_offsets("balanced")))
        loader.record(CLASSES[rows] + 1.0)
    for weights, offsets in expected[:-3]:
        assert sampler.class_weights("balanced").tolist() == weights.tolist()
        assert sampler.class_offsets("balanced").tolist() == offsets.tolist()
        sampler.record(torch.from_numpy(CLASSES[drawn.pop(0)] + 1.0))
        drawn.append(next(draws))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("even", ValueError, r'"balanced", "proportional" or an array of proportions \(got \'even\'\)'),
        (None, ValueError, r"\(got None\)"),
        (0.5, ValueError, r"shape \(4,\), a share of each class \(got shape \(\)\)"),
        ([0.5, 0.5], ValueError, r"got shape \(2,\)"),
        ([[0.25] * 4], ValueError, r"got shape \(1, 4\)"),
        ([0.5, -0.1, 0, 0.6], ValueError, r"got -0.1 for class 1"),
        ([0.5, math.nan, 0, 0.5], ValueError, r"got nan for class 1"),
        ([0.5, 0, 0, math.inf], ValueError, r"got inf for class 3"),
        ([0.5, 0.3, 0, 0.1], ValueError, r"sum to 1 within 1e-06 \(got 0.9\)"),
        (["a", "b", "c", "d"], TypeError, r"target must be an array of proportions \(got list"),
        (np.array([0.5, 0.3, 0, 0.2], complex), TypeError, "complex128"),
        (["0.5", "0.25", "0", "0.25"], TypeError, "list"),
        (np.ma.masked_array([0.5, 0.3, 0, 0.2], [False, False, True, False]), TypeError, "MaskedArray"),
        (torch.zeros(4, device="meta"), TypeError, "Tensor"),
        ([10**400, 0, 0, 0], TypeError, "list"),
        ({1: 2}, TypeError, r"target must be an array of proportions \(got dict"),
        ([0.5, 0.2, 0.1, 0.2], ValueError, r"not drawn \(got 0.1 for class 2, whose proportion is 0\)"),
    ],
)
def test_a_wrong_target_is_refused(target: Any, error: type[Exception], message: str) -> None:
    loader = taken(make())
    for method in (loader.class_weights, loader.class_offsets):
        with pytest.raises(error, match=message):
            method(target)


def test_a_class_outside_the_target_has_weight_0_and_no_offset() -> None:
    loader = taken(make())
    target = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert loader.class_weights(target)[[2, 3]].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"got 0 for class 3, drawn with a share of 0.08.*use class_weights\(\)"):
        loader.class_offsets(target)


def test_a_batch_must_have_been_yielded() -> None:
    loader = make()
    with pytest.raises(RuntimeError, match="no batch has been yielded"):
        loader.class_weights("balanced")
    with pytest.raises(RuntimeError, match="no batch has been yielded"):
        loader.class_offsets("balanced", step=0)
    list(islice(loader, 3))
    for step in (1, 3, 2**53):
        with pytest.raises(
            RuntimeError, match=rf"one of the last 1 batches yielded \(got {step}, and the last one was 2\)"
        ):
            loader.class_weights("balanced", step=step)
    for wrong in (-1, 1.5):
        with pytest.raises((ValueError, TypeError), match="step must be"):
            loader.class_weights("balanced", step=wrong)  # type: ignore[arg-type]
