"""Train an image classifier that tunes its own dropout and augmentation (MacKay et al. 2019, section 5.3)."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.hypertrain")

from collections.abc import Iterable
from functools import partial
from typing import Any

from cnn import recipes
from cnn.hyperparameters import AFFINE, CUTOUT, DECAY, TABLE, names_of
from cnn.recipes import RECIPES, declared, recipe_of
from cnn.settings import ImageSettings, fitting, model_of, refuse_misfit, run_names
from stn.errors import UserError
from stn.hyperparameters import Feed
from stn.schedules import Constant
from stn.scripts import command, methods, rates
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import TUNING, WHAT_TO_TUNE, Flag, flags_of, refuse_idle
from stn.scripts.options import nonnegative, one_of
from stn.scripts.script import Script

# What a hyperparameter that is not tuned is while its counterpart is: a hole needs a length, a length needs a hole.
COUNTERPARTS = {"cutlength": 8.0, "cutholes": 1.0}
# Short name, where there is a published one, and what it tunes, in the published order.
TUNE = {
    "tune_dropout": ("-tdrop", "one dropout rate for all convolutional layers"),
    "tune_dropoutl": ("-tdropl", "a dropout rate for each convolutional layer"),
    "tune_indropout": ("-tidrop", "the dropout rate of the input, of whole channels by the recipe delta_stn"),
    "tune_fcdropout": ("-tfcdrop", "the dropout rates of the fully connected layers' inputs"),
    "tune_inscale": ("-tiscl", "the scaling noise of the input"),
    "tune_hue": ("-thue", "the hue's jitter"),
    "tune_sat": ("-tsat", "the saturation's jitter"),
    "tune_contrast": ("-tcon", "the contrast's jitter"),
    "tune_bright": ("-tbrt", "the brightness's jitter"),
    "tune_jitters": ("-tjit", "hue, saturation, contrast and brightness"),
    "tune_affine": (None, "rotation, translation, scale and shear"),
    "tune_cutlength": ("-tcutl", "the length of cutout holes"),
    "tune_cutholes": ("-tcuth", "the number of cutout holes"),
    "tune_all": ("-tall", "all of these that the network has, with a dropout rate for each layer"),
    "tune_wdecay": (None, "the weight decay, of the weights as they respond; not among --tune_all"),
}
JITTERS = ("tune_hue", "tune_sat", "tune_contrast", "tune_bright")
# Short name, where there is a published one, and what it is, in the published order.
START = {
    "start_inscale": ("-iscl", "input scaling"),
    "start_drop": ("-drop", "dropout rate of convolutional layers"),
    "start_indrop": ("-idrop", "dropout rate of the input"),
    "start_fcdrop": ("-fcdrop", "dropout rate of fully connected layers' inputs"),
    "start_hue": ("-hue", "hue jitter"),
    "start_sat": ("-sat", "saturation jitter"),
    "start_contrast": ("-con", "contrast jitter"),
    "start_bright": ("-brt", "brightness jitter"),
    "start_degrees": (None, "rotation in degrees"),
    "start_translation": (None, "translation as a fraction of the size"),
    "start_zoom": (None, "affine scale, of a factor from 1 − v to 1 + v"),
    "start_shear": (None, "shear in degrees"),
    "start_cutlength": ("-cutl", "length of a cutout hole"),
    "start_cutholes": ("-cuth", "number of cutout holes"),
    "start_wdecay": (None, "weight decay"),
}
ADDED = {"tune_affine", "tune_wdecay", *(f"start_{name}" for name in (*AFFINE, DECAY))}
SCALE = {
    "perturb_scale": ("-pscl", "continuous hyperparameters"),
    "cutlength_scale": ("-clscl", "the holes' length"),
    "cutholes_scale": ("-chscl", "the number of holes"),
}


def sources(values: Values) -> Sources:
    """Where each hyperparameter's values come from: tuned where a flag asks for it, else off."""
    names = own_names(values)
    tuned = [name for name in names if values[TABLE[name].tune]]
    off = dict.fromkeys(names, 0.0) | (COUNTERPARTS if {*tuned} & {*CUTOUT} else {})
    feed: Feed = "centred" if methods.is_delta_stn(values) else "unconstrained"
    return {
        name: declared(name, values["recipe"]).tuned(values, feed) if name in tuned else Constant(off[name])
        for name in names
    }


def own_names(values: Values, shared_dropout: bool | None = None) -> list[str]:
    """The hyperparameters of the run's network. shared_dropout: as of `names_of` (default: as --tune_dropout says)."""
    shared = values["tune_dropout"] if shared_dropout is None else shared_dropout
    return names_of(values["model"], shared, values["recipe"]) + [DECAY] * values["tune_wdecay"]


