"""The weights' learning rate: constant, or decayed where the validation loss makes no progress.

The loop asks after each step and each evaluation; what a learning rate remembers is in the checkpoint.
"""

from collections.abc import Sequence


class LearningRate:
    """A constant learning rate; the others derive from it. lowest: training ends below it."""

    def __init__(self, value: float, lowest: float = 0.0):
        self.value, self.lowest = value, lowest

    @property
    def too_low(self) -> bool:
        """Whether training ends."""
        return self.value < self.lowest

    def after_step(self) -> None:
        """A weight step was taken."""

    def after_evaluation(self, loss: float, epochs: int) -> None:
        """`epochs` passes over the training data are complete, with this validation loss in nats."""

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        for name in self.state_dict():
            setattr(self, name, state[name])


class NonMonotonicDecay(LearningRate):
    """Divided where the validation loss is no better than it was more than `nonmono` epochs ago.

    This is the condition of Merity et al. 2018, algorithm 1. divisor: above 1. milestones: epochs after which the
    learning rate is divided in any case.
    """

    def __init__(self, value: float, divisor: float, nonmono: int, milestones: Sequence[int] = (), lowest: float = 0.0):
        super().__init__(value, lowest)
        self.divisor, self.nonmono, self.milestones = divisor, nonmono, milestones
        self.losses: list[float] = []
        self.epochs = 0

    def after_evaluation(self, loss: float, epochs: int) -> None:
        before = self.losses[: -self.nonmono or None]
        milestone = any(self.epochs < milestone <= epochs for milestone in self.milestones)
        if (before and loss > min(before)) or milestone:
            self.value /= self.divisor
        self.losses.append(loss)
        self.epochs = epochs

    def state_dict(self) -> dict:
        return {"value": self.value, "losses": list(self.losses), "epochs": self.epochs}
