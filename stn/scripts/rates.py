"""Learning rates that are tuned while training goes on, as flags name them."""

from collections.abc import Collection, Mapping
from typing import Any

from stn.errors import UserError
from stn.hypergradients.policies import HD, MARTHE, RTHO, TunedRate
from stn.scripts.declared import Values
from stn.scripts.flags import refuse_idle

RATES: dict[str, type[TunedRate]] = {"hd": HD, "rtho": RTHO, "marthe": MARTHE}
# The flags that act with each, besides the step size.
ACTING = {"hd": set(), "rtho": {"lr_alpha", "lr_first_order"}, "marthe": {"lr_alpha", "lr_first_order", "lr_mu"}}
FLAGS = {"lr_hyper_lr", *ACTING["marthe"]}
SEARCH = "--find_hyper_lr tries some"


def refuse_misfits(values: Values, given: Collection[str], decay: Collection[str]) -> None:
    """Raise UserError for flags of tuned learning rates that do not go together.

    decay: the flags of the learning rate's decay, which a tuned one has not.
    """
    name = values["tune_lr"]
    if name is None:
        refuse_idle(given, dict.fromkeys(FLAGS, "add --tune_lr"))
        return
    refuse_idle(given, dict.fromkeys(decay, f"leave out --tune_lr {name}, which replaces the decay"))
    others = " or ".join(f"--tune_lr {other}" for other in ("marthe", "rtho"))
    refuse_idle(given, dict.fromkeys(FLAGS - ACTING[name] - {"lr_hyper_lr", "lr_mu"}, f"give {others}"))
    refuse_idle(given, {} if name == "marthe" else {"lr_mu": "give --tune_lr marthe"})
    if values["lr_hyper_lr"] is None:
        raise UserError(f"--tune_lr {name} lacks its step size: give --lr_hyper_lr; {SEARCH}")


def make(name: str, lr: float, options: Mapping[str, Any], lowest: float | None = None) -> TunedRate:
    """The tuned learning rate of this name; options: as of MARTHE, of which the others take what they have."""
    own = {flag.removeprefix("lr_") for flag in ACTING[name]} | {"hyper_lr"}
    return RATES[name](lr, lowest=lowest, **{option: value for option, value in options.items() if option in own})
