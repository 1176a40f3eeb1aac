"""SMOTE: synthetic rows for small classes."""

from __future__ import annotations

import torch
from imblearn.over_sampling import SMOTE  # imported early, because the warm-up of a run is timed

from l2m_experiments.method import Batches, Method, Refusal, Start, class_sizes, loader_of, refuse_kind
from l2m_experiments.task import Rows


class Smote(Method):
    """SMOTE (Chawla et al. 2002) of imbalanced-learn: interpolates rows of a class until all classes have the same size.

    Inputs are treated as float vectors; new rows are rounded if inputs are stored as integers. There are 5 neighbors, or
    as many as the smallest class has. An epoch has as many batches as before, as in the Learn2Mix paper.
    """

    name = "smote"
    refusals = (
        refuse_kind("regression", "the targets of new rows would have to be invented"),
        Refusal(
            "token ids",
            "an id between two token ids is an unrelated word",
            lambda _, data: data is not None and data.train.inputs.dtype == torch.int64,
        ),
        Refusal(
            "a class of one row",
            "a class of one row has no neighbors to interpolate with",
            lambda _, data: data is not None and int(class_sizes(data).min()) == 1,
        ),
    )

    def batches(self, start: Start) -> Batches:
        """Create the new rows, and batches of old and new ones."""
        train, sizes = start.data.train, class_sizes(start.data)
        smote = SMOTE(k_neighbors=min(5, int(sizes.min()) - 1), random_state=start.seed)
        vectors, classes = smote.fit_resample(
            train.inputs.flatten(1).cpu().float().numpy(), train.classes.cpu().numpy()
        )
        inputs = torch.from_numpy(vectors).unflatten(1, train.inputs.shape[1:])
        if not train.inputs.is_floating_point():
            inputs = inputs.round()
        device = train.inputs.device
        ids = torch.from_numpy(classes).to(device)
        resampled = Rows(inputs.to(device, train.inputs.dtype), ids, None if train.targets is None else ids)
        return loader_of(start, self.policy(start.task), resampled)
