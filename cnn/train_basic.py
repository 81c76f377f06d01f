"""Train an image classifier with fixed hyperparameters, or with those that an earlier run recorded."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.train_basic")

import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import partial
from typing import Any

from cnn import recipes
from cnn.hyperparameters import AFFINE, CONVOLUTIONS, DECAY, LAYERS, LINEAR, TABLE, names_of
from cnn.recipes import RECIPES
from cnn.settings import ImageSettings, fitting, model_of, refuse_misfit, run_names
from stn.errors import UserError
from stn.schedules import LEARNING_RATE, Constant
from stn.scripts import command, rates, replay
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import TRAINING, TUNING, VALUES, Flag, flags_of, refuse_idle
from stn.scripts.options import nonnegative, nonnegative_int, one_of, positive, rate
from stn.scripts.script import Script

MIN_LR = 1e-7  # as published: below it training stops


def sources(values: Values) -> Sources:
    """Where each hyperparameter's values come from: replayed, or else constant."""
    schedule = replay.replayed(values, TABLE)
    names = names_of(values["model"], "dropout" in schedule, values["recipe"])
    names += [DECAY] * (values[DECAY] > 0 or DECAY in schedule)
    return {name: schedule.get(name) or Constant(value(values, name)) for name in names}


def value(values: Values, name: str) -> float:
    """A hyperparameter's constant value; the shared dropout rates overrule those of layers, as published."""
    shared = [values[flag] for flag, layers in LAYERS.items() if name in layers and values[flag] > 0]
    return max(float(shared[0] if shared else values[TABLE[name].fix]), 0.0)


def implied(values: Values) -> Values:
    """What the model and the data set say of each other, and the recipe of a baseline at its start values."""
    model = model_of(values)
    recipe = values["recipe"] or ("delta_stn" if model in recipes.NEW else None)
    found = {**fitting(values), "recipe": recipe}
    if recipe is None:
        return found
    brought = recipes.implied(recipe, model)
    own = [TABLE[name] for name in names_of(model, recipe=recipe)] if recipe != "stn" else []
    starts = {declared.fix: type(declared.fixed)(declared.initial) for declared in own}
    return {**found, **{name: brought[name] for name in brought if name in SCRIPT.flags}, **starts}


