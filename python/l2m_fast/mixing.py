"""Mixing policies, which determine the class proportions and how they change.

A policy is any object with methods `initial(class_sizes)` and `update(window)` that return class proportions. There
are three kinds of policies:

- With an attribute `fixed = True`, a policy keeps its initial proportions and is never updated.
- With an attribute `schedule = True`, it is updated at the end of every window and needs no losses.
- Otherwise it follows losses: it is updated at the end of every window with recorded losses.

A policy must not keep state of its own, because saved states would lack it. Instead, `update()` may return proportions
and new memory; the next window contains that memory in `window.memory`, an array of `memory_rows` rows, an attribute
of the policy.

Proportions must be finite, nonnegative, sum to 1 within 1e-6, and be 0 for classes without rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import checked_int, shortened, to_array
from l2m_fast.fingerprint import description

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Sizes = NDArray[np.int64]

Kind = Literal["fixed", "schedule", "follows losses"]
_MAX_MEMORY_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class Window:
    """Loss window that has ended, over all ranks: the input of `MixingPolicy.update()`.

    Attributes:
        proportions: Newest proportions, float64, shape `[num_classes]`.
        class_losses: Last known mean loss of each class, float64, shape `[num_classes]`; for classes without any
            recorded loss the mean of the other classes, for classes without rows 0. All 0 if no loss was ever
            recorded, and for a schedule on several ranks, whose losses are not reduced.
        class_sizes: Number of rows of each class, int64, shape `[num_classes]`.
        counts: Number of losses recorded in the window, int64, shape `[num_classes]`; all 0 for a schedule on several
            ranks.
        rows_drawn: Number of rows drawn from the beginning of training until the window closed, int64, shape
            `[num_classes]`.
        passes: Index of the current pass over the rows of each class at that time, int64, shape `[num_classes]`.
        step: Number of batches from the beginning of training to the end of the window.
        total_steps: Number of batches in the whole training; None: unknown to the loader.
        memory: Memory returned by the last update, float64, shape `[policy.memory_rows, num_classes]`; initially zeros.
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
        """Return a window with these arrays and defaults for the other attributes, to call `update()` directly."""
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
    """Protocol of the policies that `Loader(mixing=...)` accepts."""

    def initial(self, class_sizes: Sizes) -> ArrayLike:
        """Return the proportions of the first batches, shape `[num_classes]`."""

    def update(self, window: Window) -> ArrayLike | tuple[ArrayLike, ArrayLike]:
        """Return the next proportions, shape `[num_classes]`, or a tuple of them and the new memory."""


def check_number(name: str, value: object, allowed: str, *, low: float, high: float = math.inf) -> None:
    """Raise unless `value` is a real number in the closed interval from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        msg = f"{name} must be a number {allowed} (got {shortened(value)})"
        raise TypeError(msg)
    try:
        number = float(value)  # NumPy would compare in a narrower type
    except OverflowError:  # an integer too large for a float
        number = math.nan
    if not low <= number <= high:
        msg = f"{name} must be {allowed} (got {shortened(value)})"
        raise ValueError(msg)


class _CorePolicy:
    """Policy computed by the core, with the same bits on every machine."""

    def to_core(self, num_classes: int) -> _core.Policy:
        """Return the core's policy for `num_classes` classes."""
        raise NotImplementedError

    def initial(self, class_sizes: Sizes) -> Floats:
        """Return the proportions of the first batches, float64, shape `[num_classes]`."""
        return self.to_core(len(class_sizes)).initial(np.ascontiguousarray(class_sizes, np.int64))

    def update(self, window: Window) -> Floats:
        """Return the next proportions, float64, shape `[num_classes]`."""
        w = window
        policy = self.to_core(len(w.class_sizes))
        return policy.update(w.proportions, w.class_losses, w.class_sizes, w.step, w.total_steps)


@dataclass(frozen=True)
class _Fixed(_CorePolicy):
    """Policy that keeps its initial proportions."""

    fixed: bool = field(default=True, init=False, repr=False)


@dataclass(frozen=True)
class Proportional(_Fixed):
    """Shares proportional to the class sizes: classical training."""

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.Proportional()


