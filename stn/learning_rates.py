"""The weights' learning rate: constant, decayed by a rule of PyTorch's or where the validation loss makes no progress,
or replayed.

The loop asks after each step and each evaluation; what a learning rate remembers is in the checkpoint.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)

from stn.bilevel import Task
from stn.hyperparameters import Hyperparameters
from stn.methods import Method
from stn.schedules import Schedule

EACH = ("step", "epoch")
LOWEST_OF_COSINE = 1e-4  # of the first value


class LearningRate:
    """A constant learning rate; the others derive from it. lowest: training ends below it.

    tuned: whether it is learned, or replays what a run recorded. differentiates: whether it takes derivatives of its
    own, of whole mini-batches.
    """

    tuned = differentiates = False

    def __init__(self, value: float, lowest: float = 0.0):
        self.value, self.lowest = value, lowest

    def __str__(self) -> str:
        return f"{self.value:g}"

    def described(self) -> str:
        """What it was made of."""
        return f"{type(self).__name__}(lr={self.value:g})"

    def attach(self, task: Task, hyper: Hyperparameters, method: Method) -> Task:  # noqa: ARG002
        """Training begins with these; the task as weight steps are to see it."""
        return task

    def columns(self) -> dict[str, float]:
        """What the tables say of it, by column, always the same ones.

        `lr`, which the next weight step takes; of a tuned one `hyper_lr`, the step size of its hypergradient steps, 0
        where it is replayed; and where it has one `mu`, their discount.
        """
        return {"lr": self.value}

    @property
    def by_step(self) -> bool:
        """Whether the tables of steps follow it, as it changes from step to step."""
        return self.tuned

    @property
    def too_low(self) -> bool:
        """Whether training ends."""
        return self.value < self.lowest

    def apply(self, method: Method) -> None:
        """Have the method take its next weight step at this learning rate."""
        method.set_learning_rate(self.value)

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


class Replayed(LearningRate):
    """One that an earlier run recorded, tuned as a rule: it follows what that recorded, and never ends the training."""

    tuned = True

    def __init__(self, schedule: Schedule):
        self.schedule, self.lowest = schedule, 0.0
        self.steps = self.epochs = 0

    def __str__(self) -> str:
        return str(self.schedule)

    @property
    def value(self) -> float:
        return self.schedule.at(self.steps + 1, self.epochs)  # recorded is what each step has taken

    def columns(self) -> dict[str, float]:
        return {"lr": self.value, "hyper_lr": 0.0}

    def after_step(self) -> None:
        self.steps += 1

    def after_evaluation(self, loss: float, epochs: int) -> None:  # noqa: ARG002
        self.epochs = epochs

    def state_dict(self) -> dict:
        return {"steps": self.steps, "epochs": self.epochs}


class Scheduled(LearningRate):
    """Those of an optimizer that the user built, as they are, or as one of torch's schedulers changes them.

    optimizer: whose learning rate the logs have. each: whether schedulers are stepped after each weight "step" or each
    "epoch". Raises ValueError for another word, or a ReduceLROnPlateau, which wants the validation loss, stepped after
    each weight step.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler] = (), each: str = "epoch"):
        if each not in EACH:
            raise ValueError(f"schedulers cannot be stepped each {each!r}: give one of {', '.join(EACH)}")
        if each == "step" and any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise ValueError('a ReduceLROnPlateau follows the validation loss: have it stepped each "epoch"')
        self.optimizer, self.schedulers, self.each, self.lowest = optimizer, schedulers, each, 0.0

    @property
    def value(self) -> float:
        """The first group's, which the logs have."""
        return float(self.optimizer.param_groups[0]["lr"])

    def apply(self, method: Method) -> None:
        """Nothing: the optimizer has them."""

    def after_step(self) -> None:
        for scheduler in self.schedulers if self.each == "step" else ():
            scheduler.step()

    def after_evaluation(self, loss: float, epochs: int) -> None:  # noqa: ARG002
        for scheduler in self.schedulers if self.each == "epoch" else ():
            scheduler.step(loss) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()

    def state_dict(self) -> dict:
        return {"schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state: dict) -> None:
        for scheduler, own in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(own)


class TorchSchedule(Scheduled):
    """One that goes from `value` as a scheduler of torch's says, stepped after each weight "step" or each "epoch".

    make: the scheduler of an optimizer, which here has but a placeholder of a weight.
    """

    def __init__(self, value: float, make: Callable[[Optimizer], LRScheduler], each: str = "epoch", lowest: float = 0):
        optimizer = SGD([torch.zeros((), requires_grad=True)], value)
        super().__init__(optimizer, [make(optimizer)], each)
        self.lowest = lowest
        optimizer.step()  # torch warns of a scheduler whose optimizer takes no step

    @property
    def by_step(self) -> bool:
        return self.each == "step"

    def apply(self, method: Method) -> None:
        method.set_learning_rate(self.value)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        super().load_state_dict(state)


def staircase(value: float, epochs: int, factor: float, lowest: float = 0.0) -> TorchSchedule:
    """Multiplied by `factor` after every so many epochs."""
    return TorchSchedule(value, partial(StepLR, step_size=epochs, gamma=factor), lowest=lowest)


def exponential(value: float, factor: float, lowest: float = 0.0) -> TorchSchedule:
    """Multiplied by `factor` after each epoch."""
    return TorchSchedule(value, partial(ExponentialLR, gamma=factor), lowest=lowest)


def warm_restarts(value: float, steps: int, growth: int = 1) -> TorchSchedule:
    """Falls along half a cosine from `value` to LOWEST_OF_COSINE of it, and starts again: Loshchilov & Hutter 2017.

    steps: weight steps of the first such period. growth: how many times as long as the one before each other is.
    """
    cosine = partial(CosineAnnealingWarmRestarts, T_0=steps, T_mult=growth, eta_min=LOWEST_OF_COSINE * value)
    return TorchSchedule(value, cosine, each="step")
