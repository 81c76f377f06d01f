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


def is_delta_stn(values: Values) -> bool:
    return values["method"] == "delta_stn"


def refuse_idle_flags(values: Values, given: Collection[str]) -> None:
    """Raise UserError for a flag that was given and that the method has no use for."""
    if is_delta_stn(values):
        return
    refuse_idle(given, {"response_lr": "add --method delta_stn"})
    if "linearize" in given:
        raise UserError(
            "--linearize and --no_linearize have nothing to act on: add --method delta_stn, or leave them out"
        )


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
