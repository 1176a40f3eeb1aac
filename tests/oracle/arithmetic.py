"""Sums and elementary functions as fixed sequences of double additions, multiplications and divisions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST = float(np.finfo(np.float64).max)

# log(2) in two parts; the first ends in zeros, so that its multiples by exponents are exact.
LOG2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LOG2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
ONE_OVER_LOG2 = float.fromhex("0x1.71547652b82fep+0")
ROOT_OF_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")


def neumaier_sum(values: ArrayLike) -> float:
    """Return the compensated sum of `values` in their order (Neumaier 1974)."""
    total = compensation = 0.0
    for x in np.asarray(values, np.float64).tolist():
        new = total + x
        compensation += (total - new) + x if abs(total) >= abs(x) else (x - new) + total
        total = new
    return total + compensation


def mean_loss(losses: Sequence[float]) -> float:
    """Return the mean of losses, even if their sum overflows."""
    total, scale = neumaier_sum(losses), 1.0
    if not math.isfinite(total):
        scale = 2.0**64
        total = neumaier_sum([loss / scale for loss in losses])
    return min(total / len(losses) * scale, LARGEST)


def log(x: float) -> float:
    """Return the natural logarithm of a positive, finite `x`."""
    mantissa, exponent = math.frexp(x)  # in [1/2, 1)
    if mantissa < ROOT_OF_HALF:
        mantissa, exponent = mantissa * 2, exponent - 1
    f = (mantissa - 1) / (mantissa + 1)  # log(mantissa) = 2 atanh(f): the series of odd powers
    square = f * f
    total = 0.0
    for n in range(23, 1, -2):
        total = (total + 1.0 / n) * square
    return exponent * LOG2_HIGH + (2 * f + (2 * f * total + exponent * LOG2_LOW))


def expm1_near_0(x: float) -> float:
    """Return exp(x) - 1 for abs(x) <= log(2) / 2: the Taylor series."""
    total = 0.0
    for n in range(15, 1, -1):
        total = (total + 1) * (x / n)
    return x + x * total


def exp(x: float) -> float:
    """Return the exponential of `x`; 0 below -745.2, infinity above 709.7."""
    if x > 709.7:
        return math.inf
    if not x >= -745.2:
        return 0.0
    multiple = math.floor(x * ONE_OVER_LOG2 + 0.5)  # of log(2)
    rest = (x - multiple * LOG2_HIGH) - multiple * LOG2_LOW
    return math.ldexp(1 + expm1_near_0(rest), multiple)


def expm1(x: float) -> float:
    """Return exp(x) - 1 with full precision near 0."""
    return expm1_near_0(x) if abs(x) <= 0.34 else exp(x) - 1


def pow(x: float, y: float) -> float:
    """Return `x` in [0, 1] to the power of `y` >= 0."""
    if x == 1:
        return 1.0
    if x == 0 or y == math.inf:
        return 0.0
    return exp(y * log(x))
