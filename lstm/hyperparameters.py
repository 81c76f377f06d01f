"""The seven hyperparameters of the language model, declared once: flags, sources, replays and figures follow."""

import math

from stn.scripts.declared import Declared, Values
from stn.scripts.flags import VALUES, Flag
from stn.scripts.options import nonnegative, rate

PENALTIES = (0.01, 10.0)  # where a black-box search looks for a penalty's coefficient


def _declared(name: str, label: str, high: float, per_example: bool) -> Declared:
    fixed = 0.05 if high == 1.0 else 0.0
    flags = {"tune": f"tune_{name}", "start": name, "fix": name}
    searched = PENALTIES if high == math.inf else None
    spans = {"range": (0.0, high), "possible": (0.0, high), "searched": searched}
    return Declared(label, **spans, initial=0.05, fixed=fixed, per_example=per_example, **flags)


# In the published order. Those that act on shared weights, or on the loss as a whole, are shared by a mini-batch.
TABLE = {
    "alpha": _declared("alpha", "activation regularization", math.inf, per_example=False),
    "beta": _declared("beta", "temporal activation regularization", math.inf, per_example=False),
    "dropouto": _declared("dropouto", "output dropout", 1.0, per_example=True),
    "dropouti": _declared("dropouti", "input dropout", 1.0, per_example=True),
    "dropouth": _declared("dropouth", "hidden dropout", 1.0, per_example=True),
    "dropoute": _declared("dropoute", "embedding dropout", 1.0, per_example=False),
    "wdrop": _declared("wdrop", "DropConnect", 1.0, per_example=False),
}


def is_rate(name: str) -> bool:
    """Whether a hyperparameter is a dropout rate, rather than a penalty's coefficient."""
    return TABLE[name].range[1] == 1.0


def value_flags() -> list[Flag]:
    """--dropouto and the like: where a hyperparameter starts, or stays."""
    return [
        Flag(name, declared.label, rate if is_rate(name) else nonnegative, declared.fixed, group=VALUES)
        for name, declared in TABLE.items()
    ]


def chosen(values: Values, kind: str) -> list[str]:
    """The hyperparameters whose --tune_… or --perturb_… flags are set, by kind "tune" or "perturb"."""
    return [name for name in TABLE if values[f"{kind}_{name}"]]


def choice_flags(kind: str, what: str, group: str) -> list[Flag]:
    """A switch --tune_… or --perturb_… for each hyperparameter; what: its help, with {} for the hyperparameter."""
    return [Flag(f"{kind}_{name}", what.format(declared.label), group=group) for name, declared in TABLE.items()]
