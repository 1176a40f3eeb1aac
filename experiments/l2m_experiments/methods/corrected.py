"""Methods whose loss is corrected for the class proportions of each batch, so that it is that of the test set."""

from __future__ import annotations

import numpy as np
import torch

from l2m_experiments.method import Batches, Method, Start, loader_of
from l2m_experiments.task import Task
from l2m_fast import Loader, MixingPolicy


class Corrected(Method):
    """Another method, corrected for the class shares of the test set.

    Classification: log(p / q) is added to the logits in training, for the proportions p of the batch and the shares q of the
    test set (logit adjustment, Menon et al. 2021; Balanced Softmax, Ren et al. 2020). The losses recorded are those of the
    sums. Other tasks: the losses are multiplied by q / p, and recorded without.

    Args:
        base: Method that forms the batches.
    """

    def __init__(self, base: Method) -> None:
        self._base = base
        self.name = f"{base.name}-corrected"
        self.update_every = base.update_every
        self._loader: Loader | None = None
        self._target = np.zeros(0)
        self._adds_offsets = True

    def policy(self, task: Task) -> MixingPolicy:
        """Return the policy of the other method."""
        return self._base.policy(task)

    def batches(self, start: Start) -> Batches:
        """Create the batches of the other method."""
        counts = np.bincount(start.data.test.classes.cpu().numpy(), minlength=len(start.data.class_names))
        self._target = counts / counts.sum()
        self._adds_offsets = start.task.kind == "classification"
        self._loader = loader_of(start, self.policy(start.task), start.data.train, update_every=self.update_every)
        return self._loader

    def outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits plus offsets."""
        if not self._adds_offsets:
            return outputs
        assert self._loader is not None
        return outputs + torch.as_tensor(self._loader.class_offsets(self._target), device=outputs.device)

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, weighted unless offsets were added."""
        if self._adds_offsets:
            return losses.mean()
        assert self._loader is not None
        weights = torch.as_tensor(self._loader.class_weights(self._target), device=losses.device)
        return (weights[classes] * losses).mean()
