"""What the tests of black-box search share: made-up studies, and what searches leave."""

import csv
import multiprocessing
import sys
import time

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from lstm import search
from stn.figures import search as figures
from stn.scripts.signals import end_by_signals
from stn.search import storages
from stn.search.budget import BY_EPOCH
from stn.search.space import Range

SPACE = {"rate": Range(0.0, 1.0), "penalty": Range(0.01, 10.0, log=True)}
DISTRIBUTIONS = {"rate": FloatDistribution(0.0, 1.0), "penalty": FloatDistribution(0.01, 10.0, log=True)}
STATES = {state.name.lower(): state for state in TrialState}


def trial(losses=(), state="complete", rate=0.5, penalty=1.0, steps=None, partial=0, **attributes):
    """A trial with these validation losses, of epochs of ten steps; partial: steps of an epoch that did not end."""
    whole = 10 * len(losses)
    cost = {"steps": whole + partial if steps is None else steps, "epochs": len(losses), "seconds": 2.0 * whole}
    by_epoch = {BY_EPOCH: {"steps": whole, "epochs": len(losses), "seconds": 2.0 * whole}} if losses else {}
    values = {"rate": rate, "penalty": penalty}
    return create_trial(
        state=STATES[state],
        value=min(losses) if state == "complete" else None,
        params=values,
        distributions=DISTRIBUTIONS,
        intermediate_values=dict(enumerate(losses, start=1)),
        user_attrs={**cost, **by_epoch, **attributes},
    )


def study_of(*trials):
    study = optuna.create_study()
    for own in trials:
        study.add_trial(own)
    return study


def journal(folder, name="random"):
    """A study in a folder's journal, and its storage."""
    storage = storages.open_storage(str(folder / "study.journal"))
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True), storage


def trials_of(folder, name):
    """All trials of the study in its folder below a search's, those that others have taken up too."""
    return journal(folder / name, name)[0].get_trials()


def table(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


FIGURES = ("best_so_far", "parallel_coordinates", "importance")


@pytest.fixture(name="no_figures")
def no_figures_fixture(monkeypatch):
    """Searches draw no figures, which takes longer than their runs."""
    for name in FIGURES:
        monkeypatch.setattr(figures, name, lambda *_: None)


# A server that has imported everything once and forks from then on, so that a process starts in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["search_runs", "lstm.search", "torch._dynamo", "torch.utils.tensorboard"])
TINY = "--dtype float32 --emsize 4 --nhid 5 --batch_size 4 --bptt 6 --lr 1 --threads 1 --disable_cuda"
PATIENCE = 600  # seconds after which a process counts as stuck


def start(corpus, folder, *flags, heartbeat=None):
    """A worker of lstm/search.py on a tiny network, its studies in a folder, as a process."""
    argv = [str(word) for word in ("--data", corpus, "--save_dir", folder, *TINY.split(), *flags)]
    made = PROCESSES.Process(target=execute, args=(argv, heartbeat), daemon=True)
    made.start()
    return made


def finish(process):
    """Wait for a process to end; its exit status."""
    process.join(PATIENCE)
    return process.exitcode


def wait_until(condition, process):
    """Wait until the condition holds or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def execute(argv, heartbeat):
    """A search's command line, that draws no figures. heartbeat: seconds between two signs of life."""
    for name in FIGURES:
        setattr(figures, name, lambda *_: None)
    storages.HEARTBEAT = heartbeat or storages.HEARTBEAT
    end_by_signals()
    sys.exit(search.main(argv))
