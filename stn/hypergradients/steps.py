"""Steps of an optimizer's options against their hypergradients, which keep them positive and finite."""

import math
from typing import NamedTuple

FACTOR = 2.0  # the most by which a step changes an option
REACH = 1e6  # by how much an option may become smaller or larger than at first


class Bounds(NamedTuple):
    lowest: float
    highest: float


def bounds_around(value: float, lowest: float | None = None) -> Bounds:
    """Of an option that starts at this value."""
    return Bounds(value / REACH if lowest is None else lowest, value * REACH)


def bounded_step(value: float, change: float, bounds: Bounds) -> float:
    """The value after a change, of at most a factor of FACTOR, in itself and in its distance to the highest.

    A change that is not a number is none.
    """
    change = 0.0 if math.isnan(change) else change
    moved = min(max(value + change, value / FACTOR), value * FACTOR)
    return max(min(moved, bounds.highest - (bounds.highest - value) / FACTOR), bounds.lowest)
