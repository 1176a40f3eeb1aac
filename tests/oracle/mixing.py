"""How the proportions of the classes evolve: the policies of `l2m_fast.mixing`, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from oracle.arithmetic import Floats, Ints, exp, expm1, log, mean_loss, neumaier_sum, pow


@dataclass
class Window:
    """A window of losses that was closed, over all ranks; arrays have shape `[K]`.

    Attributes:
        proportions: The newest, which the next ones follow.
        class_losses: Mean loss of each class, see `without_gaps`.
        class_sizes: Rows of each class.
        counts: Losses recorded in the window; those of this rank alone where nothing is reduced.
        rows_drawn: Rows drawn from the beginning of training until the window is closed.
        passes: Number of the pass that each class is in when the window is closed.
        step: Batches up to the end of the window, since the beginning of training.
        total_steps: Length of the training, None if unknown.
        memory: What the last update returned, zeros at first, shape `[memory_rows, K]`.
    """

    proportions: Floats
    class_losses: Floats
    class_sizes: Ints
    counts: Ints
    rows_drawn: Ints
    passes: Ints
    step: int
    total_steps: int | None
    memory: Floats


class Policy(Protocol):
    """How proportions evolve.

    One that is never updated has `fixed = True`. One that is updated at the end of every window and needs no losses has
    `schedule = True`. One with a memory has the number of its rows, `memory_rows`.
    """

    def initial(self, class_sizes: Ints, /) -> ArrayLike:
        """Return the proportions to start with, shape `[K]`."""

    def update(self, window: Window, /) -> ArrayLike | tuple[ArrayLike, ArrayLike]:
        """Return the next proportions, shape `[K]`, or a tuple of them and the memory."""


def checked_proportions(proportions: ArrayLike, class_sizes: Ints) -> Floats:
    """Return proportions that came from outside, renormalized, float64, shape `[K]`.

    Raises:
        ValueError: Wrong length, not finite, negative, not summing to one, or above zero for an empty class.
    """
    p = np.array(proportions, np.float64)
    if p.shape != class_sizes.shape or not np.isfinite(p).all() or (p < 0).any():
        msg = f"proportions must be {len(class_sizes)} finite numbers >= 0 (got {p})"
        raise ValueError(msg)
    total = neumaier_sum(p)
    if not abs(total - 1) <= 1e-6:
        msg = f"proportions must sum to 1 within 1e-6 (got {total})"
        raise ValueError(msg)
    if (p[class_sizes == 0] != 0).any():
        msg = f"proportions of empty classes must be 0 (got {p} for class sizes {class_sizes})"
        raise ValueError(msg)
    return p / total


def without_gaps(class_losses: Sequence[float | None], class_sizes: Ints) -> Floats:
    """Return class losses as a policy gets them: 0 for empty classes, the mean of the others where there is none yet."""
    known = [loss for loss in class_losses if loss is not None]  # never of an empty class
    mean = mean_loss(known) if known else 0.0
    filled = np.array([mean if loss is None else loss for loss in class_losses])
    filled[class_sizes == 0] = 0.0
    return filled


def shares(amounts: Sequence[float]) -> Floats:
    """Return amounts over their sum."""
    return np.array(amounts) / neumaier_sum(amounts)


def shares_of(class_sizes: Ints, amount_of: Callable[[float], float]) -> Floats:
    """Return the shares of classes whose rows count as `amount_of(rows)`; empty classes get none."""
    return shares([amount_of(float(size)) if size > 0 else 0.0 for size in class_sizes.tolist()])


class Fixed:
    """A policy that keeps its initial proportions."""

    fixed = True

    def update(self, window: Window) -> Floats:
        """Return the newest proportions."""
        return window.proportions


@dataclass
class Proportional(Fixed):
    """Every class keeps its share of the data."""

    def initial(self, class_sizes: Ints) -> Floats:
        """Return class sizes over their sum."""
        return shares_of(class_sizes, lambda n: n)


@dataclass
class Balanced(Fixed):
    """Every class that has rows gets the same share."""

    def initial(self, class_sizes: Ints) -> Floats:
        """Return one over the number of classes that have rows."""
        return shares_of(class_sizes, lambda _: 1.0)


@dataclass
class Static(Fixed):
    """Proportions `p`."""

    p: ArrayLike

    def initial(self, class_sizes: Ints) -> ArrayLike:  # noqa: ARG002
        """Return the given proportions."""
        return self.p


@dataclass
class Temperature(Fixed):
    """Shares n^(1/t)."""

    t: float

    def initial(self, class_sizes: Ints) -> Floats:
        """Return class sizes to the power of 1/t, normalized."""
        largest = float(class_sizes.max())
        return shares_of(class_sizes, lambda n: pow(n / largest, 1 / self.t))


@dataclass
class EffectiveNumber(Fixed):
    """Shares n (1 - beta) / (1 - beta^n)."""

    beta: float

    def initial(self, class_sizes: Ints) -> Floats:
        """Return class sizes over their effective numbers, normalized."""
        if self.beta == 0:
            return Proportional().initial(class_sizes)
        log_beta = log(self.beta)
        return shares_of(class_sizes, lambda n: n / (expm1(n * log_beta) / (self.beta - 1)))


@dataclass
class Learn2Mix:
    """Proportions step towards the loss shares; every class that has rows keeps `min_share`."""

    mixing_rate: float = 0.1
    min_share: float = 0.0
    start: Literal["proportional", "balanced"] = "proportional"

    def initial(self, class_sizes: Ints) -> Floats:
        """Return proportional or equal shares, raised to `min_share`."""
        start = Proportional() if self.start == "proportional" else Balanced()
        return self._raised(start.initial(class_sizes), class_sizes)

    def update(self, window: Window) -> Floats:
        """Return one step towards the loss shares; where all losses are 0, the same proportions."""
        losses = window.class_losses
        total = neumaier_sum(losses)
        if not np.isfinite(total):  # the shares of losses near the largest float are those of their fractions
            losses = losses * 2.0**-64
            total = neumaier_sum(losses)
        if total == 0:
            return window.proportions
        stepped = window.proportions + self.mixing_rate * (losses / total - window.proportions)
        return self._raised(stepped, window.class_sizes)

    def _raised(self, proportions: Floats, class_sizes: Ints) -> Floats:
        if self.min_share == 0:
            return proportions
        nonempty = class_sizes > 0
        return np.where(nonempty, self.min_share + (1 - int(nonempty.sum()) * self.min_share) * proportions, 0.0)


@dataclass
class GroupDRO:
    """Shares p exp(step_size L); a class whose share has become 0 keeps it."""

    step_size: float

    def initial(self, class_sizes: Ints) -> Floats:
        """Return the same share for every class that has rows."""
        return Balanced().initial(class_sizes)

    def update(self, window: Window) -> Floats:
        """Return one step of exponentiated gradient ascent; the largest loss is taken off all, so that exp() stays finite."""
        pairs = list(zip(window.proportions.tolist(), window.class_losses.tolist(), strict=True))
        largest = max(loss for p, loss in pairs if p > 0)
        return shares([p * exp(self.step_size * (loss - largest)) if p > 0 else 0.0 for p, loss in pairs])
