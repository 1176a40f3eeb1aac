"""Income of adults in a census."""

from __future__ import annotations

from l2m_experiments import datasets, models
from l2m_experiments.presets import Draft, Variant, register
from l2m_experiments.rows import labeled, standardize, subset
from l2m_experiments.task import Protocol, Task, TaskData


@register(
    "adult",
    quick=Variant(Protocol(250, 1e-3, 0.1, 15, 6), learned=16.0),
    paper=Variant(Protocol(1000, 1e-3, 0.1, 50, 20), learned=16.0),
)
def adult(draft: Draft) -> Task:
    """Create the task on Adult, where 24 % of the incomes are high, with one hidden layer. Not in the paper.

    The columns are standardized by the training set.
    """

    def load(_: int) -> TaskData:
        train, test = datasets.adult()
        ids = subset(train.classes, draft.variant.train_share)
        test_ids = subset(test.classes, draft.variant.test_share)
        columns = train.columns[ids]
        return TaskData(
            labeled(standardize(columns, by=columns), train.classes[ids]),
            labeled(standardize(test.columns[test_ids], by=columns), test.classes[test_ids]),
            train.class_names,
            train.source,
        )

    return draft.task(
        "classification",
        "Adult (census income), all rows, one hidden layer",
        load,
        lambda data: models.mlp(data.train.inputs.shape[1], len(data.class_names)),
        lambda columns: columns,
    )
