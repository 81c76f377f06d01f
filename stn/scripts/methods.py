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

METHODS = ("stn", "delta_stn")
OF_DELTA_STN = ("response_lr", "linearize", "no_linearize")


def implied(values: Values) -> dict[str, Any]:
    """The method that --delta_stn stands for."""
    return {"method": "delta_stn"} if values["delta_stn"] else {}


def resolve(values: Values, given: Collection[str]) -> dict[str, Any]:
    """What the flags of methods stand for.

    Raises UserError where they contradict each other or have nothing to act on.
    """
    delta = values["method"] == "delta_stn"
    if values["delta_stn"] and not delta:
        raise UserError("--delta_stn is --method delta_stn, and not another: leave one of the two out")
    if not delta:
        refuse_idle(given, dict.fromkeys(OF_DELTA_STN, "add --method delta_stn"))
    if values["linearize"] and values["no_linearize"]:
        raise UserError("--linearize and --no_linearize contradict each other: leave one of them out")
    return {"delta_stn": delta}


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
    if name == "stn":
        return STN(model, hyper, **options)
    zero_gates(model)
    return DeltaSTN(model, hyper, response_lr=response_lr, linearize=linearize, **options)
