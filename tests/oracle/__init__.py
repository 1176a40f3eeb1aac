"""Reference implementation of the whole loader in slow, obvious NumPy, which the fast loader equals bit for bit.

Read `randomness`, `plan` and `batches` (which rows are in a batch), `arithmetic` and `mixing` (the proportions), `losses` (windows),
and `loader` (the loop that puts them together), in this order. Every floating-point expression is evaluated as it
is written, in double precision, without fused multiply-add.
"""

from __future__ import annotations

from oracle.arithmetic import LARGEST, Floats, Ints, exp, expm1, log, mean_loss, neumaier_sum, pow
from oracle.batches import MAX_GLOBAL_BATCH
from oracle.loader import OracleLoader
from oracle.mixing import (
    Balanced,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Policy,
    Proportional,
    Static,
    Temperature,
    Window,
    checked_proportions,
    without_gaps,
)
from oracle.plan import (
    MAX_BUCKET,
    MAX_UNSPLIT,
    PART,
    Cursor,
    Due,
    change_due,
    draw,
    first_due,
    fractions,
    next_offset,
    permutation,
    quotas,
)
from oracle.randomness import due_quarter, fisher_yates, sequence, throw_dice, words

__all__ = [
    "LARGEST",
    "MAX_BUCKET",
    "MAX_GLOBAL_BATCH",
    "MAX_UNSPLIT",
    "PART",
    "Balanced",
    "Cursor",
    "Due",
    "EffectiveNumber",
    "Floats",
    "GroupDRO",
    "Ints",
    "Learn2Mix",
    "OracleLoader",
    "Policy",
    "Proportional",
    "Static",
    "Temperature",
    "Window",
    "change_due",
    "checked_proportions",
    "draw",
    "due_quarter",
    "exp",
    "expm1",
    "first_due",
    "fisher_yates",
    "fractions",
    "log",
    "mean_loss",
    "neumaier_sum",
    "next_offset",
    "permutation",
    "pow",
    "quotas",
    "sequence",
    "throw_dice",
    "without_gaps",
    "words",
]