def resolve(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """With the name of the run's folder, and the schedule's file, if any, found.

    Raises UserError where the model is not for the data set, or flags or the schedule's columns contradict each other
    or have nothing to act on.
    """
    refuse_misfit(values, given)
    values = {**values, **run_names(values, given)}
    model, names = values["model"], [*names_of(values["model"], recipe=values["recipe"]), DECAY]
    acting = {flag for name in names for flag in setters(name)}
    others = {flag for name in TABLE for flag in setters(name)} - acting
    refuse_idle(given, dict.fromkeys(others, f"give another network than --model {model}"))
    for flag, layers in LAYERS.items():
        if values[flag] == 0:
            own = " ".join(f"--{TABLE[name].fix} 0" for name in layers if name in names)
            raise UserError(f"--{flag} 0 is no rate to share: give {own} for no dropout, -1 for rates of their own")
        overruled = given & {TABLE[name].fix for name in layers}
        if values[flag] > 0 and overruled:
            warnings.warn(f"--{flag} {values[flag]:g} overrules --{', --'.join(sorted(overruled))}", stacklevel=2)
    setter = {name: next((flag for flag in setters(name) if flag in given), None) for name in TABLE}
    rates.refuse_misfits(values, given, ImageSettings.RATE_FLAGS[1:])
    setting = ("tune_lr", *ImageSettings.RATE_FLAGS)
    setter[LEARNING_RATE] = next((flag for flag in setting if flag in given), None)
    scheduled, schedule = replay.find_schedule(values, TABLE, setter.get)
    usable = [*names_of(model, "dropout" in scheduled, values["recipe"]), DECAY]
    if useless := [name for name in scheduled if name not in usable]:
        raise UserError(
            f"{values['load_schedule']} has a column {useless[0]!r}, of which --model {model} has no use: "
            "give the --model that it was recorded with, or remove the column"
        )
    for name in names:
        if value(values, name) >= (high := TABLE[name].possible[1]):
            flag = TABLE[name].fix
            raise UserError(f"--{flag} {value(values, name):g} is out of range: it goes from 0 to below {high:g}")
    return {**values, **schedule}


def setters(name: str) -> list[str]:
    """The flags that set a hyperparameter."""
    if name == "dropout":
        return ["dropout", *(TABLE[layer].fix for layer in LAYERS["dropout"])]
    return [TABLE[name].fix, *(flag for flag, layers in LAYERS.items() if name in layers)]


def shared_rate(text: str) -> float:
    """A rate above 0, or -1 for none."""
    if text.strip() in ("-1", "-1.0"):
        return -1.0
    try:
        return rate(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"'{text}' is neither a rate, above 0 and below 1, nor -1 for none") from None


def hole_count(text: str) -> int:
    """A whole number, or -1 for none."""
    return -1 if text.strip() == "-1" else nonnegative_int(text)


ADDED = {"indropout2d", *AFFINE, DECAY, *LAYERS["dropout"][5:]}
FIXED = {own.fix: own.fixed for own in TABLE.values()} | {"fc_dropout": -1.0}


def flag(name: str, help: str, check: Callable[[str], float], *short: str) -> Flag:
    return Flag(name, help, check, FIXED[name], short, VALUES, added=name in ADDED)


HYPERPARAMETERS = [
    Flag(
        "recipe",
        "the paper whose experiment it is: delta_stn brings its training, and hyperparameters at its start values "
        "(default: delta_stn for simple_cnn and vgg16, else stn)",
        one_of(*RECIPES),
        None,
        group=TRAINING,
        added=True,
    ),
    flag("indropout", "dropout rate of the input", rate),
    flag("indropout2d", "dropout rate of whole channels of the input", rate),
    flag("dropout", "one rate for all convolutional layers, -1 for none", shared_rate, "-drop"),
    *(flag(f"dropout{n}", f"dropout rate after convolutional layer {n}", rate) for n in range(CONVOLUTIONS)),
    flag("fc_dropout", "one rate for all of the next three, -1 for none", shared_rate, "-fcdrop"),
    *(flag(f"fc_dropout{n}", f"dropout rate of linear layer {n}'s input", rate, f"-fcdrop{n}") for n in range(LINEAR)),
    flag("inscale", "input scaling", nonnegative, "-iscl"),
    flag("hue", "hue jitter", nonnegative),
    flag("brightness", "brightness jitter", nonnegative),
    flag("saturation", "saturation jitter", nonnegative),
    flag("contrast", "contrast jitter", nonnegative),
    flag("degrees", "rotation in degrees", nonnegative),
    flag("translation", "translation as a fraction of the size", nonnegative),
    flag("zoom", "affine scale, of a factor from 1 − v to 1 + v", nonnegative),
    flag("shear", "shear in degrees", nonnegative),
    flag("cutholes", "number of cutout holes, none if below 1", hole_count, "-cuth"),
    flag("cutlength", "length of cutout holes, none if below 1", hole_count, "-cutl"),
    flag("wdecay", "weight decay", positive),
    replay.FLAG,
]
SETTINGS = flags_of(
    ImageSettings,
    TUNING,
    model={"aliases": ("-a",)},
    total_epochs={"default": 8000},
    nonmono={"default": 60},
    patience={"default": 75},
    seed={"default": 0, "help": "random seed"},
    dir={"default": "baseline_saves", "aliases": ("--save_dir",)},
)
SCRIPT = Script(
    name="train_basic.py",
    description=__doc__,
    table=TABLE,
    settings=ImageSettings,
    setting_flags=SETTINGS,
    hyper_flags=HYPERPARAMETERS,
    resolve=resolve,
    implied=implied,
    sources=sources,
    lr_schedule=partial(replay.replayed_lr, table=TABLE),
    constants={"min_lr": MIN_LR},
)
main = partial(command.run, SCRIPT)
