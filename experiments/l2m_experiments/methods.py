"""The methods that are compared: how each forms its batches, and what it minimises on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from imblearn.over_sampling import SMOTE  # not where it is used: a run's warm-up is timed

from l2m_experiments.authors import AuthorsBatches
from l2m_experiments.curriculum import Curriculum
from l2m_experiments.method import Batches, Method, Refusal, Start, class_sizes, fields_of, loader_of, of_kind
from l2m_experiments.names import named
from l2m_experiments.task import Rows, Task
from l2m_fast import MixingPolicy, mixing

FOCUSING = 2.0  # gamma of the focal loss: the best of Lin et al. 2017, and that of the Learn2Mix paper
# Of the effective number. Cui et al. 2019 choose among 0.9, 0.99, 0.999 and 0.9999 on each data set; this is what they
# take where there is nothing to choose by, on ImageNet and iNaturalist.
BETA = 0.999
DRO_STEP_SIZE = 0.01  # Sagawa et al. 2020


class Classical(Method):
    """Every class as often as it is in the data."""

    name = "classical"


class Learn2Mix(Method):
    """Learn2Mix (arXiv 2412.16482) as this package does it: exact quotas, and the mean losses of the whole window.

    Args:
        mixing_rate: Gamma in the paper, of every window; None: that of the task's protocol.
        min_share: Least share of a class.
        start: Proportions of the first window: "proportional" (the paper) or "balanced".
        update_every: Steps of a window of losses; None: an epoch, as in the paper. With shorter windows the same mixing
            rate follows the losses as many times faster.
    """

    def __init__(
        self,
        mixing_rate: float | None = None,
        min_share: float = 0.0,
        start: Literal["proportional", "balanced"] = "proportional",
        update_every: int | None = None,
    ) -> None:
        self._mixing_rate, self._min_share, self._start = mixing_rate, min_share, start
        self.update_every = update_every
        self.name = (
            "learn2mix"
            + ("-balanced-start" if start == "balanced" else "")
            + (f"-every-{update_every}" if update_every is not None else "")
            + (f" mixing_rate={mixing_rate:g}" if mixing_rate is not None else "")
            + (f" min_share={min_share:g}" if min_share > 0 else "")
        )

    def policy(self, task: Task) -> MixingPolicy:
        """Steps towards the loss shares."""
        rate = task.protocol.mixing_rate if self._mixing_rate is None else self._mixing_rate
        return mixing.Learn2Mix(rate, self._min_share, self._start)


class Learn2MixAuthors(Method):
    """Learn2Mix the way its authors' program does it, see `AuthorsBatches`; the batches are not those of the loader."""

    name = "learn2mix-authors"
    refusals = (
        Refusal(
            "batches of no more rows than there are classes",
            "the authors' program floors the rows of each class, which may leave none in a batch",
            lambda task, data: data is not None and len(data.class_names) >= task.protocol.batch_size,
        ),
    )

    def batches(self, start: Start) -> Batches:
        """Makes the authors' batches."""
        return AuthorsBatches(
            fields_of(start.data.train),
            len(start.data.class_names),
            batch_size=start.task.protocol.batch_size,
            steps=start.steps,
            mixing_rate=start.task.protocol.mixing_rate,
            seed=start.seed,
        )


class Balanced(Method):
    """Every class equally often."""

    name = "balanced"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Equal shares."""
        return mixing.Balanced()


class EffectiveNumber(Method):
    """Classes are drawn as Cui et al. 2019 would weigh their losses: p ~ n (1 - beta) / (1 - beta^n), with BETA."""

    name = "effective-number"

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Shares between proportional and equal."""
        return mixing.EffectiveNumber(BETA)


class GroupDRO(Method):
    """Group DRO (Sagawa et al. 2020, Algorithm 1) with classes as groups: an ascent step after every batch.

    The shares are those of the rows instead of weights of the losses; they act two batches later, as the loader has it.
    """

    name = "group-dro"
    update_every = 1

    def policy(self, task: Task) -> MixingPolicy:  # noqa: ARG002
        """Exponentiated gradient ascent."""
        return mixing.GroupDRO(DRO_STEP_SIZE)


_NO_PROBABILITY = "the focal loss needs the predicted probability of the right class, and there is none"


