"""A study: the trials of one search, in a storage that several processes share.

A trial whose worker died is taken up again, once; one that was stopped, whenever the search goes on. Its successor in
the study has its values and its run.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from stn.errors import UserError, one_line
from stn.search.space import Space, grids

SAMPLERS = ("grid", "random", "tpe", "gp", "pbt")
PRUNERS = ("none", "median", "hyperband")
COMMAND = "command"  # what the study has as an attribute
# What trials have: the name of a run that goes on, how often its workers have died, the machine that it is on, and why
# a trial that has failed was left: its worker died, or was stopped.
RUN, DEATHS, HOST, LEFT = "run", "deaths", "host", "left"
DIED, STOPPED = "died", "stopped"
MOST_POINTS = 100_000  # of a grid

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(storage: BaseStorage, name: str, command: Mapping[str, Any]) -> Study:
    """The study of this name in a storage, a new one where there is none. Processes must do so one after another.

    command: what the search is: its experiment, space, sampler, settings. Raises UserError for a study of another one.
    """
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    if COMMAND not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {name} is none of this script: give another --study, or another --storage")
        study.set_user_attr(COMMAND, dict(command))
    refuse_other(name, study.user_attrs[COMMAND], json.loads(json.dumps(command)))
    return study


def load_study(storage: BaseStorage, name: str) -> Study:
    """The study of this name, to be read. Raises UserError where there is none."""
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        raise UserError(f"the storage holds no study {name}: check both") from error


def refuse_other(name: str, kept: Mapping[str, Any], command: Mapping[str, Any]) -> None:
    """Raise UserError where a study was begun by another command."""
    for key in [*command, *kept]:
        if kept.get(key) != command.get(key):
            was, now = (one_line(json.dumps(of.get(key)), 60) for of in (kept, command))
            raise UserError(
                f"the study {name} is another search ({key} {was}, not {now}): give the same flags, or another --study"
            )


def make_sampler(
    name: str, seed: tuple[int, int], space: Space, grid_points: int = 3, startup_trials: int = 10
) -> BaseSampler:
    """seed: the search's, and the trial's number. A grid is in the same order for all trials.

    startup_trials: drawn at random, before tpe and gp learn from them.
    """
    if name == "grid":
        return GridSampler(grids(space, grid_points), seed=mixed(seed[:1]))
    if name == "tpe":
        return TPESampler(seed=mixed(seed), n_startup_trials=startup_trials, constant_liar=True)
    if name == "gp":
        return GPSampler(seed=mixed(seed), n_startup_trials=startup_trials)
    return RandomSampler(seed=mixed(seed))


def mixed(seeds: Sequence[int]) -> int:
    """One seed of several, below 2³²."""
    return int(numpy.random.SeedSequence(seeds).generate_state(1)[0])


def size_of_grid(space: Space, grid_points: int) -> int:
    return math.prod(len(points) for points in grids(space, grid_points).values())


def points_left(trials: Sequence[FrozenTrial], space: Space, grid_points: int) -> int:
    """How many points of a grid no trial has been given."""
    begun = {trial.system_attrs["grid_id"] for trial in trials if "grid_id" in trial.system_attrs}
    return size_of_grid(space, grid_points) - len(begun)


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


def take_up(study: Study, trial: FrozenTrial) -> None:
    """Have a trial that has failed run again, from its run's checkpoint, unless its workers have died twice."""
    deaths = trial.user_attrs.get(DEATHS, 0) + (trial.user_attrs.get(LEFT) != STOPPED)
    if deaths > 1:
        return
    kept = {name: value for name, value in trial.user_attrs.items() if name not in (HOST, LEFT)}
    attributes = {**kept, RUN: run_of(trial), DEATHS: deaths}
    copied = {"params": trial.params, "distributions": trial.distributions, "system_attrs": trial.system_attrs}
    copied["intermediate_values"] = trial.intermediate_values
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes, **copied))


def fail_dead(study: Study, storage: BaseStorage, is_dead: Callable[[FrozenTrial], bool]) -> None:
    """Fail the running trials that are dead. Processes must do so one after another."""
    running = (TrialState.RUNNING,)
    dead = {trial.number for trial in study.get_trials(deepcopy=False, states=running) if is_dead(trial)}
    identifier = storage.get_study_id_from_name(study.study_name)
    # Asked again: one that ended meanwhile has let go of its run, too.
    for trial in study.get_trials(deepcopy=False, states=running) if dead else []:
        if trial.number in dead:
            own = storage.get_trial_id_from_study_id_trial_number(identifier, trial.number)
            storage.set_trial_user_attr(own, LEFT, DIED)
            storage.set_trial_state_values(own, state=TrialState.FAIL)


def current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials but those that others have taken up: each run once."""
    last = {run_of(trial): trial.number for trial in trials}
    return [trial for trial in trials if last[run_of(trial)] == trial.number]
