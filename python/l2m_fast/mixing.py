"""How the class proportions evolve: the mixing policies.

A policy is any object with `initial(class_sizes)` and `update(proportions, class_losses, class_sizes)`, both returning
float64 proportions of shape `[num_classes]`, and without state of its own. One that never follows the losses says so by
`fixed = True`. What a policy returns is checked: finite, not negative, a sum of 1 within 1e-6, nothing for a class
without rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]


class MixingPolicy(Protocol):
    """What `Loader(mixing=...)` takes."""

    def initial(self, class_sizes: Sizes) -> Floats:
        """Proportions of the first batches."""

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Sizes) -> Floats:
        """Proportions that follow `proportions`, after a window with these mean losses (0 for classes without rows)."""


def check_number(name: str, value: object, allowed: str, *, low: float, high: float = math.inf) -> None:
    """Raises unless `value` is a real number in the closed interval from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        msg = f"{name} must be a number {allowed} (got {shortened(value)})"
        raise TypeError(msg)
    number = float(value) if isinstance(value, np.floating) else value  # else it would be compared in its own type
    if not low <= number <= high:
        msg = f"{name} must be {allowed} (got {shortened(value)})"
        raise ValueError(msg)


def _shares(amounts: Floats) -> Floats:
    shares: Floats = amounts / math.fsum(amounts)
    return shares


@dataclass(frozen=True)
class _Fixed:
    """A policy that keeps its initial proportions."""

    fixed: bool = field(default=True, init=False, repr=False)

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Sizes) -> Floats:  # noqa: ARG002
        """Returns `proportions`."""
        return proportions


@dataclass(frozen=True)
class Proportional(_Fixed):
    """Classical training: every class keeps its share of the data."""

    def initial(self, class_sizes: Sizes) -> Floats:
        """Class sizes over their sum."""
        return _shares(class_sizes.astype(np.float64))


@dataclass(frozen=True)
class Balanced(_Fixed):
    """Every class that has rows gets the same share."""

    def initial(self, class_sizes: Sizes) -> Floats:
        """One over the number of classes that have rows."""
        return _shares((class_sizes > 0).astype(np.float64))


@dataclass(frozen=True)
class Static(_Fixed):
    """Given proportions.

    Args:
        p: Share of each class, shape `[num_classes]`; finite, not negative, sum 1 within 1e-6, 0 for classes without
            rows.
    """

    p: Sequence[float] | Floats

    def __post_init__(self) -> None:
        given = np.array(self.p)  # a copy; the loader checks what it is
        given.setflags(write=False)
        object.__setattr__(self, "p", given)

    def initial(self, class_sizes: Sizes) -> Floats:  # noqa: ARG002
        """The given proportions."""
        return np.asarray(self.p)

    def __eq__(self, other: object) -> bool:
        return np.array_equal(self.p, other.p) if isinstance(other, Static) else NotImplemented

    def __hash__(self) -> int:
        return hash(np.asarray(self.p).tobytes())

    def __repr__(self) -> str:
        return f"Static(p={shortened(np.asarray(self.p).tolist())})"


@dataclass(frozen=True)
class EffectiveNumber(_Fixed):
    """Class-balanced weights of Cui et al. 2019 (arXiv 1901.05555, eq. 2), as a sampler: p ~ n (1 - beta) / (1 - beta^n).

    Args:
        beta: In [0, 1): 0 is Proportional, towards 1 Balanced.
    """

    beta: float

    def __post_init__(self) -> None:
        check_number("beta", self.beta, "in [0, 1)", low=0, high=math.nextafter(1, 0))

    def initial(self, class_sizes: Sizes) -> Floats:
        """Class sizes over their effective numbers, normalised."""
        n = class_sizes.astype(np.float64)
        # (1 - beta^n) / (1 - beta) without loss of digits where beta is near 1.
        effective = np.expm1(n * np.log(self.beta)) / (self.beta - 1) if self.beta > 0 else np.ones_like(n)
        return _shares(np.divide(n, effective, out=np.zeros_like(n), where=n > 0))


