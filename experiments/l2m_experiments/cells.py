"""Text of single cells of the tables of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from l2m_experiments.results import LEVEL, Comparison, Measure
from l2m_experiments.statistics import FloatArray, interval
from l2m_experiments.task import Kind

NONE = "-"


def number(value: float, kind: Kind) -> str:
    """Format an error, an accuracy or a difference of them: percent with two decimals, a squared error with three digits."""
    if math.isnan(value):
        return "diverged"
    if kind == "classification":
        return f"{value:.2f}"
    return digits(value)


def shown(errors: FloatArray, kind: Kind) -> FloatArray:
    """Return accuracies for classification, and the errors themselves otherwise."""
    return 100 - errors if kind == "classification" else errors


def name_of(measure: Measure, kind: Kind) -> str:
    """Name what `shown` returns for a measure."""
    which = {"test_error": "Test", "macro_error": "Macro (mean over classes)", "worst_class_error": "Worst-class"}[
        measure
    ]
    return f"{which} accuracy (%)" if kind == "classification" else f"{which} mean squared error"


def gap(c: Comparison | None, kind: Kind, valid: bool = True) -> str:
    """Format a comparison: the verdict, and the advantage with half its interval; a tie may be equivalent or not worse."""
    if c is None:
        return NONE
    if math.isnan(c.advantage):
        return f"{c.verdict}: a run diverged"
    sign = "+" if c.advantage >= 0 else "-"
    half = "" if math.isnan(c.half_width) else f" ± {number(c.half_width, kind)}"
    verdict: str = c.verdict
    if c.verdict == "ties" and c.p_not_worse < LEVEL:
        verdict = "equivalent" if c.p_equivalent < LEVEL else "not worse"
    return f"{verdict if valid else 'not valid'}: {sign}{number(abs(c.advantage), kind)}{half}"


def join(words: Sequence[str]) -> str:
    """Join words as a list in a sentence."""
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def mean(sample: FloatArray, kind: Kind) -> str:
    """Format the mean of a sample, with half its interval."""
    middle, half = (float(value) for value in interval(sample))
    if math.isnan(middle):
        return f"diverged ({int(np.isnan(sample).sum())} of {len(sample)})"
    return number(middle, kind) + ("" if math.isnan(half) else f" ± {number(half, kind)}")


def of_paper(figure: tuple[float, float] | None, kind: Kind) -> str:
    """Format a figure of the paper, a mean with its spread."""
    return NONE if figure is None else f"{number(figure[0], kind)} ± {number(figure[1], kind)}"


def p_value(value: float) -> str:
    """Format a p value."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def digits(value: float) -> str:
    """Format with three digits, without an exponent where it stays readable."""
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
