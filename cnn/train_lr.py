"""Train an image classifier with a learning rate that is fixed, decayed, or tuned while training goes on.

These are the experiments of Donini et al. 2020 (MARTHE) and their baselines. Hypergradients of marthe and rtho are of
the validation loss, on images held out of the training set, in evaluation mode: batch normalization takes its running
statistics. The published scripts tuned on the test images, which here are for the result alone. hd follows the training
loss. --find-hyper-lr probes step sizes, over a few steps: a whole run may need a smaller one than it recommends.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.train_lr")

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

from cnn.datasets import DATA_SETS, datasets_of
from cnn.rate_settings import ACTING, MOMENTUM, RateSettings, refuse_unwritable
from cnn.settings import run_names
from stn.errors import UserError
from stn.schedules import LEARNING_RATE
from stn.scripts import command, replay
from stn.scripts.declared import Sources, Table, Values
from stn.scripts.flags import flags_of, refuse_idle
from stn.scripts.script import Script

TABLE: Table = {}  # no hyperparameter but the learning rate
OF_RATES = frozenset().union(*ACTING.values())
SETS_RATE = ("lr_scheduler", "lr", *sorted(OF_RATES))


def implied(values: Values) -> Values:
    """The data set's split, and the momentum by the learning rate's scheduler, where nobody decides otherwise."""
    momentum = MOMENTUM.get(values["lr_scheduler"], 0.0) if values["optimizer"] == "sgd" else 0.0
    return {"percent_valid": DATA_SETS[values["dataset"]].percent_valid, "momentum": momentum}


def resolve(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """With the name of the run's folder, and the schedule's file, if any, found.

    Raises UserError where the network is not for the data set, or flags contradict each other or have nothing to act
    on.
    """
    grey = datasets_of("mlp")
    if values["network"] == "mlp" and values["dataset"] not in grey:
        raise UserError(f"--network mlp is for grey images: give --dataset {' or '.join(grey)}, or another network")
    setter = {LEARNING_RATE: next((flag for flag in SETS_RATE if flag in given), None)}
    _, schedule = replay.find_schedule(values, TABLE, setter.get, any_lr=True)
    refuse_idle_flags(values, given)
    if values["nesterov"] and values["optimizer"] == "sgd" and not values["momentum"]:
        raise UserError("--nesterov has nothing to act on: give a --momentum above 0, or leave it out")
    if not schedule and "lr_decay" in ACTING[values["lr_scheduler"]] and values["lr_decay"] == 1:
        told = f"--lr-scheduler {values['lr_scheduler']} with --lr-decay 1 is a constant learning rate"
        warnings.warn(f"{told}: give a factor below 1 to have it decay", stacklevel=2)
    refuse_unwritable(values["model_loc"])
    return {**values, **run_names(values, given), **schedule}


def refuse_idle_flags(values: Values, given: set[str]) -> None:
    """Raise UserError for a flag that does not act with the scheduler or the optimizer."""
    for flag in OF_RATES - ACTING[values["lr_scheduler"]]:
        schedulers = " or ".join(name for name, flags in ACTING.items() if flag in flags)
        refuse_idle(given, {flag: f"give --lr-scheduler {schedulers}"})
    if values["optimizer"] != "sgd":
        refuse_idle(given, dict.fromkeys(("momentum", "nesterov"), "give --optimizer sgd"))


def sources(values: Values) -> Sources:  # noqa: ARG001
    """None, as there are no hyperparameters."""
    return {}


LOAD_SCHEDULE = replace(
    replay.FLAG,
    help="replay the learning rate of an earlier run, tuned or not: its epoch.csv, row e during epoch e, or its "
    "train.csv, interpolated between weight steps; the last value holds when it runs out",
)
SETTINGS = flags_of(
    RateSettings,
    batch_size={"aliases": ()},
    percent_valid={
        "aliases": (),
        "help": "fraction of the training images that validate, the last of the file, on which the learning rate is "
        "tuned; of mnist and fashion_mnist 0.15",
    },
    seed={"default": 42, "help": "random seed"},
    dir={"default": "learning-rates"},
)
SCRIPT = Script(
    name="train_lr.py",
    description=__doc__,
    table=TABLE,
    settings=RateSettings,
    setting_flags=SETTINGS,
    hyper_flags=[LOAD_SCHEDULE],
    resolve=resolve,
    implied=implied,
    sources=sources,
    lr_schedule=partial(replay.replayed_lr, table=TABLE, any_lr=True),
    hyphens=True,
)
main = partial(command.run, SCRIPT)
