"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from l2m_experiments import classification, reconstruction, regression
from l2m_experiments.names import named
from l2m_experiments.protocols import Preset
from l2m_experiments.task import Task

__all__ = ["TASKS", "Preset", "task"]

# As on the command line; the first is its default.
TASKS: dict[str, Callable[[Preset], Task]] = {
    "digits": classification.digits,
    "mnist": classification.mnist,
    "fashion-mnist": classification.fashion_mnist,
    "fashion-mnist-long-tail": classification.fashion_mnist_long_tail,
    "cifar10": classification.cifar10,
    "cifar100": classification.cifar100,
    "tiny-imagenet100": classification.tiny_imagenet100,
    "imagenette": classification.imagenette,
    "imdb": classification.imdb,
    "adult": classification.adult,
    "mean-estimation": regression.mean_estimation,
    "wine": regression.wine,
    "housing": regression.housing,
    "mnist-reconstruction": reconstruction.mnist,
    "fashion-mnist-reconstruction": reconstruction.fashion_mnist,
    "cifar10-reconstruction": reconstruction.cifar10,
}


def task(name: str, preset: Preset) -> Task:
    """Returns the task of that name.

    Raises:
        InputError: There is none.
    """
    return named("task", name, TASKS)(preset)
