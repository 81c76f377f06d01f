"""A study: the trials of one search, in a storage that several processes share.

A trial whose worker died is taken up again, once; one that was stopped, whenever the search goes on. Its successor in
the study has its values and its run.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from stn.errors import UserError, one_line
from stn.files import explaining_os_errors
from stn.search.space import Space, grids

SAMPLERS = ("grid", "random", "tpe", "gp", "pbt")
PRUNERS = ("none", "median", "hyperband")
HEARTBEAT = 30  # seconds between two signs of life of a trial, on a database; after two of them it is given up
JOURNAL = "study.journal"  # in a study's folder, where no other storage is given
RUN, DEATHS, COMMAND = "run", "deaths", "command"  # what trials, and the study, have as attributes

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_storage(address: str) -> BaseStorage:
    """A database by its URL, or a journal by its file. Raises UserError where it cannot be used."""
    if "://" not in address:
        path = Path(address)
        with explaining_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            return JournalStorage(JournalFileBackend(str(path)))
    try:
        return RDBStorage(address, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=take_up)
    except (ImportError, ModuleNotFoundError) as error:
        raise UserError(f"--storage {address}: {one_line(error)}: install the driver of that database") from error
    except (SQLAlchemyError, ValueError, RuntimeError) as error:
        raise UserError(f"--storage {address}: {one_line(error)}: check the address") from error


def open_study(storage: BaseStorage, name: str, command: Mapping[str, Any]) -> Study:
    """The study of this name in a storage, a new one where there is none.

    command: what the search is: its experiment, space, sampler, settings. Raises UserError for a study of another one.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        if COMMAND not in study.user_attrs:
            study.set_user_attr(COMMAND, dict(command))
        kept = study.user_attrs[COMMAND]
    except (json.JSONDecodeError, KeyError, ValueError, SQLAlchemyError) as error:
        raise UserError(f"the storage holds no study of this version ({one_line(error)}): give another") from error
    refuse_other(name, kept, json.loads(json.dumps(command)))
    return study


def load_study(storage: BaseStorage, name: str) -> Study:
    """The study of this name, to be read. Raises UserError where there is none."""
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except (json.JSONDecodeError, KeyError, ValueError, SQLAlchemyError) as error:
        raise UserError(f"the storage holds no study {name} of this version ({one_line(error)}): check both") from error


def refuse_other(name: str, kept: Mapping[str, Any], command: Mapping[str, Any]) -> None:
    """Raise UserError where a study was begun by another command."""
    for key in [*command, *kept]:
        if kept.get(key) != command.get(key):
            was, now = (one_line(json.dumps(of.get(key)), 60) for of in (kept, command))
            raise UserError(
                f"the study {name} is another search ({key} {was}, not {now}): give the same flags, or another --study"
            )


def make_sampler(name: str, seed: int, space: Space, grid_points: int = 3, startup_trials: int = 10) -> BaseSampler:
    """seed: for a grid, the same for all trials, otherwise one for each.

    startup_trials: drawn at random, before tpe and gp learn from them.
    """
    if name == "grid":
        return GridSampler(grids(space, grid_points), seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=startup_trials, constant_liar=True)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup_trials)
    return RandomSampler(seed=seed)


def make_pruner(name: str, epochs: int) -> BasePruner:
    """epochs: of a trial that is not pruned."""
    if name == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 4)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return NopPruner()


def run_of(trial: FrozenTrial | optuna.Trial) -> str:
    """The name of a trial's run: its number, or that of the trial that it takes up."""
    return trial.user_attrs.get(RUN, f"trial{trial.number:04d}")


def take_up(study: Study, trial: FrozenTrial, died: bool = True) -> bool:
    """Have a trial that has failed run again, from its run's checkpoint; whether it will. died: its worker has."""
    deaths = trial.user_attrs.get(DEATHS, 0) + died
    if deaths > 1:
        return False
    attributes = {**trial.user_attrs, RUN: run_of(trial), DEATHS: deaths}
    copied = {"params": trial.params, "distributions": trial.distributions, "system_attrs": trial.system_attrs}
    copied["intermediate_values"] = trial.intermediate_values
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes, **copied))
    return True


def take_up_dead(study: Study, storage: BaseStorage, is_dead: Callable[[FrozenTrial], bool]) -> list[FrozenTrial]:
    """Fail the running trials that are dead, and take them up again; which these were.

    Processes must do so one after another.
    """
    dead = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if is_dead(trial)]
    identifier = storage.get_study_id_from_name(study.study_name)
    for trial in dead:
        own = storage.get_trial_id_from_study_id_trial_number(identifier, trial.number)
        storage.set_trial_state_values(own, state=TrialState.FAIL)
        take_up(study, trial)
    return dead


def current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials but those that others have taken up: each run once."""
    last = {run_of(trial): trial.number for trial in trials}
    return [trial for trial in trials if last[run_of(trial)] == trial.number]
