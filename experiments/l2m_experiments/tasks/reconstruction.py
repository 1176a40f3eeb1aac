"""Reconstruction: squared error of an autoencoder, summed over pixels in 0 .. 1; the class is the label of the image.

The paper's text mentions errors below 1.0 on MNIST, but its table 2 has 9.31; these tasks follow the table. The authors' code
perturbs the initial weights and trains MNIST with AdamW, which the paper does not mention; here the weights are torch's and
the optimizer is Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from l2m_experiments import datasets, imbalance, models
from l2m_experiments.datasets import ImageSet
from l2m_experiments.presets import Draft, Variant, register
from l2m_experiments.rows import image_data
from l2m_experiments.task import Protocol, Task, TaskData


@register(
    "mnist-reconstruction",
    quick=Variant(Protocol(100, 5e-4, 0.1, 40, 10), 12.0, 0.3, 0.2),
    paper=Variant(Protocol(1000, 5e-4, 0.1, 40, 40), 15.0),
)
def mnist(draft: Draft) -> Task:
    """Create the task on MNIST with 20 % of the digits 5 to 9: N = 36,475 (paper, section 4.3)."""
    return _task(draft, "MNIST, 20 % of 5 of 10 classes", datasets.mnist, (1.0,) * 5 + (0.2,) * 5)


@register(
    "fashion-mnist-reconstruction",
    quick=Variant(Protocol(100, 5e-4, 0.1, 40, 10), 20.0, 0.3, 0.2),
    paper=Variant(Protocol(1000, 1e-5, 0.1, 70, 60), 60.0),
)
def fashion_mnist(draft: Draft) -> Task:
    """Create the task on Fashion-MNIST with 20 % of the classes 5 to 9: N = 36,000 (paper, section 4.3)."""
    return _task(draft, "Fashion-MNIST, 20 % of 5 of 10 classes", datasets.fashion_mnist, (1.0,) * 5 + (0.2,) * 5)


@register(
    "cifar10-reconstruction",
    quick=Variant(Protocol(100, 5e-4, 0.1, 30, 20), 80.0, 0.6, 0.2),
    paper=Variant(Protocol(1000, 1e-5, 0.1, 110, 60), 160.0),
)
def cifar10(draft: Draft) -> Task:
    """Create the task on CIFAR-10 with 10 % of all classes but deer and dog: N = 14,000.

    Section 4.3 of the paper says 20 %, but its appendix and its N say 10 %; this task follows the latter.
    """
    shares = (0.1,) * 4 + (1.0,) * 2 + (0.1,) * 4
    return _task(draft, "CIFAR-10, 10 % of 8 of 10 classes", datasets.cifar10, shares)


def _task(draft: Draft, description: str, images: Callable[[], ImageSet], shares: tuple[float, ...]) -> Task:
    def load(seed: int) -> TaskData:
        data = image_data(images(), partial(imbalance.keep, shares=shares), draft.variant, seed)
        return replace(data, train=replace(data.train, targets=None), test=replace(data.test, targets=None))

    return draft.task(
        "reconstruction",
        f"{description}, autoencoder",
        load,
        lambda data: models.autoencoder(data.train.inputs[0].numel()),
        lambda stored: stored.flatten(1).float().div_(255),
    )
