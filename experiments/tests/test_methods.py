"""Methods: names, batches, proportions and losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from l2m_experiments.methods import METHODS, Learn2Mix, method
from l2m_experiments.task import Kind, Rows
from l2m_experiments.user_input import InputError
from made_up_batches import SIZES, counts_of, data_of, epoch_of, start_of, task_of

KINDS: tuple[Kind, ...] = ("classification", "regression", "reconstruction")
# Refused combinations; all others must work.
REFUSED = {
    *product(("focal", "class-balanced-focal", "classical-post-hoc"), ("regression", "reconstruction")),
    ("smote", "regression"),
}


# ---- all methods


def test_names_are_the_keys() -> None:
    assert [make().name for make in METHODS.values()] == list(METHODS)
    assert set(METHODS) == {
        "learn2mix", "learn2mix-balanced-start", "learn2mix-every-10", "learn2mix-excess", "learn2mix-authors", "classical", "balanced",
        "effective-number", "focal", "class-balanced-focal", "smote", "importance", "curriculum", "group-dro",
        "temperature", "temperature=1.5", "temperature=3", "annealed", "progress", "held-out", "classical-post-hoc", "classical-corrected", "balanced-corrected",
        "temperature-corrected", "annealed-corrected", "annealed start=0-corrected", "annealed start=0.75-corrected", "progress-corrected",
        "held-out-corrected", "learn2mix-corrected", "learn2mix-corrected records=plain",
        "learn2mix min_share=0.01-corrected", "learn2mix-excess-corrected",
    }  # fmt: skip


def test_a_name_has_the_parameters_that_differ_from_their_defaults() -> None:
    assert Learn2Mix(mixing_rate=0.05).name == "learn2mix mixing_rate=0.05"
    assert (
        Learn2Mix(0.5, 0.01, "balanced", 50).name == "learn2mix-balanced-start-every-50 mixing_rate=0.5 min_share=0.01"
    )


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="no method 'learn2mics'; did you mean learn2mix\\?"):
        method("learn2mics")
    with pytest.raises(InputError, match=r"no method 'xyzzy'; choose from learn2mix, .*group-dro"):
        method("xyzzy")


@pytest.mark.parametrize(("name", "kind"), [*product(METHODS, KINDS)])
def test_pairs_are_refused_with_a_reason_or_deliver_batches(name: str, kind: Kind) -> None:
    """An epoch has the right number of batches, rows and targets match their classes, and the objective has a gradient."""
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


# ---- corrections


@pytest.mark.parametrize("name", [name for name in METHODS if "-corrected" in name])
def test_corrections_are_for_the_test_set_and_the_proportions_of_the_batch(name: str) -> None:
    data = data_of()
    q = np.bincount(data.test.classes, minlength=len(SIZES)) / len(data.test.classes)
    chosen = method(name)
    batches: Any = chosen.batches(start_of(data, task_of()))
    for _ in range(3):
        for batch in batches:
            offsets = chosen.outputs(torch.zeros(2, len(SIZES)))
            np.testing.assert_allclose(offsets[1], np.log(batches.batch_proportions / q), rtol=1e-5, atol=1e-6)
            assert chosen.objective(torch.tensor([1.0, 3.0]), torch.tensor([0, 1])) == 2
            batches.record(1.0 + batch["classes"])
    regression = data_of(kind="regression")
    batches = chosen.batches(start_of(regression, task_of("regression")))
    classes = next(iter(batches))["classes"]
    assert chosen.outputs(torch.zeros(2)).tolist() == [0, 0]
    got = chosen.objective(torch.ones(len(classes)), classes)
    assert got == pytest.approx(float(np.mean((q / batches.batch_proportions)[classes])), rel=1e-5)


def test_the_correction_after_training_is_for_the_test_set_and_the_training_set() -> None:
    data = data_of()
    test = data.test.map(lambda tensor: tensor[:30])
    data = replace(data, test=test)
    chosen = method("classical-post-hoc")
    batches = chosen.batches(start_of(data, task_of()))
    next(iter(batches))
    p, q = np.array(SIZES) / sum(SIZES), np.bincount(test.classes, minlength=len(SIZES)) / 30
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    assert torch.equal(chosen.outputs(logits), logits)
    adjusted = chosen.test_outputs(logits)[0]
    assert adjusted.dtype == torch.float32
    np.testing.assert_allclose(adjusted - logits[0], np.log(q / p), rtol=1e-5)
    batches.close()


# ---- mixing policies


def first_proportions(name: str) -> NDArray[np.float64]:
    return method(name).batches(start_of(data_of(), task_of())).proportions


def test_the_first_proportions_are_those_of_the_method() -> None:
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
    for name, power in (("temperature", 1 / 2), ("temperature=1.5", 2 / 3), ("temperature=3", 1 / 3)):
        np.testing.assert_allclose(first_proportions(name), n**power / (n**power).sum(), err_msg=name)
    weighed = n * (1 - 0.999) / (1 - 0.999**n)
    np.testing.assert_allclose(first_proportions("effective-number"), weighed / weighed.sum())


def test_learn2mix_uses_the_rate_of_the_protocol_by_default() -> None:
    n, losses = np.array(SIZES), 1.0 + np.arange(4)
    for chosen, rate in ((Learn2Mix(), 0.2), (Learn2Mix(mixing_rate=0.5), 0.5)):
        batches = chosen.batches(start_of(data_of(), task_of(mixing_rate=0.2)))
        epoch_of(batches, lambda classes: 1.0 + classes)
        alpha = n / n.sum()
        np.testing.assert_allclose(batches.proportions, alpha + rate * (losses / losses.sum() - alpha))


def test_learn2mix_excess_follows_what_exceeds_the_reference() -> None:
    n, data = np.array(SIZES), data_of()
    classes = data.train.classes

    def after_an_epoch(reference: torch.Tensor) -> NDArray[np.float64]:
        batches = method("learn2mix-excess").batches(start_of(data, task_of(), fit=lambda: reference))
        epoch_of(batches, lambda classes: 1.0 + classes)
        return batches.proportions

    excess = np.array([0, 0, 1, 3])
    followed = after_an_epoch(torch.tensor([1.0, 5.0, 2.0, 1.0])[classes])
    np.testing.assert_allclose(followed, n / n.sum() + 0.1 * (excess / excess.sum() - n / n.sum()))
    np.testing.assert_allclose(after_an_epoch(2.0 + classes.float()), n / n.sum())


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
    raised = np.exp(0.01 * 11 * 10 * np.arange(4))  # the last window takes effect in the next epoch
    np.testing.assert_allclose(batches.proportions, raised / raised.sum())
    batches.close()


# With four rows held out of each class, its own progress counts 4 / 34.
@pytest.mark.parametrize(("name", "share"), [("progress", 0.4), ("held-out", 0.28)])
def test_progress_follows_falling_losses_and_neither_noise_nor_what_is_learned(name: str, share: float) -> None:
    """Classes of equal size: one whose loss falls, one of noise, one that is learned and one that becomes worse."""
    data, task = data_of((40, 40, 40, 40)), task_of()
    chosen = method(name)
    batches = chosen.batches(start_of(data, task, steps=10))
    for epoch in range(1, 16):
        losses = torch.tensor([3 / epoch, 2.3, 0.01, 0.1 * epoch])

        def of(classes: torch.Tensor, losses: torch.Tensor = losses) -> torch.Tensor:
            return losses[classes]

        epoch_of(batches, of)
        chosen.end_epoch(lambda rows, of=of: of(rows.classes))  # type: ignore[misc]
        assert (batches.proportions >= 0.125).all()
    first, *others = batches.proportions
    assert first > share
    assert max(others) < 0.25
    batches.close()


def test_equal_progress_keeps_the_base_shares() -> None:
    batches = method("progress").batches(start_of(data_of(), task_of()))
    for epoch in range(1, 6):
        epoch_of(batches, lambda classes, epoch=epoch: torch.full(classes.shape, 1 / epoch))  # type: ignore[misc]
    # Except for classes that were drawn more often, whose share is discounted.
    np.testing.assert_allclose(batches.proportions, np.sqrt(SIZES) / np.sqrt(SIZES).sum(), atol=0.01)
    batches.close()


def test_rows_held_out_are_in_no_batch() -> None:
    chosen, seen = method("held-out"), list[torch.Tensor]()
    batches = chosen.batches(start_of(data_of(), task_of()))
    drawn = {
        int(i) for _ in range(20) for batch in epoch_of(batches, lambda x: 1.0 + x) for i in batch["inputs"][:, 0, 0]
    }

    def measure(rows: Rows) -> torch.Tensor:
        seen.append(rows.inputs[:, 0, 0])
        return torch.ones(len(rows.classes))

    chosen.end_epoch(measure)
    held = {int(i) for i in seen[0]}
    assert not held & drawn
    assert held | drawn == set(range(sum(SIZES)))
    classes = data_of().train.classes[sorted(held)]
    assert counts_of(classes).tolist() == [4, 2, 1, 1]
    batches.close()


# ---- losses


@given(st.lists(st.floats(0.0, 50.0, width=32), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_the_focal_loss_is_that_of_its_formula(values: list[float], seed: int) -> None:
    """The loss of cross entropies -log p is (1 - p)^2 * -log p, with and without the weights of the effective number."""
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


def test_the_focal_loss_has_a_finite_gradient_at_loss_0() -> None:
    losses = torch.tensor([0.0, 1.0], requires_grad=True)
    method("focal").objective(losses, torch.tensor([0, 1])).backward()
    assert losses.grad is not None
    p = np.exp(-1)
    np.testing.assert_allclose(losses.grad, [0, (2 * (1 - p) * p + (1 - p) ** 2) / 2], rtol=1e-6)


def test_importance_draws_halves_with_probabilities_of_their_losses() -> None:
    """Chi-square test over the six pairs of four rows. A correct program fails for one seed in a million."""
    values = np.array([1.0, 2.0, 4.0, 9.0])  # every pair has a different mean
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
def test_importance_accepts_few_losses(values: list[float], expected: float) -> None:
    """Fewer positive losses than half, a batch of one row, and a diverged run are no errors."""
    torch.manual_seed(0)
    losses = torch.tensor(values)
    assert method("importance").objective(losses, torch.zeros(len(values), dtype=torch.int64)).item() == expected
