"""What an experiment declares of its hyperparameters: one table; flags, sources, replays and figures follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stn.errors import UserError
from stn.hyperparameters import Feed, Tuned
from stn.schedules import Schedule

Values = Mapping[str, Any]  # of all flags, by name
Sources = dict[str, Tuned | Schedule]  # where each hyperparameter's values come from


@dataclass(frozen=True)
class Declared:
    """A hyperparameter of an experiment.

    label: what messages, and figures of it alone, call it. range: where it lies where it is tuned, open at both ends.
    possible: where a fixed or replayed value may lie, low included and high not. initial, fixed: where tuning starts,
    and the fixed value, if no flag says otherwise. tune, start, scale, fix: the flags that tune it, that say where
    tuning starts, how widely it perturbs, and a fixed value. per_example, discrete: as in `Tuned`. searched: where a
    black-box search looks, both ends included, on a logarithmic scale; needed where the range has no upper end.
    """

    label: str
    range: tuple[float, float]
    possible: tuple[float, float]
    initial: float
    fixed: float
    tune: str
    start: str
    fix: str
    scale: str = "perturb_scale"
    per_example: bool = True
    discrete: bool = False
    searched: tuple[float, float] | None = None

    def tuned(self, values: Values, feed: Feed = "centred") -> Tuned:
        """The source of a tuned one. Raises UserError where its value or scale cannot start where the flags say."""
        initial, (low, high) = values[self.start], self.range
        if values["tune_scales"] and not values[self.scale]:
            raise UserError(f"--{self.scale} 0 cannot be tuned: give it a value above 0, or leave out --tune_scales")
        if self.discrete and initial not in range(int(low), int(high)):
            wanted = f"a whole number from {low:g} to {high - 1:g}"
        elif not self.discrete and not low < initial < high:
            wanted = f"a value strictly between {low:g} and {high:g}" if high < math.inf else f"a value above {low:g}"
        else:
            return Tuned(initial, self.range, values[self.scale], self.per_example, self.discrete, feed)
        raise UserError(f"--{self.tune} cannot start at --{self.start} {initial:g}: give --{self.start} {wanted}")


Table = Mapping[str, Declared]


def possible_ranges(table: Table) -> dict[str, tuple[float, float]]:
    """Where the values of a schedule may lie that is replayed, by hyperparameter."""
    return {name: declared.possible for name, declared in table.items()}
