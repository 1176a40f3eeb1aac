"""All methods by name. A new method is a class in a file of this folder, and its entry in the list below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from l2m_experiments.method import Method
from l2m_experiments.methods.corrected import Corrected, PostHoc
from l2m_experiments.methods.curriculum import Curriculum
from l2m_experiments.methods.learn2mix import Learn2Mix, Learn2MixAuthors, Learn2MixExcess
from l2m_experiments.methods.losses import ClassBalancedFocal, Focal, Importance
from l2m_experiments.methods.policies import Annealed, Balanced, Classical, EffectiveNumber, GroupDRO, Temperature
from l2m_experiments.methods.progress import HeldOut, Progress
from l2m_experiments.methods.smote import Smote
from l2m_experiments.user_input import lookup

__all__ = ["METHODS", "Balanced", "Classical", "Learn2Mix", "method"]

_MAKERS: tuple[Callable[[], Method], ...] = (
    Learn2Mix,
    partial(Learn2Mix, start="balanced"),
    partial(Learn2Mix, update_every=10),
    Learn2MixExcess,
    Learn2MixAuthors,
    Classical,
    Balanced,
    EffectiveNumber,
    Focal,
    ClassBalancedFocal,
    Smote,
    Importance,
    Curriculum,
    GroupDRO,
    Temperature,
    partial(Temperature, 1.5),
    partial(Temperature, 3),
    Annealed,
    Progress,
    HeldOut,
    PostHoc,
    lambda: Corrected(Classical()),
    lambda: Corrected(Balanced()),
    lambda: Corrected(Temperature()),
    lambda: Corrected(Annealed()),
    lambda: Corrected(Annealed(start=0)),
    lambda: Corrected(Annealed(start=0.75)),
    lambda: Corrected(Progress()),
    lambda: Corrected(HeldOut()),
    lambda: Corrected(Learn2Mix()),
    lambda: Corrected(Learn2Mix(), records_plain=True),
    lambda: Corrected(Learn2Mix(min_share=0.01)),
    lambda: Corrected(Learn2MixExcess()),
)
METHODS: dict[str, Callable[[], Method]] = {make().name: make for make in _MAKERS}
"""Every method of the command line by its name, in the order of the tables."""


def method(name: str) -> Method:
    """Create a method by its name.

    Raises:
        InputError: No method has this name.
    """
    return lookup("method", name, METHODS)()