class Focal(Method):
    """Focal loss (Lin et al. 2017, arXiv 1708.02002, eq. 4): (1 - p)^FOCUSING * -log p, p of the right class."""

    name = "focal"
    refusals = (of_kind("regression", _NO_PROBABILITY), of_kind("reconstruction", _NO_PROBABILITY))

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Mean focal loss; the losses are cross entropies, -log p."""
        return _focal(losses).mean()


class ClassBalancedFocal(Focal):
    """Class-balanced focal loss (Cui et al. 2019, arXiv 1901.05555, eq. 11), over softmax probabilities.

    The weight of a class is (1 - beta) / (1 - beta^n) with BETA, normalised to mean 1 over the classes.
    """

    name = "class-balanced-focal"

    def batches(self, start: Start) -> Batches:
        """Makes classical batches, and the weights."""
        sizes = class_sizes(start.data)
        # The policy's shares are n times these weights.
        weights = mixing.EffectiveNumber(BETA).initial(sizes) / sizes
        train = start.data.train
        self._weights = torch.from_numpy(weights / weights.mean()).to(train.inputs.device, torch.float32)
        return super().batches(start)

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mean weighted focal loss."""
        self._weights = self._weights.to(losses.device)
        return (self._weights[classes] * _focal(losses)).mean()


def _focal(losses: torch.Tensor) -> torch.Tensor:
    return (-torch.expm1(-losses)).pow(FOCUSING) * losses


class Importance(Method):
    """Importance sampling as the Learn2Mix paper has it (appendix D): the half of a batch with the larger losses, by chance.

    Rows are drawn one after another with probability proportional to their loss, without replacement.
    """

    name = "importance"

    def objective(self, losses: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Mean loss of the half that is drawn, by torch's global generator of the losses' device."""
        # Rows without any loss come last, and of a run that has diverged nothing can be drawn by NaN.
        chances = losses.detach().nan_to_num(nan=0.0).clamp(min=torch.finfo(losses.dtype).tiny)
        return losses[torch.multinomial(chances, max(len(losses) // 2, 1))].mean()


class Smote(Method):
    """SMOTE (Chawla et al. 2002) of imbalanced-learn: rows between neighbours of a class, until all classes are equal.

    The inputs are taken as vectors of floats; new rows are rounded where inputs are stored as integers. Neighbours are 5,
    or as many as the smallest class has. An epoch has as many batches as before, as in the Learn2Mix paper.
    """

    name = "smote"
    refusals = (
        of_kind("regression", "the targets of new rows would have to be made up"),
        Refusal(
            "token ids",
            "an id between two token ids is another word, not one between them",
            lambda _, data: data is not None and data.train.inputs.dtype == torch.int64,
        ),
        Refusal(
            "a class of one row",
            "a class of one row has no neighbours to put new rows between",
            lambda _, data: data is not None and int(class_sizes(data).min()) == 1,
        ),
    )

    def batches(self, start: Start) -> Batches:
        """Makes the new rows, and batches of old and new ones."""
        train, sizes = start.data.train, class_sizes(start.data)
        smote = SMOTE(k_neighbors=min(5, int(sizes.min()) - 1), random_state=start.seed)
        vectors, classes = smote.fit_resample(
            train.inputs.flatten(1).cpu().float().numpy(), train.classes.cpu().numpy()
        )
        inputs = torch.from_numpy(vectors).unflatten(1, train.inputs.shape[1:])
        if not train.inputs.is_floating_point():
            inputs = inputs.round()
        device = train.inputs.device
        of_rows = torch.from_numpy(classes).to(device)
        resampled = Rows(inputs.to(device, train.inputs.dtype), of_rows, None if train.targets is None else of_rows)
        return loader_of(start, self.policy(start.task), resampled)


def _balanced_start() -> Method:
    return Learn2Mix(start="balanced")


def _every_10() -> Method:
    return Learn2Mix(update_every=10)


_MAKERS: tuple[Callable[[], Method], ...] = (
    Learn2Mix, _balanced_start, _every_10, Learn2MixAuthors, Classical, Balanced, EffectiveNumber, Focal,
    ClassBalancedFocal, Smote, Importance, Curriculum, GroupDRO,
)  # fmt: skip
METHODS: dict[str, Callable[[], Method]] = {make().name: make for make in _MAKERS}
"""Every method of the command line, by its name."""


def method(name: str) -> Method:
    """Makes a method.

    Raises:
        InputError: There is none of that name.
    """
    return named("method", name, METHODS)()
