"""Where a hyperparameter's value comes from when it is not tuned."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same value for ever: a fixed baseline."""

    value: float