@dataclass(frozen=True)
class Balanced(_Fixed):
    """Equal shares for all classes that have rows."""

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.Balanced()


@dataclass(frozen=True)
class Static(_Fixed):
    """Given proportions.

    Args:
        p: Share of each class, shape `[num_classes]`; finite, nonnegative, with sum 1 within 1e-6, and 0 for classes
            without rows.
    """

    p: Sequence[float] | Floats | torch.Tensor

    def __post_init__(self) -> None:
        given = to_array(self.p).copy()  # the loader checks its dtype and shape
        given.setflags(write=False)
        object.__setattr__(self, "p", given)

    def to_core(self, num_classes: int) -> _core.Policy:
        """Return the core's policy for `num_classes` classes."""
        return _core.Static(checked_numbers("proportions", self.p, (num_classes,), f"of {shortened(self)}"))

    def __eq__(self, other: object) -> bool:
        return np.array_equal(self.p, other.p) if isinstance(other, Static) else NotImplemented

    def __hash__(self) -> int:
        return hash(np.asarray(self.p).tobytes())

    def __repr__(self) -> str:
        return f"Static(p={shortened(np.asarray(self.p).tolist())})"


@dataclass(frozen=True)
class EffectiveNumber(_Fixed):
    """Class-balanced weights of Cui et al. 2019 (arXiv 1901.05555, eq. 2) as shares: p ~ n (1 - beta) / (1 - beta^n).

    Args:
        beta: Number in [0, 1). 0 equals Proportional; values towards 1 approach Balanced.
    """

    beta: float

    def __post_init__(self) -> None:
        check_number("beta", self.beta, "in [0, 1)", low=0, high=math.nextafter(1, 0))

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.EffectiveNumber(float(self.beta))


@dataclass(frozen=True)
class Temperature(_Fixed):
    """Temperature sampling: p ~ n^(1/t).

    Args:
        t: Temperature, above 0. 1 equals Proportional, infinity equals Balanced. Below 1, large classes get more than
            their share.
    """

    t: float

    def __post_init__(self) -> None:
        check_number("t", self.t, "above 0", low=math.nextafter(0, 1))

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.Temperature(float(self.t))


@dataclass(frozen=True)
class Annealed(_CorePolicy):
    """Schedule between balanced and proportional sampling: p ~ n^a, where a moves from `start` to `end` during training.

    a changes in proportion to step / total_steps at the end of every window, with effect from the window after the next
    (the next epoch, without `update_every`); no losses are needed. Pass `total_steps` to the loader, and in trainings of
    few epochs `update_every`.

    Args:
        start: Exponent at the beginning, in [0, 1]. Except for rounding, 0 equals Balanced and 1 equals Proportional.
        end: Exponent after `total_steps` steps, in [0, 1].
    """

    start: float = 0.5
    end: float = 1.0
    schedule: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("start", self.start, "in [0, 1]", low=0, high=1)
        check_number("end", self.end, "in [0, 1]", low=0, high=1)

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.Annealed(float(self.start), float(self.end))


@dataclass(frozen=True)
class Learn2Mix(_CorePolicy):
    """Learn2Mix (arXiv 2412.16482, Algorithm 2): p <- p + mixing_rate * (L / sum L - p), with class losses L.

    Every update moves the proportions towards the loss shares. If all losses are 0, the proportions do not change.

    Args:
        mixing_rate: Length of the step, gamma in the paper, in (0, 1]. The paper uses 0.01 to 0.5.
        min_share: Minimum share of a class that has rows, in [0, 1 / k], where k is the number of classes that have
            rows; 0 in the paper. Initially and after every step, p <- min_share + (1 - k * min_share) * p. Because
            this is applied at every step, it also pulls all shares together, in the long run as much as a mixing_rate
            of k * min_share towards equal shares. Keep it small compared to mixing_rate / k.
        start: Initial proportions: "proportional" (as in the paper) or "balanced".
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

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.Learn2Mix(float(self.mixing_rate), float(self.min_share), self.start == "balanced")


@dataclass(frozen=True)
class GroupDRO(_CorePolicy):
    """Exponentiated gradient ascent on the class proportions (Sagawa et al. 2020, arXiv 1911.08731, Algorithm 1).

    p <- p * exp(step_size * L), normalized, with class losses L and a uniform start. In the paper, p weights the
    losses; here it is the share of the rows.

    Args:
        step_size: Step size, above 0; 0.01 in the paper.
    """

    step_size: float

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, "above 0 and finite", low=math.nextafter(0, 1), high=1e300)

    def to_core(self, num_classes: int) -> _core.Policy:  # noqa: ARG002
        """Return the core's policy for `num_classes` classes."""
        return _core.GroupDRO(float(self.step_size))


