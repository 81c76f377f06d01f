"""Train an LSTM language model that tunes its own regularization (MacKay et al. 2019, section 5.2)."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.train")

from functools import partial
from typing import Any

from lstm.hyperparameters import TABLE, choice_flags, chosen, is_rate, value_flags
from lstm.settings import LanguageModelSettings
from stn.hyperparameters import Feed
from stn.schedules import Constant
from stn.scripts import command, methods, rates
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import TUNING, WHAT_TO_TUNE, Flag, flags_of, refuse_idle
from stn.scripts.options import nonnegative, one_of
from stn.scripts.script import Script

STARTS = {name: declared.initial for name, declared in TABLE.items()}
TRANSFORMS = ("drop_transform", "alpha_beta_transform")
FEEDS: dict[str, Feed] = {"none": "unconstrained", "sigmoid": "squashed", "softplus": "squashed", "centred": "centred"}


def sources(values: Values) -> Sources:
    """Where each hyperparameter's values come from: tuned where a flag asks for it, else constant."""
    tuned = chosen(values, "tune")
    return {
        name: declared.tuned(values, feed(name, values)) if name in tuned else Constant(values[name])
        for name, declared in TABLE.items()
    }


def feed(name: str, values: Values) -> Feed:
    """What the response sees of a hyperparameter."""
    return FEEDS[values["drop_transform" if is_rate(name) else "alpha_beta_transform"]]


def implied(values: Values) -> Values:
    """The values that --tune_all gives to flags for which nobody decides otherwise."""
    return STARTS if values["tune_all"] else {}


def resolve(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """With what --tune_all stands for, which never overrules a value that the user gave.

    Raises UserError where a flag has nothing to act on, or a tuned hyperparameter starts at an end of its range.
    """
    if values["tune_all"]:
        values |= dict.fromkeys((declared.tune for declared in TABLE.values()), True)
    idle = {} if values["tune_scales"] else dict.fromkeys(("entropy_weight", "scale_lr"), "add --tune_scales")
    if not chosen(values, "tune"):
        remedy = "add --tune_all, or --tune_… for some hyperparameters"
        idle = {flag.name: remedy for flag in SCRIPT.flags.values() if flag.group == TUNING}
    refuse_idle(given, idle)
    methods.refuse_idle_flags(values, given)
    rates.refuse_misfits(values, given, LanguageModelSettings.RATE_FLAGS[1:])
    if methods.is_delta_stn(values):
        refuse_idle(given, dict.fromkeys(TRANSFORMS, "leave out --method delta_stn"))
        values |= dict.fromkeys(TRANSFORMS, "centred")
    sources(values)
    return values


def tuning_flags() -> list[Flag]:
    """What to tune, and how its values are perturbed and fed into the response."""
    tune_all = "tune all seven; unless given otherwise, start alpha and beta at 0.05"
    flag = partial(Flag, group=TUNING)
    return [
        *choice_flags("tune", "tune {}", WHAT_TO_TUNE),
        Flag("tune_all", tune_all, group=WHAT_TO_TUNE),
        flag(
            "perturb_scale", "standard deviation of the perturbation of unconstrained hyperparameters", nonnegative, 1.0
        ),
        flag(
            "drop_transform",
            "what the STN's response sees of dropout rates: centred, the deviation of λ, the rate's logit, from its "
            "current value; sigmoid, the rate itself, as published with --tune_all; none, λ, as published without",
            one_of("none", "sigmoid", "centred"),
            "centred",
        ),
        flag(
            "alpha_beta_transform",
            "the same for alpha and beta (published: softplus)",
            one_of("none", "softplus", "centred"),
            "centred",
        ),
    ]


SCRIPT = Script(
    name="train.py",
    description=__doc__,
    table=TABLE,
    settings=LanguageModelSettings,
    setting_flags=flags_of(LanguageModelSettings),
    hyper_flags=[*value_flags(), *tuning_flags()],
    resolve=resolve,
    implied=implied,
    sources=sources,
)
main = partial(command.run, SCRIPT)
