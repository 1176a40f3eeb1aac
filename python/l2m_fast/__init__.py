"""l2m_fast: a data loader whose class mix follows the losses."""

from __future__ import annotations

from l2m_fast._build_info import build_info
from l2m_fast._core import __version__
from l2m_fast.data.normalize import Normalized
from l2m_fast.loader import Loader
from l2m_fast.losses.class_loss import class_loss
from l2m_fast.losses.cross_entropy import cross_entropy
from l2m_fast.losses.sums import ClassLoss
from l2m_fast.mixing import (
    Annealed,
    Balanced,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    MixingPolicy,
    Proportional,
    Static,
    Temperature,
    Window,
)
from l2m_fast.plot import plot
from l2m_fast.samplers import BatchSampler, Sampler
from l2m_fast.state import state_from_bytes, state_to_bytes

__all__ = [
    "Annealed",
    "Balanced",
    "BatchSampler",
    "ClassLoss",
    "EffectiveNumber",
    "GroupDRO",
    "Learn2Mix",
    "Loader",
    "MixingPolicy",
    "Normalized",
    "Proportional",
    "Sampler",
    "Static",
    "Temperature",
    "Window",
    "__version__",
    "build_info",
    "class_loss",
    "cross_entropy",
    "plot",
    "state_from_bytes",
    "state_to_bytes",
]