_BUILT_IN = (Proportional, Balanced, Static, Temperature, EffectiveNumber, Annealed, Learn2Mix, GroupDRO)


def kind_of(policy: object) -> Kind:
    """Return the kind of a policy: whether it is fixed, a schedule, or follows losses."""
    if getattr(policy, "fixed", False):
        return "fixed"
    return "schedule" if getattr(policy, "schedule", False) else "follows losses"


def is_built_in(policy: object) -> bool:
    """Return whether the core computes a policy. A subclass of one may override anything."""
    return type(policy) in _BUILT_IN


def core_policy(policy: Any, num_classes: int) -> _core.Policy | tuple[object, Kind, int, str]:
    """Return a policy of the core, or an adapter of one written in Python with its properties.

    These are its kind, its number of memory rows, and a description by value for saved states.
    """
    if is_built_in(policy):
        built_in: _core.Policy = policy.to_core(num_classes)
        return built_in
    rows = checked_int("memory_rows of the mixing policy", getattr(policy, "memory_rows", 0), 0, _MAX_MEMORY_ROWS)
    return _PythonPolicy(policy, num_classes, rows), kind_of(policy), rows, description(policy)


class _PythonPolicy:
    """Adapter that calls a policy written in Python, and checks what it returns.

    Args:
        policy: Policy to call.
        num_classes: Number of classes K.
        memory_rows: Number of rows of its memory.
    """

    def __init__(self, policy: MixingPolicy, num_classes: int, memory_rows: int) -> None:
        self._policy, self._num_classes, self._memory_rows = policy, num_classes, memory_rows

    def initial(self, class_sizes: Sizes) -> Floats:
        """Return the initial proportions."""
        where = f"from initial() of {shortened(self._policy)}"
        return checked_numbers("proportions", self._policy.initial(class_sizes), (self._num_classes,), where)

    def update(self, *window_values: Any) -> tuple[Floats, Floats | None]:
        """Return the next proportions and the new memory; None: unchanged."""
        *others, memory = window_values
        window = Window(*[*others, memory.reshape(self._memory_rows, self._num_classes)])
        where = f"from update() of {shortened(self._policy)}"
        updated = self._policy.update(window)
        if not isinstance(updated, tuple):
            return checked_numbers("proportions", updated, (self._num_classes,), where), None
        if len(updated) != 2:
            msg = f"update() must return proportions, or proportions and memory (got {len(updated)} values {where})"
            raise ValueError(msg)
        proportions, new_memory = updated
        new_memory = checked_numbers("memory", new_memory, (self._memory_rows, self._num_classes), where)
        return checked_numbers("proportions", proportions, (self._num_classes,), where), new_memory.ravel()


def checked_numbers(name: str, numbers: object, shape: tuple[int, ...], where: str) -> Floats:
    """Return numbers from the user as a float64 array. Raise unless they have the given shape."""
    why = ""
    try:
        given = np.empty(0, object) if isinstance(numbers, np.ma.MaskedArray) else np.asarray(numbers)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors that require a gradient
        given, why = np.empty(0, object), f": {error}"
    if given.dtype.kind not in "iuf":
        msg = f"{name} must be numbers (got {shortened(numbers)}{why} {where})"
        raise TypeError(msg)
    if given.shape != shape:
        msg = f"{name} must have shape {shape} (got {given.shape} {where})"
        raise ValueError(msg)
    return np.ascontiguousarray(given, np.float64)
