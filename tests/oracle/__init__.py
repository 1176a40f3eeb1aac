"""Reference implementation of the whole loader in slow, obvious NumPy, which the fast loader equals bit for bit.

Read the modules in this order: `randomness`, `plan` and `batches` (rows of a batch), `arithmetic` and `mixing`
(proportions), `losses` (windows), and `loader` (the main loop). Every floating-point expression is evaluated as
written, in double precision, without fused multiply-add.
"""

from __future__ import annotations

from oracle.arithmetic import LARGEST, Floats, Ints, exp, expm1, log, mean_loss, neumaier_sum, pow
from oracle.batches import MAX_GLOBAL_BATCH
from oracle.loader import OracleLoader
from oracle.mixing import (
    Annealed,
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
    "Annealed",
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
