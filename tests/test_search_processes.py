"""Workers of one study as processes: killed, interrupted, several at once; no trial is lost, nor run twice."""

import os
import signal

import pytest
import torch
from lstm_runs import write_corpus
from search_runs import finish, start, table, trials_of, wait_until
from test_resume import rows

from stn.runs.checkpoints import read_checkpoint
from stn.runs.events import EVENT_FILES
from stn.search.studies import DEATHS, LEFT, run_of

EPOCHS = 25


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def begin(corpus):
    """begin(folder, *flags): a worker as a process."""

    def command(folder, *flags, trials=1):
        limits = ("--epochs", EPOCHS, "--patience", EPOCHS, "--checkpoint_seconds", 0.02, "--trials", trials)
        return start(corpus, folder, "--sampler", "random", *limits, *flags)

    return command


@pytest.fixture(scope="module")
def alone(begin, tmp_path_factory):
    """The run of a trial that was left alone."""
    folder = tmp_path_factory.mktemp("alone")
    assert finish(begin(folder)) == 0
    return folder / "random" / "trial0000"


def epochs_of(folder, run="trial0000"):
    path = folder / "random" / run / "epoch.csv"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def kill_after(process, folder, epochs, number=signal.SIGKILL, run="trial0000"):
    """Send a worker a signal when its trial has done so many epochs; its exit status."""
    wait_until(lambda: epochs_of(folder, run) >= epochs, process)
    os.kill(process.pid, number)
    return finish(process)


def states(folder):
    return [trial.state.name for trial in trials_of(folder, "random")]


def assert_same_end(run, other):
    """Bit for bit, but for the time."""
    assert rows(run / "epoch.csv") == rows(other / "epoch.csv") and len(rows(run / "epoch.csv")) == EPOCHS
    assert rows(run / "result.csv") == rows(other / "result.csv")
    ours, theirs = read_checkpoint(run).state["model"], read_checkpoint(other).state["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (run / "status").read_text() == "finished\n"


def test_a_killed_workers_trial_is_taken_up_from_its_checkpoint(begin, alone, tmp_path):
    assert kill_after(begin(tmp_path), tmp_path, 4) == -signal.SIGKILL
    run = tmp_path / "random" / "trial0000"
    assert states(tmp_path) == ["RUNNING"] and (run / "status").read_text() == "running\n"
    assert len(rows(run / "epoch.csv")) < EPOCHS
    before = read_checkpoint(run).state["epoch"]
    assert finish(begin(tmp_path)) == 0
    assert before > 0 and len([*run.glob(EVENT_FILES)]) == 2  # one each time that it was started or resumed
    assert_same_end(run, alone)
    assert states(tmp_path) == ["FAIL", "COMPLETE"]
    first, second = trials_of(tmp_path, "random")
    assert second.params == first.params and run_of(second) == "trial0000" and second.user_attrs[DEATHS] == 1
    assert second.value == trials_of(alone.parents[1], "random")[0].value
    (row,) = table(tmp_path / "random")
    assert float(row["steps"]) == read_checkpoint(run).state["train_step"]
    assert not (tmp_path / "random" / "trial0001").exists()


def test_a_second_death_is_the_last(begin, tmp_path):
    assert kill_after(begin(tmp_path), tmp_path, 2) == -signal.SIGKILL
    assert kill_after(begin(tmp_path), tmp_path, epochs_of(tmp_path) + 3) == -signal.SIGKILL
    far = epochs_of(tmp_path)
    assert far < EPOCHS
    assert finish(begin(tmp_path)) == 0
    assert states(tmp_path) == ["FAIL", "FAIL"] and epochs_of(tmp_path) == far
    assert [row["state"] for row in table(tmp_path / "random")] == ["fail"]


def test_an_interrupted_trial_goes_on_each_time_and_ends_as_one_left_alone(begin, alone, tmp_path):
    for interruption in range(3):
        assert kill_after(begin(tmp_path), tmp_path, 3 + 3 * interruption, signal.SIGINT) == 130
        run = tmp_path / "random" / "trial0000"
        assert (run / "status").read_text() == "interrupted\n"
        assert states(tmp_path) == ["FAIL"] * (interruption + 1) + ["WAITING"]
        assert table(tmp_path / "random")[0]["state"] == "waiting"
    assert finish(begin(tmp_path)) == 0
    assert_same_end(run, alone)
    assert trials_of(tmp_path, "random")[-1].user_attrs[DEATHS] == 0


def test_sigterm_ends_a_worker_as_gracefully(begin, tmp_path):
    assert kill_after(begin(tmp_path), tmp_path, 1, signal.SIGTERM) == 128 + signal.SIGTERM
    assert states(tmp_path) == ["FAIL", "WAITING"]
    assert LEFT not in trials_of(tmp_path, "random")[-1].user_attrs


def test_several_workers_run_each_trial_once_and_together_no_more_than_asked_for(begin, tmp_path):
    workers = [begin(tmp_path, "--epochs", 2, trials=7) for _ in range(2)]
    assert [finish(worker) for worker in workers] == [0, 0]
    assert states(tmp_path) == ["COMPLETE"] * 7
    assert [row["run"] for row in table(tmp_path / "random")] == [f"trial{number:04d}" for number in range(7)]
    for row in table(tmp_path / "random"):
        run = tmp_path / "random" / row["run"]
        assert len([*run.glob(EVENT_FILES)]) == 1 and len(rows(run / "epoch.csv")) == 2


def test_the_other_worker_takes_up_what_a_dead_one_has_left(begin, alone, tmp_path):
    first = begin(tmp_path, trials=3)
    wait_until(lambda: epochs_of(tmp_path) > 1, first)
    second = begin(tmp_path, trials=3)
    assert kill_after(first, tmp_path, 4) == -signal.SIGKILL
    assert finish(second) == 0
    assert states(tmp_path).count("COMPLETE") == 3 and states(tmp_path).count("FAIL") == 1
    assert_same_end(tmp_path / "random" / "trial0000", alone)
    assert len(table(tmp_path / "random")) == 3
