"""The methods that tune hyperparameters, as flags name them."""

from collections.abc import Collection
from typing import Any

from torch import nn

from stn.delta_stn import DeltaSTN
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.layers import zero_gates
from stn.methods import STN, BestResponseMethod
from stn.scripts.declared import Values
from stn.scripts.flags import refuse_idle

METHODS: dict[str, type[BestResponseMethod]] = {"stn": STN, "delta_stn": DeltaSTN}
OF_DELTA_STN = ("response_lr", "linearize", "no_linearize")


def is_delta_stn(values: Values) -> bool:
    return values["method"] == "delta_stn"


def implied(values: Values) -> dict[str, Any]:
    """The method that --delta_stn stands for."""
    return {"method": "delta_stn"} if values["delta_stn"] else {}


def resolve(values: Values, given: Collection[str]) -> dict[str, Any]:
    """The method, and whether it linearizes, by the flags that were given and else by what `values` hold.

    Raises UserError where flags contradict each other or have nothing to act on.
    """
    values = dict(values)
    if "delta_stn" in given:
        if "method" in given and not is_delta_stn(values):
            raise UserError("--delta_stn is --method delta_stn, and not another: leave one of the two out")
        values["method"] = "delta_stn"
    if not is_delta_stn(values):
        refuse_idle(given, dict.fromkeys(OF_DELTA_STN, "add --method delta_stn"))
    if {"linearize", "no_linearize"} <= {*given}:
        raise UserError("--linearize and --no_linearize contradict each other: leave one of them out")
    if "linearize" in given:
        values["no_linearize"] = False
    values["linearize"] = is_delta_stn(values) and not values["no_linearize"]
    values["delta_stn"] = is_delta_stn(values)
    return {name: values[name] for name in ("method", "delta_stn", "linearize", "no_linearize")}


def make(
    name: str,
    model: nn.Module,
    hyper: Hyperparameters,
    *,
    response_lr: float | None,
    linearize: bool,
    **options: Any,
) -> BestResponseMethod:
    """The method of this name, and the model as it starts with it; the options are what all methods take."""
    if METHODS[name] is DeltaSTN:
        zero_gates(model)
        options |= {"response_lr": response_lr, "linearize": linearize}
    return METHODS[name](model, hyper, **options)
