"""Methods that change how the losses of a classical batch are combined."""

from __future__ import annotations

import torch

from l2m_experiments.method import Batches, Method, Start, class_sizes, refuse_kind
from l2m_experiments.methods.policies import BETA
from l2m_fast import mixing

FOCUSING = 2.0  # gamma of the focal loss: the best of Lin et al. 2017, and that of the Learn2Mix paper

_NO_PROBABILITY = (
    "the focal loss needs the predicted probability of the right class, which exists for classification only"
)


class Focal(Method):
    """Focal loss (Lin et al. 2017, arXiv 1708.02002, eq. 4): (1 - p)^FOCUSING * -log p, p of the right class."""

    name = "focal"
    refusals = (refuse_kind("regression", _NO_PROBABILITY), refuse_kind("reconstruction", _NO_PROBABILITY))

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the mean focal loss; the losses are cross entropies, -log p."""
        return _focal(losses).mean()


class ClassBalancedFocal(Focal):
    """Class-balanced focal loss (Cui et al. 2019, arXiv 1901.05555, eq. 11), over softmax probabilities.

    The weight of a class is (1 - beta) / (1 - beta^n) with BETA, normalized to mean 1 over the classes.
    """

    name = "class-balanced-focal"

    def batches(self, start: Start) -> Batches:
        """Create classical batches, and the weights."""
        sizes = class_sizes(start.data)
        # The policy's proportions are n times these weights.
        weights = mixing.EffectiveNumber(BETA).initial(sizes) / sizes
        device = start.data.train.inputs.device
        self._weights = torch.from_numpy(weights / weights.mean()).to(device, torch.float32)
        return super().batches(start)

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return the mean weighted focal loss."""
        self._weights = self._weights.to(losses.device)
        return (self._weights[classes] * _focal(losses)).mean()


def _focal(losses: torch.Tensor) -> torch.Tensor:
    return (-torch.expm1(-losses)).pow(FOCUSING) * losses


class Importance(Method):
    """Importance sampling as in the Learn2Mix paper (appendix D): a random half of the batch that favors large losses.

    Rows are drawn one after another with probability proportional to their loss, without replacement.
    """

    name = "importance"

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the mean loss of the drawn half; torch's global generator of the losses' device draws it."""
        # Rows with loss 0 come last. NaN, which occurs if training diverged, counts as 0, because multinomial rejects it.
        weights = losses.detach().nan_to_num(nan=0.0).clamp(min=torch.finfo(losses.dtype).tiny)
        return losses[torch.multinomial(weights, max(len(losses) // 2, 1))].mean()
