"""Mixing policies of `l2m_fast.mixing`, and their windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from oracle.arithmetic import Floats, Ints, exp, expm1, log, mean_loss, neumaier_sum, pow


@dataclass
class Window:
    """Closed loss window over all ranks; arrays have shape `[K]`.

    Attributes:
        proportions: Newest proportions.
        class_losses: Mean loss of each class, see `without_gaps`.
        class_sizes: Number of rows of each class.
        counts: Number of losses recorded in the window; only those of this rank without a reduction.
        rows_drawn: Number of rows drawn from the beginning of training until the window is closed.
        passes: Index of the current pass of each class when the window is closed.
        step: Number of batches from the beginning of training to the end of the window.
        total_steps: Number of batches in the whole training; None: unknown.
        memory: Memory returned by the last update, initially zeros, shape `[memory_rows, K]`.
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
    """Protocol of mixing policies.

    Policies with `fixed = True` are never updated. Policies with `schedule = True` are updated at the end of every
    window and need no losses. Policies with memory have its number of rows in `memory_rows`.
    """

    def initial(self, class_sizes: Ints, /) -> ArrayLike:
        """Return the proportions to start with, shape `[K]`."""

    def update(self, window: Window, /) -> ArrayLike | tuple[ArrayLike, ArrayLike]:
        """Return the next proportions, shape `[K]`, or a tuple of them and the memory."""


def checked_proportions(proportions: ArrayLike, class_sizes: Ints) -> Floats:
    """Return proportions from the user, renormalized, float64, shape `[K]`.

    Raises:
        ValueError: The length is wrong, a value is non-finite or negative, the sum is not 1, or an empty class has a
            share.
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
    """Return class losses for a policy: 0 for empty classes, the mean of the others for classes without losses."""
    known = [loss for loss in class_losses if loss is not None]  # empty classes are excluded
    mean = mean_loss(known) if known else 0.0
    filled = np.array([mean if loss is None else loss for loss in class_losses])
    filled[class_sizes == 0] = 0.0
    return filled


def shares(amounts: Sequence[float]) -> Floats:
    """Return amounts divided by their sum."""
    return np.array(amounts) / neumaier_sum(amounts)


def shares_of(class_sizes: Ints, amount_of: Callable[[float], float]) -> Floats:
    """Return shares proportional to `amount_of(rows)`; 0 for empty classes."""
    return shares([amount_of(float(size)) if size > 0 else 0.0 for size in class_sizes.tolist()])


class Fixed:
    """Policy that keeps its initial proportions."""

    fixed = True

    def update(self, window: Window) -> Floats:
        """Return the newest proportions."""
        return window.proportions


@dataclass
class Proportional(Fixed):
    """Shares proportional to the class sizes."""

    def initial(self, class_sizes: Ints) -> Floats:
        """Return class sizes divided by their sum."""
        return shares_of(class_sizes, lambda n: n)


@dataclass
class Balanced(Fixed):
    """Equal shares for all classes that have rows."""

    def initial(self, class_sizes: Ints) -> Floats:
        """Return 1 divided by the number of classes that have rows."""
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
        """Return class sizes divided by their effective numbers, normalized."""
        if self.beta == 0:
            return Proportional().initial(class_sizes)
        log_beta = log(self.beta)
        return shares_of(class_sizes, lambda n: n / (expm1(n * log_beta) / (self.beta - 1)))


@dataclass
class Annealed:
    """Shares n^a, where a moves from `start` to `end` with the steps done."""

    start: float = 0.5
    end: float = 1.0
    schedule = True

    def initial(self, class_sizes: Ints) -> Floats:
        """Return class sizes to the power of `start`, normalized."""
        return Temperature(1 / self.start if self.start > 0 else math.inf).initial(class_sizes)

    def update(self, window: Window) -> Floats:
        """Return class sizes to the power that belongs to the steps done, normalized."""
        assert window.total_steps is not None
        progress = min(window.step, window.total_steps) / window.total_steps
        exponent = self.start + (self.end - self.start) * progress if progress < 1 else self.end
        return Annealed(exponent).initial(window.class_sizes)


@dataclass
class Learn2Mix:
    """Steps towards the loss shares; every class that has rows keeps `min_share`."""

    mixing_rate: float = 0.1
    min_share: float = 0.0
    start: Literal["proportional", "balanced"] = "proportional"

    def initial(self, class_sizes: Ints) -> Floats:
        """Return proportional or equal shares, raised to `min_share`."""
        start = Proportional() if self.start == "proportional" else Balanced()
        return self._raised(start.initial(class_sizes), class_sizes)

    def update(self, window: Window) -> Floats:
        """Return proportions after one step towards the loss shares; unchanged if all losses are 0."""
        losses = window.class_losses
        total = neumaier_sum(losses)
        if not np.isfinite(total):  # losses near the largest float are scaled down, which keeps their shares
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
        """Return one step of exponentiated gradient ascent, with the maximum loss subtracted to keep exp() finite."""
        pairs = list(zip(window.proportions.tolist(), window.class_losses.tolist(), strict=True))
        largest = max(loss for p, loss in pairs if p > 0)
        return shares([p * exp(self.step_size * (loss - largest)) if p > 0 else 0.0 for p, loss in pairs])
