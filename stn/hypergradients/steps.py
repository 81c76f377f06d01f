"""Steps of an optimizer's options against their hypergradients, which keep them positive and finite."""

import math

FACTOR = 2.0  # the most by which a step changes an option


def bounded_step(value: float, change: float, lowest: float, highest: float = math.inf) -> float:
    """The value after a change, of at most a factor of FACTOR, in itself and in its distance to `highest`.

    lowest: where it stays. A finite value above 0 stays one.
    """
    moved = min(max(value + change, value / FACTOR), value * FACTOR)
    if highest < math.inf:
        moved = min(moved, highest - (highest - value) / FACTOR)
    return max(moved, lowest)
