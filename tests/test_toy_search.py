"""The search of the perceptron that overfits: its trials and its end."""

import pytest
from optuna.trial import TrialState

from stn.runs.folder import read_status
from stn.runs.history import read_run
from stn.search.history import best_trial, curve
from stn.search.studies import current
from toy import overfitting
from toy.search import SPACE, search

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # Optuna's heartbeat


def test_a_search_trains_each_trial_at_its_values(tmp_path):
    for trials in (2, 3):  # the second redoes the first
        study = search(tmp_path / "tpe", trials=trials, epochs=2)
        assert len(study.trials) == trials
    for trial in study.trials:
        run = read_run(tmp_path / "tpe" / f"trial{trial.number:04d}")
        assert read_status(run.path) == "finished"
        assert {name: run.epoch[name].iloc[-1] for name in SPACE} == trial.params
        assert trial.value == run.epoch["val_loss"].min()
    spent, best = curve(study.trials, "epochs")
    assert list(spent) == [1, 2, 3, 4, 5, 6] and best[-1] == best_trial(study.trials).value


def test_a_search_ends_with_its_seconds(tmp_path):
    study = search(tmp_path / "random", sampler="random", seconds=1e-3, epochs=2)
    (trial,) = current(study.trials)
    assert trial.state == TrialState.WAITING and len(list((tmp_path / "random").glob("trial*"))) == 1


def test_what_is_searched_is_what_is_tuned():
    assert [*SPACE] == [*overfitting.tuned().names] == [*overfitting.fixed().names]
