"""Train an LSTM language model without tuning: fixed, perturbed, or replaying an earlier run's schedule.

The baselines of the self-tuning network's hyperparameter schedules (MacKay et al. 2019, section 5.1).
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.train_basic")

import math
from functools import partial
from typing import Any

import numpy

from lstm.hyperparameters import TABLE, choice_flags, chosen, is_rate, value_flags
from lstm.settings import LanguageModelSettings
from stn.schedules import LEARNING_RATE, Constant, Gaussian, Schedule, Sinusoid
from stn.scripts import command, rates, replay
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import BASELINE, TUNING, Flag, flags_of, refuse_idle
from stn.scripts.options import nonnegative, one_of, positive
from stn.scripts.script import Script

MAX_RATE = 0.99  # as published: perturbed rates are clipped to it
NOISE = {"gaussian": ("perturb_std",), "sinusoid": ("amplitude", "sinusoid_period")}  # the flags of each kind


def sources(values: Values) -> Sources:
    """Where each hyperparameter's values come from: replayed, perturbed, or else constant."""
    schedule = replay.replayed(values, TABLE)
    return {name: schedule.get(name) or own_source(values, name) for name in TABLE}


def own_source(values: Values, name: str) -> Schedule:
    """Constant or perturbed, as the flags ask for."""
    value = values[name]
    if name not in chosen(values, "perturb"):
        return Constant(value)
    bounds, seed = (0.0, MAX_RATE if is_rate(name) else math.inf), (values["seed"], list(TABLE).index(name))
    if values["perturb_type"] == "sinusoid":
        phase = numpy.random.default_rng(seed).random()  # so that several do not move together
        return Sinusoid(value, values["amplitude"], values["sinusoid_period"], bounds, phase)
    return Gaussian(value, values["perturb_std"], bounds, seed)


def resolve(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """With the schedule's file, if any, found.

    Raises UserError where flags contradict each other or have nothing to act on.
    """
    perturbed, kind = chosen(values, "perturb"), values["perturb_type"]
    idle = {flag: f"give --perturb_type {own}" for own in NOISE for flag in NOISE[own] if own != kind}
    if not perturbed:
        idle |= dict.fromkeys(("perturb_type", *NOISE[kind]), "add --perturb_dropouto, or another --perturb_…")
    refuse_idle(given, idle)
    fixed = {name: name for name in given} | {name: f"perturb_{name}" for name in perturbed}
    rates.refuse_misfits(values, given, LanguageModelSettings.RATE_FLAGS[1:])
    setting = ("tune_lr", *LanguageModelSettings.RATE_FLAGS)
    fixed[LEARNING_RATE] = next((flag for flag in setting if flag in given), None)
    _, schedule = replay.find_schedule(values, TABLE, fixed.get)
    return {**values, **schedule}


def baseline_flags() -> list[Flag]:
    """What to perturb and how, or what to replay."""
    flag = partial(Flag, group=BASELINE)
    how = "how; the result is clipped to [0, 0.99], that of alpha and beta only to 0 and above"
    return [
        *choice_flags("perturb", "perturb {} around its value, anew each mini-batch", BASELINE),
        flag("perturb_type", how, one_of(*NOISE), "gaussian"),
        flag("perturb_std", "standard deviation of the Gaussian noise", nonnegative, 0.1),
        flag("amplitude", "amplitude of the sinusoid", nonnegative, 0.2),
        flag("sinusoid_period", "period of the sinusoid in mini-batches", positive, 330.0),
        replay.FLAG,
    ]


SETTINGS = flags_of(LanguageModelSettings, TUNING, train_log_interval={"default": 50, "aliases": ("--log-interval",)})
SCRIPT = Script(
    name="train_basic.py",
    description=__doc__.partition(".")[0] + ".",
    table=TABLE,
    settings=LanguageModelSettings,
    setting_flags=SETTINGS,
    hyper_flags=[*value_flags(), *baseline_flags()],
    resolve=resolve,
    sources=sources,
    lr_schedule=partial(replay.replayed_lr, table=TABLE),
)
main = partial(command.run, SCRIPT)
