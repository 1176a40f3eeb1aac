"""Each method's mathematics against a formula of its own, on small made-up data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from l2m_fast.experiments.authors import AuthorsBatches
from l2m_fast.experiments.errors import InputError
from l2m_fast.experiments.method import Batches, Start
from l2m_fast.experiments.methods import METHODS, Learn2Mix, method
from l2m_fast.experiments.task import Kind, Protocol, Rows, Task, TaskData

SIZES = (40, 20, 10, 6)
KINDS: tuple[Kind, ...] = ("classification", "regression", "reconstruction")
# What is refused; everything else is to work.
REFUSED = {
    *product(("focal", "class-balanced-focal"), ("regression", "reconstruction")),
    ("smote", "regression"),
}


def data_of(
    sizes: tuple[int, ...] = SIZES, kind: Kind = "classification", dtype: torch.dtype = torch.float32
) -> TaskData:
    """Rows of classes in no order; row i has i in its first column, and a class lies around its id elsewhere."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    inputs = np.empty((len(classes), 2, 3))
    inputs[:] = 30 * classes[:, None, None] + rng.uniform(0, 20, inputs.shape)
    inputs[:, 0, 0] = np.arange(len(classes))
    ids = torch.from_numpy(classes)
    targets = {"classification": ids, "regression": ids.float() / 7, "reconstruction": None}[kind]
    rows = Rows(torch.from_numpy(inputs).to(dtype), ids, targets)
    return TaskData(rows, rows, tuple(map(str, range(len(sizes)))), "made up")


def task_of(kind: Kind = "classification", batch_size: int = 16, mixing_rate: float = 0.1, epochs: int = 60) -> Task:
    protocol = Protocol(batch_size, 1e-3, mixing_rate, epochs=epochs, seconds=1.0)
    return Task(
        "made-up",
        kind,
        "",
        lambda _: data_of(kind=kind),
        lambda _: torch.nn.Identity(),
        torch.Tensor.float,
        protocol,
        0.0,
    )


def start_of(
    data: TaskData, task: Task, steps: int = 4, seed: int = 0, fit: Callable[[], torch.Tensor] | None = None
) -> Start:
    return Start(data, task, seed, steps, fit or (lambda: torch.arange(len(data.train.classes)).float()))


def counts_of(classes: torch.Tensor, num_classes: int = len(SIZES)) -> NDArray[np.int64]:
    return np.bincount(classes.numpy(), minlength=num_classes)


