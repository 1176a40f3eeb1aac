"""Methods that differ in the class proportions of their batches only."""

from __future__ import annotations

from l2m_experiments.method import Method
from l2m_experiments.task import Task
from l2m_fast import MixingPolicy, mixing

# Cui et al. 2019 tune beta to 0.9, 0.99, 0.999 or 0.9999 on each data set; on ImageNet and iNaturalist they use this one.
BETA = 0.999
DRO_STEP_SIZE = 0.01  # Sagawa et al. 2020


class Classical(Method):
    """Classical training: each class as often as in the data."""

    name = "classical"


class Balanced(Method):
    """Balanced sampling: every class equally often."""

    name = "balanced"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return equal proportions."""
        return mixing.Balanced()


class Temperature(Method):
    """Sampling between classical and balanced: p ~ n^(1 / temperature).

    Args:
        temperature: 1 is classical, infinity balanced.
    """

    def __init__(self, temperature: float = 2) -> None:
        self._temperature = temperature
        self.name = "temperature" + (f"={temperature:g}" if temperature != 2 else "")

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return proportions of powers of the class sizes."""
        return mixing.Temperature(self._temperature)


class Annealed(Method):
    """Sampling that moves from p ~ n^start to classical during training, after every epoch.

    Args:
        start: Exponent of the class sizes at the beginning; 0 is balanced.
    """

    def __init__(self, start: float = 0.5) -> None:
        self._start = start
        self.name = "annealed" + (f" start={start:g}" if start != 0.5 else "")

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return the schedule."""
        return mixing.Annealed(self._start)


class EffectiveNumber(Method):
    """Sampling by the effective number of rows (Cui et al. 2019): p ~ n (1 - beta) / (1 - beta^n) with BETA."""

    name = "effective-number"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return proportions between classical and balanced."""
        return mixing.EffectiveNumber(BETA)


class GroupDRO(Method):
    """Group DRO (Sagawa et al. 2020, Algorithm 1) with classes as groups: an ascent step after every batch.

    It changes the proportions of the rows instead of weights of the losses. The loader applies them two batches later.
    """

    name = "group-dro"
    update_every = 1

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Return exponentiated gradient ascent."""
        return mixing.GroupDRO(DRO_STEP_SIZE)
