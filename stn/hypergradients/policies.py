"""Learning rates that hypergradients tune while training goes on: HD, RTHO and MARTHE.

Each is moved against its hypergradient by η ← η − β ∂E/∂η, but at most to its half or its double at a step, so that it
stays positive and finite whatever the hypergradient. (Published implementations let it go negative.)
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from stn.bilevel import Task
from stn.errors import UserError
from stn.hypergradients.gradients import gradients_of
from stn.hypergradients.products import CentralDifferences, DoubleBackward
from stn.hypergradients.replay import Recorded
from stn.hypergradients.steps import Bounds, bounded_step, bounds_around
from stn.hypergradients.trajectory import Trajectory
from stn.hypergradients.updates import refuse_misfits
from stn.hyperparameters import Hyperparameters
from stn.learning_rates import LearningRate
from stn.methods import Method, Update
from stn.optimizers import value_of

PRODUCTS = ("auto", "double_backward", "differences")


class TunedRate(LearningRate):
    """Base class of learning rates that follow a hypergradient.

    value: the first learning rate, above 0 (default: that of the method's optimizer). hyper_lr: β ≥ 0, the step size of
    the hypergradient's step. lowest: no step goes below it (default: a millionth of the first value, as none goes above
    a million times it). It belongs to one training, which is begun with `attach`.
    """

    tuned = True
    _numbers: tuple[str, ...] = ("value", "hyper_lr", "slope")  # of the state

    def __init__(self, value: float | None = None, *, hyper_lr: float, lowest: float | None = None):
        super().__init__(math.nan if value is None else value)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"the learning rate is {value}: it must start above 0 to be tuned")
        if not 0 <= hyper_lr < math.inf:
            raise ValueError(f"hyper_lr is {hyper_lr}: it must be a number of 0 or more")
        if lowest is not None and not 0 < lowest <= (value or math.inf):
            raise ValueError(f"lowest is {lowest}: it must be above 0, and not above the first learning rate")
        self.hyper_lr, self.lowest_tuned, self.slope = hyper_lr, lowest, 0.0
        self.warned: set[str] = set()
        self.update: Update | None = None

    def described(self) -> str:
        """What it was made of."""
        first = None if math.isnan(self.value) else self.value  # the optimizer's
        options = {"lr": first, "hyper_lr": self.hyper_lr, "lowest": self.lowest_tuned, **self._options()}
        told = (f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{type(self).__name__}({', '.join(told)})"

    def _options(self) -> dict[str, Any]:
        """Those of a derived class, by name."""
        return {}

    def __str__(self) -> str:
        first, *others = (f"{name} {value:g}" for name, value in self.columns().items())
        return f"{first}, tuned by {type(self).__name__} with {', '.join(others)}"

    def attach(self, task: Task, hyper: Hyperparameters, method: Method) -> Task:
        if self.update is not None:
            raise UserError(f"this {type(self).__name__} has tuned another training: make a new one")
        self.hyper, self.method, self.update = hyper, method, method.main_update
        refuse_misfits(self.update.optimizer, self.update.parameters, ["lr"])
        if self.update.scaler is not None:
            raise UserError("a learning rate is not tuned with a GradScaler: train in bfloat16 or float32")
        if math.isnan(self.value):
            self.value = value_of(self.update.optimizer, "lr")
        self.bounds = bounds_around(self.value, self.lowest_tuned)
        update = self.update
        self.trajectory = Trajectory(
            update.optimizer, update.parameters, clip=update.clip, clip_value=update.clip_value
        )
        update.watchers.append(self._before_update)
        return task

    def columns(self) -> dict[str, float]:
        return {"lr": self.value, "hyper_lr": self.hyper_lr}

    def descend(self, slope: float) -> None:
        """Take a step against a hypergradient; one that is not finite is left out, and the past forgotten."""
        if not math.isfinite(slope):
            self._warn("slope", "a learning rate's hypergradient is not finite: its past is forgotten")
            self.trajectory.reset()
            return
        self.slope = slope
        self.value = bounded_step(self.value, -self.hyper_lr * slope, self.bounds)
        if self.value == self.bounds.lowest:
            told = f"the learning rate has come down to {self.value:.3g}, its lowest value"
            self._warn("floor", f"{told}: lower hyper_lr if it should not")

    def state_dict(self) -> dict:
        return {
            **{name: getattr(self, name) for name in self._numbers},
            "bounds": tuple(self.bounds),
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for name in self._numbers:
            setattr(self, name, state[name])
        self.bounds = Bounds(*state["bounds"])
        self.trajectory.load_state_dict(state["trajectory"])

    def _before_update(self, parameters: list[nn.Parameter]) -> None:
        """The weights' gradients are final, the update is not yet made."""

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(message, stacklevel=2)