def epoch_of(batches: Batches, losses: Callable[[torch.Tensor], torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The batches of an epoch, of each of which losses are recorded that depend on its classes."""
    taken = []
    for batch in batches:
        batches.record(losses(batch["classes"]))
        taken.append(batch)
    return taken


# ---- all of them


def test_names_are_the_keys_and_unique() -> None:
    assert [make().name for make in METHODS.values()] == list(METHODS)
    assert set(METHODS) == {
        "learn2mix", "learn2mix-balanced-start", "learn2mix-every-10", "learn2mix-authors", "classical", "balanced",
        "effective-number", "focal", "class-balanced-focal", "smote", "importance", "curriculum", "group-dro",
    }  # fmt: skip


def test_name_tells_the_parameters_that_are_not_the_default() -> None:
    assert Learn2Mix(mixing_rate=0.05).name == "learn2mix mixing_rate=0.05"
    assert (
        Learn2Mix(0.5, 0.01, "balanced", 50).name == "learn2mix-balanced-start-every-50 mixing_rate=0.5 min_share=0.01"
    )


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="no method 'learn2mics'; did you mean learn2mix\\?"):
        method("learn2mics")
    with pytest.raises(InputError, match=r"no method 'xyzzy'; choose from learn2mix, .*group-dro"):
        method("xyzzy")


@pytest.mark.parametrize(("name", "kind"), [*product(METHODS, KINDS)])
def test_pairs_are_refused_with_a_reason_or_deliver_batches(name: str, kind: Kind) -> None:
    """As many batches as an epoch has steps, of rows and targets that belong to their classes, and an objective that has a slope."""
    task, data = task_of(kind), data_of(kind=kind)
    reason = method(name).refusal(task, data)
    assert (reason is not None) == ((name, kind) in REFUSED)
    assert method(name).refusal(task) == reason
    if reason is not None:
        return
    chosen = method(name)
    batches = chosen.batches(start_of(data, task))
    for _ in range(3):
        taken = epoch_of(batches, lambda classes: 1.0 + classes)
        assert len(taken) == 4
        for batch in taken:
            assert set(batch) == {"inputs", "classes"} | ({"targets"} if kind != "reconstruction" else set())
            assert batch["inputs"].shape[1:] == (2, 3)
            assert batch["inputs"].dtype == torch.float32
            nearest = (batch["inputs"][:, 1].mean(dim=1) / 30).floor().long()
            assert torch.equal(nearest, batch["classes"])
            if kind == "classification":
                assert torch.equal(batch["targets"], batch["classes"])
            if kind == "regression":
                assert torch.equal(batch["targets"], batch["classes"].float() / 7)
            losses = torch.linspace(0.1, 2, len(batch["classes"]), requires_grad=True)
            objective = chosen.objective(losses, batch["classes"])
            assert objective.shape == ()
            objective.backward()
            assert losses.grad is not None
            assert losses.grad.sum() > 0
        assert batches.proportions.sum() == pytest.approx(1)
    batches.close()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_batches_and_another_does_not(name: str) -> None:
    data, task = data_of(), task_of()
    runs = [
        torch.cat(
            [
                batch["inputs"]
                for batch in epoch_of(method(name).batches(start_of(data, task, seed=seed)), lambda x: 1.0 + x)
            ]
        )
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"learn2mix-authors"}))
def test_quotas_of_every_batch_follow_the_proportions(name: str) -> None:
    batches = method(name).batches(start_of(data_of(), task_of(), steps=12))
    for _ in range(3):
        iterator = iter(batches)
        for _ in range(12):
            due = 16 * batches.proportions
            batch = next(iterator)
            counts = counts_of(batch["classes"])
            assert counts.sum() == 16
            assert (abs(counts - due) < 1).all()
            batches.record(1.0 + batch["classes"])
        assert next(iterator, None) is None
    batches.close()


# ---- mixing policies


def first_proportions(name: str) -> NDArray[np.float64]:
    return method(name).batches(start_of(data_of(), task_of())).proportions


def test_first_proportions() -> None:
    n = np.array(SIZES)
    for name in (
        "classical",
        "learn2mix",
        "learn2mix-every-10",
        "learn2mix-authors",
        "focal",
        "importance",
        "curriculum",
    ):
        np.testing.assert_allclose(first_proportions(name), n / n.sum(), err_msg=name)
    for name in ("balanced", "learn2mix-balanced-start", "group-dro", "smote"):
        np.testing.assert_allclose(first_proportions(name), 1 / 4, err_msg=name)
    weighed = n * (1 - 0.999) / (1 - 0.999**n)
    np.testing.assert_allclose(first_proportions("effective-number"), weighed / weighed.sum())


def test_learn2mix_takes_the_rate_of_the_protocol_unless_it_is_given_one() -> None:
    n, losses = np.array(SIZES), 1.0 + np.arange(4)
    for chosen, rate in ((Learn2Mix(), 0.2), (Learn2Mix(mixing_rate=0.5), 0.5)):
        batches = chosen.batches(start_of(data_of(), task_of(mixing_rate=0.2)))
        epoch_of(batches, lambda classes: 1.0 + classes)
        alpha = n / n.sum()
        np.testing.assert_allclose(batches.proportions, alpha + rate * (losses / losses.sum() - alpha))


def test_learn2mix_every_10_changes_after_two_windows_of_ten_steps() -> None:
    batches = method("learn2mix-every-10").batches(start_of(data_of(), task_of(), steps=35))
    before, changed = batches.proportions, []
    for step, batch in enumerate(batches, start=1):
        batches.record(1.0 + batch["classes"])
        if not np.array_equal(batches.proportions, before):
            before = batches.proportions
            changed.append(step)
    assert changed == [20, 30]
    batches.close()


def test_group_dro_ascends_after_every_batch() -> None:
    batches = method("group-dro").batches(start_of(data_of(), task_of(), steps=12))
    epoch_of(batches, lambda classes: 10.0 * classes)
    raised = np.exp(0.01 * 11 * 10 * np.arange(4))  # of the last window it is not known before the next epoch
    np.testing.assert_allclose(batches.proportions, raised / raised.sum())
    batches.close()


# ---- losses


@given(st.lists(st.floats(0.0, 50.0, width=32), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_focal_losses(values: list[float], seed: int) -> None:
    """Of cross entropies -log p: (1 - p)^2 * -log p, weighed by the effective number of rows or not."""
    classes = np.random.default_rng(seed).integers(0, 4, len(values))
    losses = torch.tensor(values, dtype=torch.float64)
    expected = (1 - np.exp(-np.array(values))) ** 2 * np.array(values)
    ids = torch.from_numpy(classes)
    assert method("focal").objective(losses, ids).item() == pytest.approx(expected.mean(), rel=1e-6, abs=1e-12)
    weighed = method("class-balanced-focal")
    weighed.batches(start_of(data_of(), task_of()))
    weights = (1 - 0.999) / (1 - 0.999 ** np.array(SIZES))
    weights *= 4 / weights.sum()
    assert weighed.objective(losses, ids).item() == pytest.approx(
        (weights[classes] * expected).mean(), rel=1e-6, abs=1e-12
    )


def test_focal_loss_has_a_slope_that_is_finite_where_the_loss_is_0() -> None:
    losses = torch.tensor([0.0, 1.0], requires_grad=True)
    method("focal").objective(losses, torch.tensor([0, 1])).backward()
    assert losses.grad is not None
    p = np.exp(-1)
    np.testing.assert_allclose(losses.grad, [0, (2 * (1 - p) * p + (1 - p) ** 2) / 2], rtol=1e-6)


def test_importance_draws_halves_with_the_chances_of_their_losses() -> None:
    """Chi-square over the six pairs of four rows, one drawn after the other. A right program fails for one seed in a million."""
    values = np.array([1.0, 2.0, 4.0, 9.0])  # every pair has a mean of its own
    p = values / values.sum()
    pairs = list(combinations(range(4), 2))
    chances = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
    assert chances.sum() == pytest.approx(1)
    torch.manual_seed(0)
    losses, chosen = torch.from_numpy(values), method("importance")
    draws = 6000
    means = np.array([chosen.objective(losses, torch.arange(4)).item() for _ in range(draws)])
    counts = np.array([np.isclose(means, (values[i] + values[j]) / 2).sum() for i, j in pairs])
    assert counts.sum() == draws
    assert ((counts - draws * chances) ** 2 / (draws * chances)).sum() < chi2.isf(1e-6, len(pairs) - 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.0, 3.0, 0.0, 5.0], 4.0), ([0.0] * 5, 0.0), ([2.0], 2.0), ([float("nan"), 1.0, 3.0, float("nan")], 2.0)],
)
def test_importance_of_few_losses(values: list[float], expected: float) -> None:
    """Fewer losses above 0 than the half, a batch of one row, and a run that has diverged are no errors."""
    torch.manual_seed(0)
    losses = torch.tensor(values)
    assert method("importance").objective(losses, torch.zeros(len(values), dtype=torch.int64)).item() == expected


# ---- SMOTE


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("sizes", [SIZES, (30, 2, 9), (8, 8)])
def test_smote_makes_classes_equal_by_rows_between_rows_of_a_class(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    data = data_of(sizes, dtype=dtype)
    # All of them: an epoch of as many rows as there are once classes are equal.
    task = task_of(batch_size=len(sizes) * max(sizes))
    batches = method("smote").batches(start_of(data, task, steps=1))
    np.testing.assert_allclose(batches.proportions, 1 / len(sizes))
    (batch,) = batches
    batches.close()
    assert batch["inputs"].dtype == dtype
    np.testing.assert_array_equal(counts_of(batch["classes"], len(sizes)), max(sizes))
    slack = 0.5 if dtype == torch.uint8 else 1e-3
    for k, size in enumerate(sizes):
        old = data.train.inputs[data.train.classes == k].flatten(1).double().numpy()
        rows = batch["inputs"][batch["classes"] == k].flatten(1).double().numpy()
        segments = [(old[i], old[j]) for i, j in product(range(size), repeat=2)]
        for row in rows:
            assert any(lies_between(row, *segment, slack) for segment in segments)
        for row in old:
            assert (np.abs(rows - row).max(axis=1) == 0).any()


def lies_between(
    point: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], slack: float
) -> bool:
    """Whether a point is on a segment, up to `slack` in each column."""
    along = other - one
    length = along @ along
    share = 0.0 if length == 0 else float(np.clip((point - one) @ along / length, 0, 1))
    return bool((abs(one + share * along - point) <= 2 * slack).all())


def test_smote_refuses_token_ids_and_classes_of_one_row() -> None:
    smote, task = method("smote"), task_of()
    assert smote.refusal(task, data_of()) is None
    assert "token" in (smote.refusal(task, data_of(dtype=torch.int64)) or "")
    assert "one row" in (smote.refusal(task, data_of((5, 1))) or "")


# ---- curriculum


def test_curriculum_takes_the_easiest_of_each_class_and_more_of_them_every_ten_epochs() -> None:
    data, scores = data_of(), np.random.default_rng(1).permutation(sum(SIZES)).astype(np.float32)
    fitted = []

    def fit() -> torch.Tensor:
        fitted.append(1)
        return torch.from_numpy(scores)

    steps = 60  # the smallest class comes by often enough for all of its rows to be seen
    batches = method("curriculum").batches(start_of(data, task_of(), steps=steps, fit=fit))
    assert fitted == [1]
    classes = data.train.classes.numpy()
    for epoch in range(45):
        fraction = min(1, 0.5 * 1.2 ** (epoch // 10))
        easiest: set[int] = set()
        for k, size in enumerate(SIZES):
            of_class = np.flatnonzero(classes == k)
            easiest |= set(of_class[np.argsort(scores[of_class])][: int(np.ceil(fraction * size))].tolist())
        seen = {int(row) for batch in batches for row in batch["inputs"][:, 0, 0]}
        assert seen == easiest, epoch
        np.testing.assert_allclose(batches.proportions, np.array(SIZES) / sum(SIZES))
    assert fitted == [1]
    batches.close()


@pytest.mark.parametrize(("epochs", "pace"), [(600, 10), (60, 10), (30, 5), (12, 2), (4, 1)])
def test_pace_of_the_curriculum_is_ten_epochs_or_a_sixth_of_fewer_than_sixty(epochs: int, pace: int) -> None:
    batches = method("curriculum").batches(start_of(data_of(), task_of(epochs=epochs), steps=40))
    rows = [len({int(row) for batch in batches for row in batch["inputs"][:, 0, 0]}) for _ in range(4 * pace + 1)]
    # 1/2, 3/5, 18/25, 108/125 of the classes, rounded up, and all.
    assert rows == [*np.repeat([20 + 10 + 5 + 3, 24 + 12 + 6 + 4, 29 + 15 + 8 + 5, 35 + 18 + 9 + 6], pace), 76]
    batches.close()


# ---- the authors' Learn2Mix


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), batch_size=st.integers(9, 60), rate=st.floats(0.05, 0.9))
def test_authors_batches_are_floored_grouped_and_wrap_in_the_same_order(
    seed: int, batch_size: int, rate: float
) -> None:
    data = data_of()
    task = task_of(batch_size=batch_size, mixing_rate=rate)
    batches = method("learn2mix-authors").batches(start_of(data, task, steps=7, seed=seed))
    alpha = np.array(SIZES) / sum(SIZES)
    for _ in range(4):
        np.testing.assert_allclose(batches.proportions, alpha, rtol=1e-12)
        due = np.array([int(share * batch_size) for share in batches.proportions])
        taken = epoch_of(batches, lambda classes: classes + torch.linspace(1, 2, len(classes), dtype=torch.float64))
        for batch in taken:
            np.testing.assert_array_equal(batch["classes"], np.repeat(np.arange(4), due))
        for k, size in enumerate(SIZES):
            of_class = torch.cat([batch["inputs"][batch["classes"] == k, 0, 0] for batch in taken]).numpy()
            first = of_class[:size]
            assert len(np.unique(first)) == len(first)
            np.testing.assert_array_equal(of_class, np.resize(first, len(of_class)))
            assert set(of_class.astype(int)) <= set(np.flatnonzero(data.train.classes == k))
        # Of the last batch alone, which is like the others in its classes; the mean over a class without rows counts as 0.
        classes = np.repeat(np.arange(4), due)
        last = classes + np.linspace(1, 2, len(classes))
        losses = np.array([last[classes == k].mean() if due[k] > 0 else 0.0 for k in range(4)])
        alpha = alpha + rate * (losses / losses.sum() - alpha)


def test_authors_losses_are_those_of_the_last_batch() -> None:
    batches = method("learn2mix-authors").batches(start_of(data_of(), task_of(batch_size=20), steps=3))
    alpha = np.array(SIZES) / sum(SIZES)
    for step, batch in enumerate(batches):
        batches.record(torch.where(batch["classes"] == 0, 1.0, 3.0) if step == 2 else 100.0 * batch["classes"])
    losses = np.array([1, 3, 3, 3])
    np.testing.assert_allclose(batches.proportions, alpha + 0.1 * (losses / 10 - alpha), rtol=1e-6)


def test_authors_proportions_stay_without_losses_and_a_class_without_rows_decays() -> None:
    batches = method("learn2mix-authors").batches(start_of(data_of(), task_of(batch_size=10), steps=2))
    before = batches.proportions
    assert before[3] * 10 < 1
    for _ in batches:
        pass
    np.testing.assert_array_equal(batches.proportions, before)
    epoch_of(batches, lambda classes: torch.zeros(len(classes)))
    np.testing.assert_array_equal(batches.proportions, before)
    iterator = iter(batches)
    batches.record(torch.ones(len(next(iterator)["classes"])))
    assert len([*iterator]) == 1  # the last batch, whose losses nobody recorded
    np.testing.assert_array_equal(batches.proportions, before)
    epoch_of(batches, lambda classes: torch.ones(len(classes)))
    assert batches.proportions[3] == pytest.approx(0.9 * before[3])


def test_authors_variant_refuses_batches_that_may_be_left_without_rows() -> None:
    authors = method("learn2mix-authors")
    assert authors.refusal(task_of(batch_size=5), data_of()) is None
    assert "may leave none" in (authors.refusal(task_of(batch_size=4), data_of()) or "")


def test_authors_batches_keep_their_proportions_when_losses_are_not_numbers() -> None:
    data = data_of()
    fields = {"inputs": data.train.inputs, "classes": data.train.classes}
    batches = AuthorsBatches(fields, 4, batch_size=20, steps=2, mixing_rate=0.1, seed=0)
    before = batches.proportions
    epoch_of(batches, lambda classes: torch.full((len(classes),), float("nan")))
    np.testing.assert_array_equal(batches.proportions, before)
