"""Where a black-box search looks for each hyperparameter, as Optuna has it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

INSET = 0.01  # of its width that a range's open upper end is kept off


@dataclass(frozen=True)
class Range:
    """From low, included, to high. log: on a logarithmic scale. whole: whole numbers, high included.

    Raises ValueError for one that is empty or infinite, or whose logarithm is.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self):
        if not (self.low < self.high or (self.whole and self.low == self.high)) or not self.finite:
            raise ValueError(f"{self} cannot be searched")

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high) and (self.low > 0 or not self.log)

    @property
    def distribution(self) -> BaseDistribution:
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def at(self, place: float) -> float:
        """The value at this place on the range's scale, from 0 to 1."""
        if self.whole:  # each number has an equal part
            return min(int(self.low + place * (self.high - self.low + 1)), int(self.high))
        low, high = map(math.log, (self.low, self.high)) if self.log else (self.low, self.high)
        value = low + place * (high - low)
        return min(max(math.exp(value) if self.log else value, self.low), self.high)  # rounding may leave the range

    def place(self, value: float) -> float:
        """Where a value lies on the range's scale, from 0 to 1; the inverse of `at`."""
        if self.whole:
            return (value - self.low + 0.5) / (self.high - self.low + 1)
        ends = (self.low, self.high, value)
        low, high, value = map(math.log, ends) if self.log else ends
        return (value - low) / (high - low)

    def grid(self, count: int) -> list[float]:
        """So many points, in the middles of equal parts; fewer where there are not as many whole numbers."""
        return list(dict.fromkeys(self.at((point + 0.5) / count) for point in range(count)))

    def draw(self, random: numpy.random.Generator) -> float:
        """A value that is uniform on the range's scale."""
        return self.at(random.random())


Space = Mapping[str, Range]  # by hyperparameter


def between(low: float, high: float, searched: tuple[float, float] | None, whole: bool) -> Range:
    """Where to look for a hyperparameter that lies in (low, high).

    searched: ends in their place, both included, where the range has no upper end; the scale is logarithmic then.
    """
    if searched is not None:
        return Range(*searched, log=math.isinf(high), whole=whole)
    return Range(low, high - 1, whole=True) if whole else Range(low, high - INSET * (high - low))


def suggest(trial: Trial, space: Space) -> dict[str, float]:
    """A value for each hyperparameter, as the study's sampler suggests."""
    found = {}
    for name, own in space.items():
        ask = trial.suggest_int if own.whole else trial.suggest_float
        found[name] = ask(name, own.low, own.high, log=own.log)
    return found


def described(space: Space) -> dict[str, list]:
    """As a study stores it, to be compared."""
    return {name: [own.low, own.high, own.log, own.whole] for name, own in space.items()}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: own.distribution for name, own in space.items()}


def grids(space: Space, count: int) -> dict[str, Iterable[float]]:
    return {name: own.grid(count) for name, own in space.items()}
