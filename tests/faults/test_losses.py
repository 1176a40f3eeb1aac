"""Losses and policies at the ends of the range of floats."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from l2m_fast import Annealed, Balanced, GroupDRO, Learn2Mix, Loader, Proportional

if TYPE_CHECKING:
    from l2m_fast.mixing import MixingPolicy

N = 60
CLASSES = np.arange(N) % 3
HUGE = 3e38  # a larger loss is not finite as a float32
TINY = 2.0**-149


def make(mixing: Any, **options: Any) -> Loader:
    usual: dict[str, Any] = {"batch_size": 6, "classes": CLASSES, "format": "numpy", "seed": 0}
    return Loader(np.arange(N), mixing=mixing, **usual | options)


@pytest.mark.parametrize("losses", [[HUGE, HUGE], [HUGE, 1.0], [HUGE, 0.0], [3 * TINY, TINY], [HUGE, TINY], [0.0, 0.0]])
@pytest.mark.parametrize("mixing", [Learn2Mix(0.5), Learn2Mix(1.0, min_share=0.01), GroupDRO(0.5)])
def test_losses_near_the_largest_and_the_smallest_float_give_proportions(mixing: Any, losses: list[float]) -> None:
    loader = make(mixing)
    for _ in range(3):
        for _batch in loader:
            loader.record(losses, [0, 1])  # and no loss for class 2
        p = loader.proportions
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        assert p.sum() == pytest.approx(1, abs=1e-12)
    assert len(loader.history) == 3
    if losses[0] == losses[1] and isinstance(mixing, Learn2Mix):
        np.testing.assert_allclose(loader.proportions, 1 / 3, rtol=1e-12)


class Garbage:
    """Policy that returns NaN as soon as a class has a loss above 10."""

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes / class_sizes.sum()

    def update(self, window: Any) -> Any:
        return window.proportions * (math.nan if window.class_losses.max() > 10 else 1)


@pytest.mark.parametrize("update_every", [None, 2])
def test_a_policy_that_returns_nan_raises_once_and_the_run_goes_on(update_every: int | None) -> None:
    loader = make(Garbage(), update_every=update_every)
    raised, batches, got = 0, iter(loader), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while loader.epoch < 3:
            try:
                for batch in batches:
                    got += 1
                    loader.record(np.full(6, 100.0 if loader.epoch == 0 else 1.0))
                    assert len(batch) == 6
                batches = iter(loader)
            except ValueError as error:
                raised += 1
                assert "must be finite and >= 0 (got nan for class 0)" in str(error)  # noqa: PT017
                state = loader.state_dict()
                make(Garbage(), update_every=update_every).load_state_dict(state)
    assert raised == sum("failed again on the same losses" in str(one.message) for one in caught) > 0
    assert got == 30
    assert loader.history[-1]["class_losses"].tolist() == [1, 1, 1]


# ---- losses that nobody records


def test_a_policy_that_follows_losses_needs_classes() -> None:
    for mixing in (Learn2Mix(), GroupDRO(0.1), Garbage()):
        with pytest.raises(ValueError, match=r"classes must be the class of each row, because .* follows class losses"):
            Loader(np.arange(N), batch_size=6, mixing=mixing, format="numpy")


@pytest.mark.parametrize("mixing", [Balanced(), Annealed(1, 0)])
def test_without_classes_another_policy_warns_that_it_has_no_effect(mixing: MixingPolicy) -> None:
    with pytest.warns(RuntimeWarning, match=r"mixing has no effect without classes: pass classes=.*\(got (Bal|Ann)"):
        Loader(np.arange(N), batch_size=6, mixing=mixing, total_steps=9, format="numpy")
    Loader(np.arange(N), batch_size=6, mixing=Proportional(), format="numpy")


def test_without_classes_a_policy_of_the_user_does_not_warn() -> None:
    class Announced(Balanced):
        """Policy that does more than to give proportions."""

    Loader(np.arange(N), batch_size=6, mixing=Announced(), format="numpy")


@pytest.mark.parametrize(("update_every", "step"), [(None, 10), (1, 2), (3, 6), (7, 14)])
def test_without_losses_the_first_batch_that_depends_on_them_warns_once(update_every: int | None, step: int) -> None:
    loader = make(Learn2Mix(), update_every=update_every)
    warned = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            for _batch in loader:
                warned.append(len(caught))
    assert warned.index(1) == step
    assert max(warned) == 1
    assert "follows losses, and none was recorded: call loader.record(losses) in the loop" in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("after", ["in the loop", "after the loop", "with update()"])
def test_with_recorded_losses_there_is_no_warning(after: str) -> None:
    loader = make(Learn2Mix(0.5))
    for epoch in range(3):
        for batch in loader:
            if after == "in the loop":
                loader.record(1.0 + CLASSES[batch])
        if after != "in the loop":
            loader.record([1.0, 2.0, 3.0], [0, 1, 2])
        if after == "with update()":
            loader.update()
            assert len(loader.history) == epoch + 1
    moved = {"in the loop": 3, "after the loop": 2, "with update()": 3}
    assert len(loader.history) == moved[after]  # losses recorded after the loop take effect an epoch late


def test_a_restored_loader_that_knows_losses_does_not_warn() -> None:
    loader = make(Learn2Mix(0.5))
    for batch in loader:
        loader.record(1.0 + CLASSES[batch])
    other = make(Learn2Mix(0.5))
    other.load_state_dict(loader.state_dict())
    for _ in range(2):
        assert len(list(other)) == 10
