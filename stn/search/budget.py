"""What a search has cost, and may cost: in weight steps, epochs or seconds of training."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from stn.search.studies import current

COST = ("steps", "epochs", "seconds")  # what trials have as attributes
BY_EPOCH = "by_epoch"  # the same, at the end of a trial's last whole epoch
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
FORM = re.compile(r"(\d+\.?\d*(?:e\+?\d+)?) ?(steps?|epochs?|s|min|h|d)", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """amount: of weight steps, epochs or seconds, whichever `kind` says, over all trials together."""

    amount: float
    kind: str

    def spent(self, trials: Sequence[FrozenTrial]) -> float:
        return sum(cost(trial)[self.kind] for trial in current(trials))

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.kind}"


def cost(trial: FrozenTrial) -> Mapping[str, float]:
    """What a trial has cost so far; a trial that takes up another has its cost, too."""
    return {kind: trial.user_attrs.get(kind, 0.0) for kind in COST}


def parse_budget(text: str) -> Budget:
    """ "5000 steps", "40epochs", "90s", "30min", "2h", "1d". Raises ValueError for what is none of these."""
    found = FORM.fullmatch(text.strip())
    amount = float(found[1]) if found else 0.0
    if not 0 < amount < math.inf:
        raise ValueError(f"'{text}' is no budget such as 5000steps, 40epochs, 90s, 30min or 2h")
    unit = found[2]
    if unit in SECONDS:
        return Budget(amount * SECONDS[unit], "seconds")
    return Budget(amount, f"{unit.removesuffix('s')}s")