def implied(values: Values) -> Values:
    """What the model, the data set and the recipe say of each other, and of the flags that nobody gives."""
    model = model_of(values)
    recipe = recipe_of(values, model)
    scaled = {"elementary_scale": not methods.is_delta_stn(values)}
    return {**fitting(values), **scaled, "recipe": recipe, **recipes.implied(recipe, model, values["method"])}


def resolve(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """With the name of the run's folder, and what --tune_all and --tune_jitters stand for.

    Raises UserError where nothing is tuned, the model is not for the data set, flags contradict each other or have
    nothing to act on, or a start is not inside its range.
    """
    refuse_misfit(values, given)
    methods.refuse_idle_flags(values, given)
    rates.refuse_misfits(values, given, ImageSettings.RATE_FLAGS[1:])
    values = {**values, **run_names(values, given)}
    if "recipe" in given:  # and not the values of a run that this one follows
        brought = {**SCRIPT.defaults(), **implied(values)}
        values |= {name: brought[name] for name in recipes.FLAGS - given}
    if values["total_epochs"] <= values["warmup_epochs"]:
        raise UserError(
            f"--total_epochs {values['total_epochs']} ends before anything is tuned, after --warmup_epochs "
            f"{values['warmup_epochs']}: raise the one, or lower the other"
        )
    for flag in ("tune_all", "tune_dropoutl"):
        if values["tune_dropout"] and values[flag]:
            raise UserError(f"--tune_dropout is one rate for all layers, --{flag} brings one for each: leave one out")
    everything = tuning(names_of(values["model"], recipe=values["recipe"]))
    values |= dict.fromkeys(everything if values["tune_all"] else JITTERS if values["tune_jitters"] else (), True)
    tuned = [TABLE[name] for name in own_names(values) if values[TABLE[name].tune]]
    possible = {DECAY, *own_names(values, shared_dropout=False), *own_names(values, shared_dropout=True)}
    remedy = f"give another network than --model {values['model']}"
    if recipes.differ(values["model"]):
        remedy += f", or another --recipe than {values['recipe']}"
    refuse_idle(given, dict.fromkeys(acting(TABLE) - acting(possible), remedy))
    if not tuned:
        raise UserError("nothing is tuned: add --tune_all, or --tune_… for some hyperparameters")
    sources(values)
    idle = {flag: f"add --{own.tune}" for own in TABLE.values() for flag in (own.start, own.scale)}
    idle["perturb_scale"] = "add --tune_… for something besides cutout"
    if not values["tune_scales"]:
        idle |= dict.fromkeys(("entropy_weight", "scale_lr"), "add --tune_scales")
    refuse_idle(given - {flag for own in tuned for flag in (own.start, own.scale)}, idle)
    return values


def tuning(names: Iterable[str]) -> set[str]:
    """The flags that tune these hyperparameters."""
    flags = {TABLE[name].tune for name in names}
    return flags | {"tune_jitters"} if flags & {*JITTERS} else flags


def acting(names: Iterable[str]) -> set[str]:
    """The flags that act on these hyperparameters."""
    return tuning(names) | {flag for name in names for flag in (TABLE[name].start, TABLE[name].scale)}


def tuning_flags() -> list[Flag]:
    """What to tune, from where, and how widely it is perturbed."""
    scale = "standard deviation of the perturbation of {}, unconstrained"
    recipe = (
        "the paper whose hyperparameters, ranges, optimizers and alternation are the defaults; those shown here are "
        "stn's (default: delta_stn for mlp, simple_cnn and vgg16, else stn)"
    )
    tune, start = partial(Flag, group=WHAT_TO_TUNE), partial(Flag, group="where to start")
    initial = {own.start: own.initial for own in TABLE.values()}
    return [
        *(
            tune(name, f"tune {what}", aliases=(short,) if short else (), added=name in ADDED)
            for name, (short, what) in TUNE.items()
        ),
        Flag("recipe", recipe, one_of(*RECIPES), None, group=TUNING),
        *(
            start(name, what, nonnegative, initial[name], (short,) if short else (), added=name in ADDED)
            for name, (short, what) in START.items()
        ),
        *(Flag(name, scale.format(what), nonnegative, 0.5, (short,), TUNING) for name, (short, what) in SCALE.items()),
    ]


SETTINGS = flags_of(
    ImageSettings,
    model={"aliases": ("-m",)},
    nonmono={"default": 60, "aliases": ("-nonm",)},
    patience={"default": 75, "aliases": ("-pat",)},
    seed={"default": 0, "help": "random seed"},
)
SCRIPT = Script(
    name="hypertrain.py",
    description=__doc__,
    table=TABLE,
    settings=ImageSettings,
    setting_flags=SETTINGS,
    hyper_flags=tuning_flags(),
    resolve=resolve,
    implied=implied,
    sources=sources,
)
main = partial(command.run, SCRIPT)