class HD(TunedRate):
    """Hypergradient descent (Baydin et al. 2018): the training loss's own hypergradient, through the last update alone.

    Before an update the learning rate is moved against g·∂w/∂η, with the gradient g that the update is about to take,
    and the derivative of the update before: −g for SGD (eq. 5 there), and the like for momentum, Nesterov's and Adam.
    It needs no further gradient.
    """

    def _before_update(self, parameters: list[nn.Parameter]) -> None:
        gradients = {own: own.grad for own in parameters if own.grad is not None}
        self.descend(self.trajectory.slope(gradients))
        self.method.set_learning_rate(self.value)
        self.trajectory.advance(self.update.norm, None, 0.0)


class MARTHE(TunedRate):
    """The validation loss's hypergradient through the training so far, discounted (Donini et al. 2020).

    After each weight step ∂w/∂η is carried on, Z ← μ A Z + B, and the learning rate moved against Z·∇E. The gradient of
    E is of a validation mini-batch of its own, in evaluation mode as a hyperparameter step's: without dropout and
    augmentation, normalized by running statistics, the response at the current hyperparameters. A step costs a product
    with the training loss's Hessian besides, and that gradient.

    mu: the discount, in [0, 1]; below 0 it adapts: μ ← q^(1/(c+1)) with q = η / (∇E·g), kept within [0, 1], for the
    training gradient g, and the length c ← c·sign(μ) + μ of the past that counts; it starts at c = μ = 0. alpha: of the
    hyper-learning rate's own steps, β ← max(β + α η ∂E/∂η, 0), as published: β falls where η is to rise. first_order:
    leave the Hessian out. products: "double_backward" through the network, "differences" of gradients, for smooth
    networks alone (`CentralDifferences`), or "auto", the former where it can be done.

    Raises ValueError for numbers out of range.
    """

    differentiates = True

    def __init__(
        self,
        value: float | None = None,
        *,
        hyper_lr: float,
        mu: float = 0.99999,
        alpha: float = 0.0,
        first_order: bool = False,
        products: str = "auto",
        lowest: float | None = None,
    ):
        super().__init__(value, hyper_lr=hyper_lr, lowest=lowest)
        if not mu <= 1:
            raise ValueError(f"mu is {mu}: give a discount from 0 to 1, or a negative one to adapt it")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is {alpha}: it must be a number of 0 or more")
        if products not in PRODUCTS:
            raise ValueError(f"products is {products!r}: give one of {', '.join(PRODUCTS)}")
        self.mu, self.adapts, self.past = max(mu, 0.0), mu < 0, 0.0
        self.alpha, self.first_order, self.products = alpha, first_order, products
        self.way = "none" if first_order or mu == 0 else products.replace("auto", "double_backward")

    def __str__(self) -> str:
        ways = {"none": "without Hessian products", "double_backward": "Hessian products by double backward"}
        told = super().__str__() + (", which adapts" if self.adapts else "")
        return f"{told}, {ways.get(self.way, 'Hessian products by differences of gradients')}"

    def attach(self, task: Task, hyper: Hyperparameters, method: Method) -> Task:
        super().attach(task, hyper, method)
        self.task, self.recorded = task, Recorded(task)
        self.reader = task.add_reader("valid")
        self.gradients: dict[nn.Parameter, Tensor] = {}  # of the last update, final
        self._choose(self.products)
        return self.recorded

    def apply(self, method: Method) -> None:
        super().apply(method)
        if self.way != "none":
            self.recorded.begin()

    def after_step(self) -> None:
        slopes = self.validation_gradients()
        slope = self.trajectory.slope(slopes)
        if math.isfinite(self.hyper_lr + (change := self.alpha * slope * self.value)):
            self.hyper_lr = max(self.hyper_lr + change, 0.0)
        self.descend(slope)
        if self.adapts:
            self._adapt(slopes)
        self.gradients = {}

    def validation_gradients(self) -> dict[nn.Parameter, Tensor]:
        """∇E with respect to the weights, on the next validation mini-batch."""
        self.task.model.eval()
        with torch.no_grad():
            draw = self.hyper.current()
        batch = self.task.batch(self.reader)
        prediction = self.task.predict(batch, draw)
        objective = self.task.loss(prediction, batch, draw).objective
        gradients = gradients_of(objective, self.update.parameters)
        self.task.carry(batch, prediction)
        return gradients

    def _options(self) -> dict[str, Any]:
        mu = "adaptive" if self.adapts else self.mu
        return {"mu": mu, "alpha": self.alpha, "first_order": self.first_order, "products": self.products}

    def columns(self) -> dict[str, float]:
        return {**super().columns(), "mu": self.mu}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "way": self.way}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        if state["way"] == "differences" != self.way:
            self._choose("differences")

    _numbers = (*TunedRate._numbers, "mu", "past")

    def _before_update(self, parameters: list[nn.Parameter]) -> None:
        self.gradients = {own: own.grad for own in parameters if own.grad is not None}
        self.trajectory.advance(self.update.norm, self._product if self.way != "none" else None, self.mu)
        if self.way != "none":
            self.double.release()
            self.recorded.end()

    def _choose(self, way: str) -> None:
        """Take products that way from here on; "auto" begins with double backward."""
        if self.way == "none":
            return
        self.way = way.replace("auto", "double_backward")
        self.double = DoubleBackward(self.update)
        if self.way == "differences":
            self.double.stop()
        self.differences = CentralDifferences(
            self.update.parameters, lambda: self.recorded.gradients(self.update.parameters)
        )

    def _product(self, direction: list[Tensor]) -> list[Tensor]:
        if self.way == "double_backward":
            product = self.double.try_product(direction)
            if product is not None:
                return product
            self._fall_back()
        return self.differences(direction)

    def _fall_back(self) -> None:
        cause = f"the network cannot be differentiated twice ({self.double.failed})"
        if self.products != "auto":
            raise UserError(f'{cause}: take products="differences"')
        self.way = "differences"
        self._warn("products", f"{cause}: Hessian products are central differences of gradients, in float32")

    def _adapt(self, validation: dict[nn.Parameter, Tensor]) -> None:
        """The published rule for μ, whose first step, from the negative value that asks for it, divides by zero."""
        along = [
            torch.linalg.vecdot(gradient.flatten(), self.gradients[own].flatten())
            for own, gradient in validation.items()
            if own in self.gradients
        ]
        product = torch.stack(along).sum().item() if along else 0.0
        ratio = self.value / product if product else math.inf
        self.past = self.past * float(self.mu > 0) + self.mu
        self.mu = min(max(ratio, 0.0), 1.0) ** (1 / (self.past + 1)) if math.isfinite(product) else 0.0


class RTHO(MARTHE):
    """Real-time hyperparameter optimization (Franceschi et al. 2017): MARTHE that discounts nothing, μ = 1."""

    def __init__(self, value: float | None = None, *, hyper_lr: float, **options: Any):
        super().__init__(value, hyper_lr=hyper_lr, mu=1.0, **options)

    def columns(self) -> dict[str, float]:
        return TunedRate.columns(self)
