"""Workers that share a study on a real PostgreSQL server, one of which is killed."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from lstm_runs import write_corpus
from search_runs import finish, start, table, wait_until
from test_resume import rows

from stn.search.storages import open_storage
from stn.search.studies import DEATHS, RUN

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of the heartbeat
HEARTBEAT = 1  # seconds; a trial is given up after two of them
EPOCHS = 25
FLAGS = ("--sampler", "random", "--epochs", EPOCHS, "--patience", EPOCHS, "--checkpoint_seconds", 0.02)


def binaries():
    """Where PostgreSQL's programs lie, those of the newest version; None where there are none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    found = versions[-1] if versions else Path(shutil.which("initdb") or "/nowhere/initdb").parent
    return found if (found / "initdb").exists() else None


@pytest.fixture(scope="module")
def server():
    """The URL of a server of its own, which lives in a temporary folder; it does not run as root."""
    pytest.importorskip("psycopg2", reason="needs psycopg2, PostgreSQL's driver")
    programs = binaries()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs")
    folder = Path(tempfile.mkdtemp(prefix="stn"))  # pytest's own can be entered by its user alone
    another = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if another:
        shutil.chown(folder, "nobody", "nogroup")

    def do(program, *argv):
        command = [programs / program, "-D", folder / "data", *argv]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **another)

    try:
        do("initdb", "--auth=trust", "--username=stn", "--no-sync")
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        do("pg_ctl", "--wait", "--log", folder / "log", "-o", options, "start")
        yield f"postgresql+psycopg2://stn@/postgres?host={folder}"
        do("pg_ctl", "--mode=immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def begin(corpus, tmp_path, server):
    def command(*flags, name="random"):
        given = ("--storage", server, "--study", name, *FLAGS, *flags)
        return start(corpus, tmp_path, *given, heartbeat=HEARTBEAT)

    return command


def trials_of(server, name):
    storage = open_storage(server)
    return storage.get_all_trials(storage.get_study_id_from_name(name))


def test_a_killed_workers_trial_is_taken_up_by_another_once_its_heart_has_stopped(begin, server, tmp_path, corpus):
    run = tmp_path / "killed" / "trial0000"
    first = begin("--trials", 3, name="killed")
    wait_until(lambda: (run / "epoch.csv").exists() and (run / "epoch.csv").read_bytes().count(b"\n") > 4, first)
    second = begin("--trials", 3, name="killed")
    os.kill(first.pid, signal.SIGKILL)
    assert finish(first) == -signal.SIGKILL
    assert len(rows(run / "epoch.csv")) < EPOCHS
    assert finish(second) == 0
    time.sleep(2 * HEARTBEAT + 0.5)  # in case the others were done before the first was given up
    assert finish(begin("--trials", 3, name="killed")) == 0
    trials = trials_of(server, "killed")
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 3 + ["FAIL"]
    assert trials[0].state.name == "FAIL"
    (again,) = [trial for trial in trials if RUN in trial.user_attrs]
    assert again.user_attrs[RUN] == "trial0000" and again.user_attrs[DEATHS] == 1
    assert again.params == trials[0].params
    assert len(table(tmp_path / "killed")) == 3
    # As one on a journal that was left alone: no row twice, and bit for bit the same.
    assert finish(start(corpus, tmp_path / "alone", *FLAGS, "--trials", 1)) == 0
    alone = tmp_path / "alone" / "random" / "trial0000"
    for file in ("epoch.csv", "result.csv"):
        assert rows(run / file) == rows(alone / file)


def test_two_workers_on_a_database_run_each_trial_once(begin, server, tmp_path):
    workers = [begin("--trials", 5, "--epochs", 2, name="both") for _ in range(2)]
    assert [finish(worker) for worker in workers] == [0, 0]
    assert [trial.state.name for trial in trials_of(server, "both")] == ["COMPLETE"] * 5
    for row in table(tmp_path / "both"):
        assert len(rows(tmp_path / "both" / row["run"] / "epoch.csv")) == 2


def test_an_interrupted_trial_waits_for_the_next_worker(begin, server, tmp_path):
    worker = begin("--trials", 1, name="stopped")
    run = tmp_path / "stopped" / "trial0000"
    wait_until(lambda: (run / "epoch.csv").exists(), worker)
    os.kill(worker.pid, signal.SIGINT)
    assert finish(worker) == 130
    assert [trial.state.name for trial in trials_of(server, "stopped")] == ["FAIL", "WAITING"]
    assert finish(begin("--trials", 1, name="stopped")) == 0
    assert [trial.state.name for trial in trials_of(server, "stopped")] == ["FAIL", "COMPLETE"]
    assert len(rows(run / "epoch.csv")) == EPOCHS
