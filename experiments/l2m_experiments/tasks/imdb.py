"""Sentiment of movie reviews."""

from __future__ import annotations

from functools import partial

import torch

from l2m_experiments import datasets, imbalance, models
from l2m_experiments.presets import Draft, Variant, register
from l2m_experiments.rows import draw, labeled, subset
from l2m_experiments.task import Protocol, Task, TaskData


@register(
    "imdb",
    quick=Variant(Protocol(50, 1e-3, 0.1, 6, 40), 35.0, 0.2, 0.2),
    paper=Variant(Protocol(500, 1e-4, 0.1, 40, 150), 25.0),
)
def imdb(draft: Draft) -> Task:
    """Create the task on IMDB with 30 % of the positive reviews and a one-layer transformer (see `models.Transformer`).

    The paper's text reduces the positive class, its code the negative one; this task follows the text. Preset "paper" has 500
    words per review and a vocabulary of 50,000; "quick" has 128 and 10,000. See `datasets.imdb` for the words and the split.
    """
    num_words, length = {"quick": (10_000, 128), "paper": (50_000, 500)}[draft.preset]

    def load(seed: int) -> TaskData:
        reviews = datasets.imdb(num_words, length)
        train_classes, test_classes = reviews.labels[reviews.train], reviews.labels[reviews.test]
        pattern = partial(imbalance.keep, shares=(1.0, 0.3))
        train = reviews.train[draw(train_classes, pattern, draft.variant.train_share, seed)]
        test = reviews.test[subset(test_classes, draft.variant.test_share)]
        return TaskData(
            labeled(torch.from_numpy(reviews.ids[train]), reviews.labels[train]),
            labeled(torch.from_numpy(reviews.ids[test]), reviews.labels[test]),
            ("negative", "positive"),
            reviews.source,
        )

    return draft.task(
        "classification",
        f"IMDB, 30 % of the positive reviews, first {length} words, transformer",
        load,
        lambda data: models.Transformer(num_words, length, len(data.class_names)),
        lambda ids: ids,
    )