@dataclass(frozen=True)
class Temperature(_Fixed):
    """Temperature sampling: p ~ n^(1/t).

    Args:
        t: At least 1: 1 is Proportional, infinity Balanced. Below 1 (but above 0) large classes get more than their share.
    """

    t: float

    def __post_init__(self) -> None:
        check_number("t", self.t, "above 0", low=math.nextafter(0, 1))

    def initial(self, class_sizes: Sizes) -> Floats:
        """Class sizes to the power of 1/t, normalised."""
        n = class_sizes / class_sizes.max()
        return _shares(np.power(n, 1 / self.t, out=np.zeros_like(n), where=n > 0))


@dataclass(frozen=True)
class Learn2Mix:
    """Proportions step towards the loss shares: p <- p + mixing_rate * (L / sum L - p).

    Learn2Mix (arXiv 2412.16482), Algorithm 2. Where all losses are 0 the proportions stay.

    Args:
        mixing_rate: Length of the step, gamma in the paper, in (0, 1]; the paper uses 0.01 to 0.5.
        min_share: Least share of a class that has rows, in [0, 1 / classes that have rows]; at the start and after every
            step p <- min_share + (1 - classes * min_share) * p. The paper has none (0). The map acts at every step, so
            it also pulls all shares together: in the long run as far as a mixing_rate of classes * min_share towards
            equal shares would. Keep it small against mixing_rate / classes.
        start: "proportional" (the paper) or "balanced".
    """

    mixing_rate: float = 0.1
    min_share: float = 0.0
    start: Literal["proportional", "balanced"] = "proportional"

    def __post_init__(self) -> None:
        check_number("mixing_rate", self.mixing_rate, "in (0, 1]", low=math.nextafter(0, 1), high=1)
        check_number("min_share", self.min_share, "in [0, 1]", low=0, high=1)
        if self.start not in ("proportional", "balanced"):
            msg = f'start must be "proportional" or "balanced" (got {shortened(self.start)})'
            raise ValueError(msg)

    def initial(self, class_sizes: Sizes) -> Floats:
        """Proportional or equal shares, raised to `min_share`."""
        nonempty = int(np.count_nonzero(class_sizes))
        if self.min_share * nonempty > 1:
            msg = (
                f"min_share must be at most 1 / {nonempty}, the number of classes that have rows (got {self.min_share})"
            )
            raise ValueError(msg)
        start = Proportional() if self.start == "proportional" else Balanced()
        return _core.raise_to_min_share(start.initial(class_sizes), class_sizes, self.min_share)

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Sizes) -> Floats:
        """One step towards the loss shares."""
        return _core.learn2mix(proportions, class_losses, class_sizes, self.mixing_rate, self.min_share)


@dataclass(frozen=True)
class GroupDRO:
    """Exponentiated gradient ascent on the class proportions (Sagawa et al. 2020, arXiv 1911.08731, Algorithm 1).

    p <- p * exp(step_size * L), normalised; starts uniform. There p weighs the losses; here it is the share of the rows.

    Args:
        step_size: Above 0; 0.01 in the paper.
    """

    step_size: float

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, "above 0 and finite", low=math.nextafter(0, 1), high=1e300)

    def initial(self, class_sizes: Sizes) -> Floats:
        """The same share for every class that has rows."""
        return Balanced().initial(class_sizes)

    def update(self, proportions: Floats, class_losses: Floats, class_sizes: Sizes) -> Floats:  # noqa: ARG002
        """One step of exponentiated gradient ascent."""
        shared = proportions > 0  # what has become 0, by underflow too, stays 0
        # The largest loss among these is taken off all: the same shares, and exp() cannot overflow.
        gain = np.exp(
            self.step_size * (class_losses - class_losses[shared].max()), where=shared, out=np.zeros_like(class_losses)
        )
        return _shares(proportions * gain)


def follows_losses(policy: object) -> bool:
    """Whether the proportions of a policy may ever change."""
    return not getattr(policy, "fixed", False)
