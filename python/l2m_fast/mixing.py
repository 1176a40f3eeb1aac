"""How the class proportions evolve: the mixing policies.

A policy is any object with `initial(class_sizes)` and `update(window)`. It has no state of its own: what it keeps is in
`window.memory`. It says what it needs: `fixed = True`, its initial proportions stay; `schedule = True`, it is updated at the end
of every window, and needs no losses; else it is updated at the end of every window in which losses were recorded. What it returns
is checked: finite, not negative, a sum of 1 within 1e-6, nothing for a class without rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]

Kind = Literal["fixed", "schedule", "follows losses"]
_MAX_MEMORY_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class Window:
    """What a policy makes the next proportions of: a window of losses that has ended, over all ranks.

    Attributes:
        proportions: The newest, which the next ones follow; float64, shape `[num_classes]`.
        class_losses: Last known mean loss of each class, float64, shape `[num_classes]`: the mean of the others where none was
            recorded yet, 0 for classes without rows, and all 0 if none was ever recorded or for a schedule on several ranks,
            whose losses are not summed.
        class_sizes: Rows of each class, int64, shape `[num_classes]`.
        counts: Losses recorded in the window, int64, shape `[num_classes]`; all 0 for a schedule on several ranks.
        rows_drawn: Rows drawn from the beginning of training until the window is closed, int64, shape `[num_classes]`.
        passes: Number of the pass over its rows that each class is in by then, int64, shape `[num_classes]`.
        step: Batches from the beginning of training to the end of the window.
        total_steps: Batches of the whole training; None: the loader was not told.
        memory: What the last update left, float64, shape `[policy.memory_rows, num_classes]`; zeros at first.
    """

    proportions: Floats
    class_losses: Floats
    class_sizes: Sizes
    counts: Sizes
    rows_drawn: Sizes
    passes: Sizes
    step: int
    total_steps: int | None
    memory: Floats

    @classmethod
    def of(cls, proportions: ArrayLike, class_losses: ArrayLike, class_sizes: ArrayLike) -> Window:
        """Return a window of which nothing else is known: for policies that look at nothing else."""
        sizes = np.asarray(class_sizes, np.int64)
        return cls(
            proportions=np.asarray(proportions, np.float64),
            class_losses=np.asarray(class_losses, np.float64),
            class_sizes=sizes,
            counts=np.zeros_like(sizes),
            rows_drawn=np.zeros_like(sizes),
            passes=np.zeros_like(sizes),
            step=0,
            total_steps=None,
            memory=np.zeros((0, len(sizes))),
        )


class MixingPolicy(Protocol):
    """What `Loader(mixing=...)` takes."""

    def initial(self, class_sizes: Sizes) -> ArrayLike:
        """Return proportions of the first batches."""

    def update(self, window: Window) -> ArrayLike | tuple[ArrayLike, ArrayLike]:
        """Return proportions that follow `window.proportions`, or these and the new memory."""


def check_number(name: str, value: object, allowed: str, *, low: float, high: float = math.inf) -> None:
    """Raises unless `value` is a real number in the closed interval from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        msg = f"{name} must be a number {allowed} (got {shortened(value)})"
        raise TypeError(msg)
    try:
        number = float(value)  # else it would be compared in its own type
    except OverflowError:  # an int too large for a float
        number = math.nan
    if not low <= number <= high:
        msg = f"{name} must be {allowed} (got {shortened(value)})"
        raise ValueError(msg)


class _InCore:
    """A policy whose proportions the core computes: the same bits on every machine."""

    def in_core(self, num_classes: int) -> _core.Policy:
        """Return the core's policy for so many classes."""
        raise NotImplementedError

    def initial(self, class_sizes: Sizes) -> Floats:
        """Return proportions of the first batches, float64, shape `[num_classes]`."""
        return self.in_core(len(class_sizes)).initial(np.ascontiguousarray(class_sizes, np.int64))

    def update(self, window: Window) -> Floats:
        """Return proportions that follow `window.proportions`, float64, shape `[num_classes]`."""
        return self.in_core(len(window.class_sizes)).update(window.proportions, window.class_losses, window.class_sizes)


@dataclass(frozen=True)
class _Fixed(_InCore):
    """A policy that keeps its initial proportions."""

    fixed: bool = field(default=True, init=False, repr=False)


@dataclass(frozen=True)
class Proportional(_Fixed):
    """Classical training: every class keeps its share of the data."""

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.Proportional()


