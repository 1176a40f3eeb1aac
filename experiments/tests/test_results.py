"""Results computed from records, and their tables, on made-up records with known results."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from l2m_experiments import tables
from l2m_experiments.results import FRACTIONS, MAIN_RIVALS, Axis, by_task
from l2m_experiments.statistics import equivalent, not_worse
from l2m_experiments.task import Kind
from made_up_runs import around, only, run, runs

# ---- curves and their ends


def test_the_error_at_a_time_is_that_of_the_last_point_before_it() -> None:
    task = only(run([90, 40, 30, 20, 10], seconds=2.0))
    assert (task.epochs, task.seconds) == (4, 8)
    at = [task.errors("learn2mix", axis, f)[0] for axis in (Axis.EPOCHS, Axis.SECONDS) for f in (0.1, 0.25, 0.49, 1.0)]
    assert at == [90, 40, 40, 10] * 2
    assert task.errors("learn2mix", Axis.EPOCHS, 1, "worst_class_error")[0] == 20


def test_methods_are_compared_while_all_of_them_still_train() -> None:
    slow = runs("classical", [[9, 8, 7, 6], [9, 8, 7, 6, 5], [9, 8, 7, 6, 5, 4]], seconds=3.0)
    fast = runs("learn2mix", [[9, 8, 7, 6, 5, 4, 3]] * 3, seconds=1.0)
    task = only(*slow, *fast)
    assert (task.epochs, task.seconds) == (3, 6)
    np.testing.assert_array_equal(task.errors("classical", Axis.SECONDS, 1), [7, 7, 7])
    np.testing.assert_array_equal(task.errors("learn2mix", Axis.SECONDS, 1), [3, 3, 3])


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4))
def test_at_the_end_of_the_seconds_half_the_runs_of_every_method_still_train(lengths: list[list[int]]) -> None:
    task = only(*(run([1.0] * (n + 1), f"m{i}", seed) for i, of in enumerate(lengths) for seed, n in enumerate(of)))
    assert task.epochs == min(map(min, lengths))
    for of in lengths:
        assert sum(n >= task.seconds for n in of) >= len(of) / 2


def test_warm_up_shifts_a_curve_and_before_it_ends_the_initial_model_counts() -> None:
    task = only(run([90, 50, 40, 30, 20], "curriculum", warm_up=2.0), run([90, 50, 40, 30, 20]))
    assert task.axes == tuple(Axis)
    assert [task.errors("curriculum", Axis.WARM_UP, f)[0] for f in FRACTIONS] == [90, 90, 40]
    assert [task.errors("learn2mix", Axis.WARM_UP, f)[0] for f in FRACTIONS] == [50, 40, 20]
    assert [task.errors("curriculum", Axis.SECONDS, f)[0] for f in FRACTIONS] == [50, 40, 20]


def test_a_warm_up_of_less_than_a_hundredth_is_no_axis_of_its_own() -> None:
    assert only(run([9, 8], warm_up=0.009)).axes == (Axis.EPOCHS, Axis.SECONDS)
    assert only(run([9, 8], warm_up=0.01)).axes == tuple(Axis)


def test_a_diverged_run_leaves_its_comparisons_untested() -> None:
    task = only(*runs("learn2mix", around(20)), *runs("classical", [*around(25, 2), [90.0, 50.0, math.nan]]))
    at_the_end = [c.verdict for c in task.compare(Axis.EPOCHS) if c.fraction == 1]
    assert at_the_end == ["untested"]
    assert not task.valid
    ours, classical = tables.errors(task, "test_error", [Axis.EPOCHS]).rows
    assert ours[3] == "80.00 ± 0.25"
    assert classical[3] == "diverged (1 of 3)"
    comparisons = tables.comparisons(task, "test_error", [Axis.EPOCHS])
    assert comparisons is not None
    assert comparisons.rows[0][3] == "untested: a run diverged"
    assert tables.time_to_target(task) is None


# ---- verdicts


def test_clear_differences_are_wins_and_losses_and_small_ones_ties() -> None:
    records = [
        *runs("learn2mix", around(20)),
        *runs("classical", around(25)[::-1]),  # otherwise the differences have no spread
        *runs("balanced", around(15)[::-1]),
        *runs("focal", around(20.05)[::-1]),
    ]
    task = only(*records)
    at_the_end = {c.rival: c for c in task.compare(Axis.EPOCHS) if c.fraction == 1}
    assert {name: c.verdict for name, c in at_the_end.items()} == {
        "classical": "wins", "balanced": "loses", "focal": "ties",
    }  # fmt: skip
    assert at_the_end["classical"].advantage == pytest.approx(5)
    assert at_the_end["classical"].effect > 10
    assert at_the_end["balanced"].effect < -10
    # Before the end there is no spread at all: untested, but of the family of six, or of three for the other methods.
    assert at_the_end["classical"].p == pytest.approx(min(6 * at_the_end["classical"].p_alone, 1), rel=0.2)
    assert at_the_end["focal"].p == pytest.approx(min(3 * at_the_end["focal"].p_alone, 1))
    assert at_the_end["classical"].p_ranks == 0.25  # the least for three seeds
    assert {c.verdict for c in task.compare(Axis.EPOCHS) if c.fraction < 1} == {"untested"}


def test_one_seed_has_no_interval_and_no_verdict() -> None:
    task = only(run([90, 10], "learn2mix"), run([90, 29], "classical"))
    assert {c.verdict for axis in Axis for c in task.compare(axis)} == {"untested"}
    assert tables.errors(task, "test_error", [Axis.EPOCHS]).rows[0][1:] == ("10.00", "10.00", "90.00")  # accuracies
    comparisons = tables.comparisons(task, "test_error", [Axis.EPOCHS])
    assert comparisons is not None
    assert comparisons.rows == (("classical", *["untested: +0.00"] * 2, "untested: +19.00"),)


def test_equal_methods_differ_significantly_in_at_most_5_percent_of_the_families() -> None:
    """Holm bounds the share of families with any false verdict: that of the main rivals, and that of the others."""
    rng = np.random.default_rng(0)
    alarms, tasks = 0, 300
    for _ in range(tasks):
        records = [
            run([90.0, *rng.normal(20, spread, 4)], method, seed)
            for method, spread in (("learn2mix", 1), ("classical", 1), ("balanced", 3), ("focal", 0.5))
            for seed in range(5)
        ]
        wrong = {
            c.rival in MAIN_RIVALS["learn2mix"] for c in only(*records).compare(Axis.EPOCHS) if c.verdict != "ties"
        }
        alarms += len(wrong)
    assert alarms / (2 * tasks) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (2 * tasks))


def test_methods_are_compared_by_the_seeds_that_both_have() -> None:
    ours, theirs = around(20, 4), around(25, 4)[::-1]
    records = [run(errors, "learn2mix", seed) for seed, errors in enumerate(ours)]
    records += [run(errors, "classical", seed) for seed, errors in enumerate(theirs, start=1)]
    comparison = only(*records).compare(Axis.EPOCHS)[-1]
    differences = [theirs[seed - 1][-1] - ours[seed][-1] for seed in (1, 2, 3)]
    assert comparison.advantage == pytest.approx(np.mean(differences))
    assert comparison.p_alone == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_a_study_of_variants_is_compared_with_classical_training() -> None:
    rates = [f"learn2mix mixing_rate={rate}" for rate in (0.01, 0.05)]
    task = only(*(record for method in (*rates, "classical") for record in runs(method, around(20))))
    assert list(task.runs) == [*rates, "classical"]
    assert task.subject == "classical"
    assert {(c.method, c.rival) for c in task.compare(Axis.EPOCHS)} == {(rate, "classical") for rate in rates}
    assert only(run([9, 8])).subject is None
    assert only(run([9, 8], "focal"), run([9, 8], "balanced")).compare(Axis.EPOCHS) == ()


def test_methods_without_a_common_seed_are_not_compared() -> None:
    task = only(*runs("learn2mix", around(20)), *(run(errors, "classical", 9) for errors in around(25, 1)))
    assert task.compare(Axis.EPOCHS) == ()
    assert tables.comparisons(task, "test_error", [Axis.EPOCHS]) is None


@pytest.mark.parametrize(("final", "valid"), [(30.0, True), (30.1, False), (math.nan, False)])
def test_comparisons_are_valid_only_if_classical_training_learned(final: float, valid: bool) -> None:
    task = only(run([90, final], "classical"), run([90, 1]))
    assert task.valid is valid
    assert (tables.findings([task], "test_error", Axis.EPOCHS) is not None) is valid
    assert tables.overview([task]).rows[0][-1] == ("yes" if valid else "NO")
    (advantage,) = {row[5].split(":")[0] for row in tables.headline([task]).rows if row[1] == "classical"}
    assert (advantage != "not valid") is (valid or math.isnan(final))


def test_comparisons_without_classical_training_are_not_valid() -> None:
    task = only(run([90, 1]), run([90, 2], "balanced"))
    assert not task.valid
    assert tables.time_to_target(task) is None


def test_the_first_table_says_who_wins_by_how_much_and_how_sure_that_is() -> None:
    records = [
        *runs("learn2mix", around(20), task="easy"),
        *runs("classical", around(25)[::-1], task="easy"),
        *runs("focal", around(20), task="easy"),
        *runs("learn2mix", around(0.2), task="hard", kind="regression", learned=1.0),
        *runs("classical", around(0.1)[::-1], task="hard", kind="regression", learned=1.0),
    ]
    table = tables.headline(by_task(records))
    # 0.248 is t(0.975, 2) * 0.1 / sqrt(3), and the differences of a seed spread by 0.2.
    assert [(row[0], row[1], *row[4:6]) for row in table.rows] == [
        ("easy, %", "learn2mix", "80.00 ± 0.25", "-"),
        ("", "classical", "75.00 ± 0.25", "wins: +5.00 ± 0.50"),
        ("hard, MSE", "learn2mix", "0.200 ± 0.248", "-"),
        ("", "classical", "0.100 ± 0.248", "-0.100 ± 0.497"),
    ]
    assert "learn2mix is than the method of the row" in table.about
    assert [row[1] for row in tables.headline([only(*records[:9])]).rows] == ["learn2mix", "classical", "focal"]


def test_findings_list_every_significant_difference_and_count_the_rest() -> None:
    records = [
        record
        for task, theirs in (("easy", 25), ("hard", 15))
        for record in (*runs("learn2mix", around(20), task=task), *runs("classical", around(theirs)[::-1], task=task))
    ]
    records += runs("focal", around(20.01)[::-1], task="easy")
    assert tables.findings(by_task(records), "test_error", Axis.EPOCHS) == (
        "Test error at equal epochs, all methods: 9 comparisons, 1 wins, 1 losses, 1 ties, 6 untested."
        " Wins: learn2mix over classical on easy (E). Losses: learn2mix to classical on hard (E)."
    )


def test_in_a_study_of_variants_the_first_table_compares_each_with_classical_training() -> None:
    task = only(*runs("learn2mix mixing_rate=0.5", around(20)), *runs("classical", around(25)[::-1]))
    variant, classical = tables.headline([task]).rows
    assert variant[5] == "wins: +5.00 ± 0.50"
    assert classical[5] == "-"


def test_the_recommended_method_is_compared_if_it_was_run_first_of_all_with_its_own_rivals() -> None:
    others = {"learn2mix": 20.2, "balanced": 20.0, "classical": 25.0, "focal": 19.9}
    task = only(
        *runs("annealed-corrected", around(15)),
        *(record for method, theirs in others.items() for record in runs(method, around(theirs)[::-1])),
    )
    assert task.subject == "annealed-corrected"
    assert set(task.main_methods) == {"annealed-corrected", "learn2mix", "balanced", "classical"}
    compared = {c.other: c for c in task.compare(Axis.EPOCHS) if c.fraction == 1}
    assert {c.method for c in compared.values()} == {"annealed-corrected"}
    assert [compared[other].advantage for other in others] == pytest.approx([5.2, 5, 10, 4.9])
    # A NaN counts, so that each of the two families has three places for each of its two methods.
    for family in (("learn2mix", "balanced"), ("classical", "focal")):
        alone = sorted(compared[other].p_alone for other in family)
        assert sorted(compared[other].p for other in family) == pytest.approx(
            [6 * alone[0], max(6 * alone[0], 5 * alone[1])]
        )


def test_ties_within_the_margin_are_called_equivalent_or_not_worse() -> None:
    task = only(
        *runs("learn2mix", around(20)),
        *runs("classical", around(20.01)[::-1]),
        *runs("focal", [[90, 50, 20.0], [90, 50, 20.2], [90, 50, 21.3]]),
        *runs("smote", [[90, 50, 15.0], [90, 50, 25.2], [90, 50, 20.3]]),
    )
    table = tables.comparisons(task, "test_error", [Axis.EPOCHS])
    assert table is not None
    assert {row[0]: row[3].split(":")[0] for row in table.rows} == {
        "classical": "equivalent",
        "focal": "not worse",
        "smote": "ties",
    }


@pytest.mark.parametrize(("kind", "margin"), [("classification", 1.0), ("regression", 0.03 * 20.01)])
def test_margins_are_a_point_of_accuracy_or_a_share_of_the_squared_error(kind: Kind, margin: float) -> None:
    ours, theirs = around(20), around(20.01)[::-1]
    task = only(*runs("learn2mix", ours, kind=kind), *runs("classical", theirs, kind=kind))
    c = task.compare(Axis.EPOCHS)[-1]
    rival, method = (np.array([errors[-1] for errors in of_seeds]) for of_seeds in (theirs, ours))
    assert c.p_not_worse == pytest.approx(not_worse(rival, method, margin))
    assert c.p_equivalent == pytest.approx(equivalent(rival, method, margin))


def test_advantages_are_averaged_over_the_valid_tasks() -> None:
    records = [
        record
        for task, theirs, learned in (("a", 25.0, 30.0), ("b", 40.0, 50.0), ("c", 80.0, 30.0))
        for record in (
            *runs("learn2mix", around(20), task=task, learned=learned),
            *runs("classical", around(theirs)[::-1], task=task, learned=learned),
        )
    ]
    table = tables.over_tasks(by_task(records))
    assert table is not None
    ((method, rival, count, *cells),) = table.rows
    assert (method, rival, count) == ("learn2mix", "classical", "2")
    assert cells[2] == "+35.0 (+20.0 .. +50.0)"  # 20 % and 50 % of the rival's error
    assert tables.over_tasks(by_task(records[:6])) is None


def test_the_macro_error_is_a_measure_if_the_test_set_is_unbalanced() -> None:
    made = run([90, 30, 20], names=("0", "1", "2"))
    assert made.points[-1].macro_error == pytest.approx(30)
    assert only(made).measures == ("test_error", "macro_error", "worst_class_error")
    assert only(replace(made, test_class_sizes=(7, 7, 7))).measures == ("test_error", "worst_class_error")


def test_the_summary_has_every_mean_and_comparison() -> None:
    records = [
        *runs("learn2mix", around(20), warm_up=2.0),
        *runs("classical", [*around(25, 2), [90.0, 50.0, math.nan]]),
    ]
    task = only(*records)
    rows = list(csv.DictReader(tables.summary({"one": [task], "two": [task]}).splitlines()))
    assert len(rows) == 2 * 2 * len(task.axes) * (3 + 3 + 1)  # studies, methods, axes, fractions of all measures
    ours, classical = (row for row in rows[:6] if row["fraction"] == "1")
    assert (ours["study"], ours["task"], ours["axis"], ours["mean"]) == ("one", "made-up", "epochs", "80")
    assert (classical["mean"], classical["against"], classical["verdict"]) == ("", "classical", "not valid")
    assert classical["compared"] == "learn2mix"


# ---- time, costs, environment


def test_the_time_to_a_target_is_that_of_the_first_point_that_reaches_it() -> None:
    task = only(
        *runs("classical", [[90, 50, 20], [90, 50, 30]], seconds=2.0),
        *runs("learn2mix", [[90, 25, 40, 10], [90, 50, 25, 10], [90, 50, 40, 26]], warm_up=0.5),
    )
    assert task.target == 25
    ours, classical = (task.reached(method, 25) for method in ("learn2mix", "classical"))
    assert (ours.runs, ours.reached, ours.epochs, ours.seconds, ours.seconds_with_warm_up) == (3, 2, 2, 2, 2.5)
    assert (classical.reached, classical.epochs) == (1, math.inf)
    table = tables.time_to_target(task)
    assert table is not None
    assert "75.00 %" in table.title
    assert table.rows == (
        ("learn2mix", "2 of 3", "2", "2.00", "2.50"),
        ("classical", "1 of 2", "not reached", "not reached", "not reached"),
    )


def test_costs_are_split_into_data_and_compute() -> None:
    (row,) = tables.costs(only(run([9, 8, 7], seconds=0.4, warm_up=3.0))).rows
    assert row == ("learn2mix", "400", "100", "300", "3.00")


def test_the_figures_of_the_paper_are_columns_beside_ours() -> None:
    task = only(run([90, 10], paper={"0.25E": {"learn2mix": (95.42, 0.28)}, "E": {"smote": (1.0, 0.0)}}))
    table = tables.errors(task, "test_error", [Axis.EPOCHS])
    assert table.header[4:] == ("paper, 0.25E",)  # the only figure for E is of a method that was not run here
    assert table.rows[0][4:] == ("95.42 ± 0.28",)
    assert "Budget, preset and hardware differ" in table.about
    assert "paper" not in "".join(tables.errors(task, "worst_class_error", [Axis.EPOCHS]).header)


def test_entries_of_the_environment_that_differ_are_listed_with_their_runs() -> None:
    records = [run([9, 8], seed=seed, environment={"torch": "2.1", "cpu": f"cpu {seed % 2}"}) for seed in range(3)]
    assert tables.differing(records) == ["cpu"]
    assert ("cpu", "cpu 0 (2 runs); cpu 1 (1 run)") in tables.environment(records).rows
    dates = [run([9, 8], seed=seed, environment={"date": f"2026-11-2{seed}"}) for seed in range(6)]
    assert tables.differing(dates) == []
    assert ("date", "2026-11-20 .. 2026-11-25 (6 different)") in tables.environment(dates).rows


def test_every_refused_combination_is_listed_with_its_reason() -> None:
    rows = tables.refused().rows
    assert {("smote", "token ids"), ("focal", "regression")} <= {row[:2] for row in rows}
    assert all(reason for *_, reason in rows)
