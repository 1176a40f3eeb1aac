"""Methods that are corrected for the difference between the class shares of training and of the test set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from l2m_experiments.method import Batches, Method, Start, class_sizes, refuse_kind
from l2m_experiments.task import Rows, Task, TaskData
from l2m_fast import Loader, MixingPolicy

_NO_LOGITS = "the correction is added to logits, which exist for classification only"


class PostHoc(Method):
    """Classical training, corrected after it: log(q / p) is added to the logits of the test set (Menon et al. 2021, section 4.1).

    p are the class shares of the training set, q those of the test set.
    """

    name = "classical-post-hoc"
    refusals = (refuse_kind("regression", _NO_LOGITS), refuse_kind("reconstruction", _NO_LOGITS))

    def batches(self, start: Start) -> Batches:
        """Create classical batches, and the offsets."""
        sizes = class_sizes(start.data)
        self._offsets = torch.from_numpy(np.log(_test_shares(start.data) * sizes.sum() / sizes))
        return super().batches(start)

    def test_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits plus offsets."""
        return outputs + self._offsets.to(outputs)


class Corrected(Method):
    """Another method, corrected for the class shares of the test set.

    Classification: log(p / q) is added to the logits in training, for the proportions p of the batch and the shares q of the
    test set (logit adjustment, Menon et al. 2021; Balanced Softmax, Ren et al. 2020). Other tasks: the losses are multiplied by
    q / p, and recorded without.

    Args:
        base: Method that forms the batches.
        records_plain: Whether the losses recorded are those of the logits without offsets.
    """

    def __init__(self, base: Method, *, records_plain: bool = False) -> None:
        self._base, self.records_plain = base, records_plain
        self.name = f"{base.name}-corrected" + (" records=plain" if records_plain else "")
        self.update_every = base.update_every
        self._loader: Loader | None = None
        self._target = np.zeros(0)
        self._adds_offsets = True

    def policy(self, task: Task) -> MixingPolicy:
        """Return the policy of the other method."""
        return self._base.policy(task)

    def batches(self, start: Start) -> Batches:
        """Create the batches of the other method."""
        self._target = _test_shares(start.data)
        self._adds_offsets = start.task.kind == "classification"
        batches = self._base.batches(start)
        assert isinstance(batches, Loader)  # only a loader knows the proportions of its batches
        self._loader = batches
        return batches

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

    def end_epoch(self, measure: Callable[[Rows], torch.Tensor]) -> None:
        """Let the other method take note of the model."""
        self._base.end_epoch(measure)


def _test_shares(data: TaskData) -> NDArray[np.float64]:
    counts = np.bincount(data.test.classes.cpu().numpy(), minlength=len(data.class_names))
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares
