"""What a study has found and cost: its best trial, its curve, its table, importances."""

import math

import numpy
import pytest
from search_runs import SPACE, study_of, trial

from stn.search.budget import Budget, cost, parse_budget
from stn.search.history import best_trial, curve, importances, lowest, rows
from stn.search.studies import RUN


def mixed_study():
    """Complete, pruned, diverged (nothing told, cost in the middle of an epoch), taken up, and stopped within one."""
    return study_of(
        trial([3.0, 2.0], rate=0.1),
        trial([2.5], "pruned", rate=0.2, partial=4),
        trial([], "fail", rate=0.3, partial=5),
        trial([1.9], "fail", rate=0.4),  # its worker died
        trial([1.9, 1.5], "complete", rate=0.4, **{RUN: "trial0003"}),
        trial([1.8], "waiting", rate=0.5, partial=3),
    )


def test_the_curve_by_hand():
    """Epochs of ten steps; what comes after an epoch's end counts from the next trial on."""
    trials = mixed_study().get_trials()
    spent, best = curve(trials, "steps")
    # Trials 0: 10, 20. 1: 30, and four steps more. 2: five steps. 4: from 39 on. 5: from 59 on.
    assert spent.tolist() == [10, 20, 30, 49, 59, 69]
    assert best.tolist() == [3.0, 2.0, 2.0, 1.9, 1.5, 1.5]
    assert curve(trials, "epochs")[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert curve(trials, "seconds")[0].tolist() == [20, 40, 60, 80, 100, 120]


def test_the_curve_of_nothing_is_empty():
    assert [part.size for part in curve([], "steps")] == [0, 0]
    assert [part.size for part in curve(study_of(trial([], "fail", partial=3)).get_trials(), "steps")] == [0, 0]


def test_a_trial_that_was_taken_up_counts_once():
    trials = mixed_study().get_trials()
    assert Budget(1, "epochs").spent(trials) == 2 + 1 + 0 + 2 + 1
    assert Budget(1, "steps").spent(trials) == 20 + 14 + 5 + 20 + 13


def test_the_best_trial_is_the_lowest_of_all_epochs_whatever_became_of_it():
    assert best_trial(mixed_study().get_trials()).number == 4
    assert best_trial(study_of(trial([2.0, 3.0]), trial([1.0, 4.0], "pruned")).get_trials()).number == 1
    assert best_trial(study_of(trial([], "fail")).get_trials()) is None and best_trial([]) is None
    assert lowest(trial([2.0, 1.0, 3.0])) == 1.0 and lowest(trial([], "fail")) == math.inf


def test_the_table_has_a_row_for_each_run_and_the_same_columns_in_all():
    study = mixed_study()
    without = trial([], "fail")
    without.params, without.distributions = {}, {}  # its worker died while values were being proposed
    study.add_trial(without)
    found = rows(study.get_trials(), SPACE)
    assert [row["trial"] for row in found] == [0, 1, 2, 4, 5, 6]
    assert {tuple(row) for row in found} == {
        ("trial", "run", "from", "state", "val_loss", *cost(without), "rate", "penalty")
    }
    assert [row["run"] for row in found][3] == "trial0003"
    assert [row["state"] for row in found] == ["complete", "pruned", "fail", "complete", "waiting", "fail"]
    assert [row["val_loss"] for row in found] == [2.0, 2.5, "", 1.5, 1.8, ""]
    assert found[0]["rate"] == 0.1 and found[-1]["rate"] == ""


def test_what_decides_is_important():
    """The loss is the distance of the rate from 0.3: the penalty decides nothing."""
    random = numpy.random.default_rng(0)
    rates, penalties = random.random(40), 10 ** random.uniform(-2, 1, 40)
    states = ["complete", "pruned", "waiting", "running"] * 10
    trials = [
        trial([1 + abs(rate - 0.3)], state, rate=rate, penalty=penalty)
        for rate, penalty, state in zip(rates, penalties, states, strict=True)
    ]
    found = importances(study_of(*trials, trial([], "fail", rate=0.31)))
    assert [*found] == ["rate", "penalty"] and sum(found.values()) == pytest.approx(1)
    assert found["rate"] > 0.8


def test_few_or_equal_trials_tell_no_importances():
    assert importances(study_of(*[trial([1.0 + n], rate=n / 4) for n in range(3)])) == {}
    assert importances(study_of(*[trial([1.0], rate=0.5) for _ in range(9)])) == {}


@pytest.mark.parametrize(
    ("text", "amount", "kind"),
    [
        ("5000 steps", 5000, "steps"), ("1step", 1, "steps"), ("40epochs", 40, "epochs"), ("1 epoch", 1, "epochs"),
        ("90s", 90, "seconds"), ("30min", 1800, "seconds"), ("1.5h", 5400, "seconds"), ("1d", 86400, "seconds"),
        ("2e6steps", 2e6, "steps"),
    ],
)  # fmt: skip
def test_budgets_are_read(text, amount, kind):
    assert parse_budget(text) == Budget(amount, kind)


@pytest.mark.parametrize(
    "text", ["", "0s", "-3s", "5", "steps", "1..5h", "5 parsecs", "nan s", "inf s", "1e999s", "٣s"]
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="is no budget such as"):
        parse_budget(text)


def test_a_budget_in_words():
    assert str(Budget(2_000_000, "steps")) == "2,000,000 steps"
    assert str(Budget(0.5, "seconds")) == "0.5 seconds"