@dataclass(frozen=True)
class Balanced(_Fixed):
    """Every class that has rows gets the same share."""

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.Balanced()


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

    def in_core(self, num_classes: int) -> _core.Policy:
        """Return the core's policy for so many classes."""
        return _core.Static(checked_numbers("proportions", self.p, (num_classes,), f"of {shortened(self)}"))

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

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.EffectiveNumber(float(self.beta))


@dataclass(frozen=True)
class Temperature(_Fixed):
    """Temperature sampling: p ~ n^(1/t).

    Args:
        t: At least 1: 1 is Proportional, infinity Balanced. Below 1 (but above 0) large classes get more than their share.
    """

    t: float

    def __post_init__(self) -> None:
        check_number("t", self.t, "above 0", low=math.nextafter(0, 1))

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.Temperature(float(self.t))


@dataclass(frozen=True)
class Learn2Mix(_InCore):
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

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.Learn2Mix(float(self.mixing_rate), float(self.min_share), self.start == "balanced")


@dataclass(frozen=True)
class GroupDRO(_InCore):
    """Exponentiated gradient ascent on the class proportions (Sagawa et al. 2020, arXiv 1911.08731, Algorithm 1).

    p <- p * exp(step_size * L), normalised; starts uniform. There p weighs the losses; here it is the share of the rows.

    Args:
        step_size: Above 0; 0.01 in the paper.
    """

    step_size: float

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, "above 0 and finite", low=math.nextafter(0, 1), high=1e300)

    def in_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for so many classes."""
        return _core.GroupDRO(float(self.step_size))


_BUILT_IN = (Proportional, Balanced, Static, Temperature, EffectiveNumber, Learn2Mix, GroupDRO)


def kind_of(policy: object) -> Kind:
    """Return when the proportions of a policy are updated."""
    if getattr(policy, "fixed", False):
        return "fixed"
    return "schedule" if getattr(policy, "schedule", False) else "follows losses"


def in_core(policy: Any, num_classes: int) -> _core.Policy | tuple[object, Kind, int]:
    """Return what the core takes: a policy of its own, or one that is written in Python, its kind and the rows of its memory."""
    if type(policy) in _BUILT_IN:  # a subclass may do anything
        built_in: _core.Policy = policy.in_core(num_classes)
        return built_in
    rows = whole("memory_rows of the mixing policy", getattr(policy, "memory_rows", 0), 0, _MAX_MEMORY_ROWS)
    return _InPython(policy, num_classes, rows), kind_of(policy), rows


class _InPython:
    """Calls a policy that is written in Python, and checks what it returns.

    Args:
        policy: Which.
        num_classes: K.
        memory_rows: Rows of its memory.
    """

    def __init__(self, policy: MixingPolicy, num_classes: int, memory_rows: int) -> None:
        self._policy, self._num_classes, self._memory_rows = policy, num_classes, memory_rows

    def initial(self, class_sizes: Sizes) -> Floats:
        """Return the initial proportions."""
        where = f"from initial() of {shortened(self._policy)}"
        return checked_numbers("proportions", self._policy.initial(class_sizes), (self._num_classes,), where)

    def update(self, *of_window: Any) -> tuple[Floats, Floats | None]:
        """Return the next proportions and the new memory; None: it stays."""
        *others, memory = of_window
        window = Window(*[*others, memory.reshape(self._memory_rows, self._num_classes)])
        where = f"from update() of {shortened(self._policy)}"
        updated = self._policy.update(window)
        if not isinstance(updated, tuple):
            return checked_numbers("proportions", updated, (self._num_classes,), where), None
        if len(updated) != 2:
            msg = f"update() must return proportions, or proportions and memory (got {len(updated)} values {where})"
            raise ValueError(msg)
        proportions, left = updated
        left = checked_numbers("memory", left, (self._memory_rows, self._num_classes), where)
        return checked_numbers("proportions", proportions, (self._num_classes,), where), left.ravel()


def checked_numbers(name: str, numbers: object, shape: tuple[int, ...], where: str) -> Floats:
    """Return numbers that came from outside as float64 of a shape."""
    why = ""
    try:
        given = np.empty(0, object) if isinstance(numbers, np.ma.MaskedArray) else np.asarray(numbers)
    except (TypeError, ValueError, RuntimeError) as error:  # of lists that are ragged, or tensors with a gradient
        given, why = np.empty(0, object), f": {error}"
    if given.dtype.kind not in "iuf":
        msg = f"{name} must be numbers (got {shortened(numbers)}{why} {where})"
        raise TypeError(msg)
    if given.shape != shape:
        msg = f"{name} must have shape {shape} (got {given.shape} {where})"
        raise ValueError(msg)
    return np.ascontiguousarray(given, np.float64)
