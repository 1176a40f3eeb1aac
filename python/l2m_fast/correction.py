"""Corrections of a loss for the class proportions with which a batch was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from l2m_fast import _core
from l2m_fast._checks import shortened, truncated

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from l2m_fast.mixing import Floats, Sizes

    Float32s = NDArray[np.float32]
    Target = str | ArrayLike | torch.Tensor

_TOLERANCE = 1e-6  # of the sum of a target
_ROUNDING = 1e-12  # an offset this small is one of equal shares


def target_proportions(target: Any, class_sizes: Sizes) -> Floats:
    """Return the class proportions of a target distribution.

    Args:
        target: "balanced", "proportional", or proportions of shape `[K]`.
        class_sizes: Number of rows of each class, shape `[K]`.

    Raises:
        TypeError, ValueError: `target` is something else, or has a share of a class without rows.
    """
    if isinstance(target, str):
        policies = {"balanced": _core.Balanced, "proportional": _core.Proportional}
        if target in policies:
            policy: _core.Policy = policies[target]()
            shares: Floats = policy.initial(class_sizes)
            return shares
    if isinstance(target, (str, bytes)) or target is None:
        msg = f'target must be "balanced", "proportional" or an array of proportions (got {shortened(target)})'
        raise ValueError(msg)
    try:
        given = np.asarray(target.detach().double().cpu() if hasattr(target, "detach") else target)
        if given.dtype.kind not in "fiu" or isinstance(target, np.ma.MaskedArray):
            raise TypeError(given.dtype)
        shares = given.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"target must be an array of proportions (got {truncated(f'{type(target).__name__}: {error}')})"
        raise TypeError(msg) from None
    if shares.shape != class_sizes.shape:
        msg = f"target must have shape {class_sizes.shape}, a share of each class (got shape {shares.shape})"
        raise ValueError(msg)
    wrong = np.flatnonzero(~(shares >= 0) | (shares == np.inf))
    if wrong.size > 0:
        msg = f"target must be finite and >= 0 (got {shares[wrong[0]]:g} for class {wrong[0]})"
        raise ValueError(msg)
    if not abs(shares.sum() - 1) <= _TOLERANCE:
        msg = f"target must sum to 1 within {_TOLERANCE:g} (got {shares.sum():g})"
        raise ValueError(msg)
    normalized: Floats = shares / shares.sum()
    return normalized


def class_weights(proportions: Floats, target: Floats) -> Float32s:
    """Return target / proportions for each class, 0 where both are 0.

    Raises:
        ValueError: A class of the target was not drawn.
    """
    _check_drawn(proportions, target)
    with np.errstate(over="ignore"):
        weights = np.divide(target, proportions, out=np.zeros_like(target), where=proportions > 0)
    too_large = np.flatnonzero(weights > np.finfo(np.float32).max)
    if too_large.size > 0:
        k = too_large[0]
        msg = f"the weight of a class must be a float32 (got {weights[k]:g} for class {k}, drawn with a share of {proportions[k]:g})"
        raise ValueError(msg)
    return weights.astype(np.float32)


def class_offsets(proportions: Floats, target: Floats) -> Float32s:
    """Return log(proportions / target) for each class, 0 where both are 0.

    Raises:
        ValueError: A class of the target was not drawn, or a class that is not in the target was.
    """
    _check_drawn(proportions, target)
    only_drawn = np.flatnonzero((proportions > 0) & (target == 0))
    if only_drawn.size > 0:
        k = only_drawn[0]
        msg = (
            f"target must be > 0 for every class that is drawn (got 0 for class {k}, drawn with a share of "
            f"{proportions[k]:g}): its offset would be infinite; use class_weights()"
        )
        raise ValueError(msg)
    drawn = target > 0
    offsets = np.zeros_like(target)
    offsets[drawn] = np.log(proportions[drawn]) - np.log(target[drawn])
    offsets[np.abs(offsets) < _ROUNDING] = 0
    return offsets.astype(np.float32)


def _check_drawn(proportions: Floats, target: Floats) -> None:
    only_wanted = np.flatnonzero((proportions == 0) & (target > 0))
    if only_wanted.size > 0:
        k = only_wanted[0]
        msg = (
            f"target must be 0 for every class that is not drawn (got {target[k]:g} for class {k}, whose proportion is 0): "
            "no weight makes up for it"
        )
        raise ValueError(msg)
