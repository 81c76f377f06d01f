"""How a step learns. A method owns the optimizers of the weights, of the hyperparameters and of their scales."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stn.bilevel import Loss, Step, Task
from stn.hyperparameters import Hyperparameters
from stn.layers import split_parameters


class Method(Protocol):
    """What the loop needs of a method. `set_learning_rate` is for the weights; hyperparameters have their own.

    elementary, response: the model's parameters, by their part in the best response.
    """

    elementary: list[nn.Parameter]
    response: list[nn.Parameter]

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step: ...

    def hyper_step(self, task: Task, hyper: Hyperparameters) -> Step: ...

    def set_learning_rate(self, value: float) -> None: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Update:
    """One step of an optimizer. Every gradient passes here between the backward pass and the update.

    clip: largest norm of the gradient; a larger one is scaled down to it. watchers: functions that are called with the
    parameters, whose gradients are final, before each update.
    """

    def __init__(self, optimizer: Optimizer, clip: float = math.inf):
        self.optimizer, self.clip = optimizer, clip
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.watchers: list[Callable[[list[nn.Parameter]], None]] = []

    def __call__(self, objective: Tensor) -> Tensor:
        """Minimize the objective by one step; the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = clip_gradient(self.parameters, self.clip)
        for watch in self.watchers:
            watch(self.parameters)
        self.optimizer.step()
        return norm


class STN:
    """The self-tuning network (MacKay et al. 2019, algorithm 1).

    A weight step minimizes the training loss L_T(λ + ε, ŵ(λ + ε)) over the weights, by SGD; a hyperparameter step
    minimizes the validation loss F(ŵ(λ)) over λ, by Adam, through the best response alone.

    clip: largest norm of the weights' gradient. tune_scales: learn the perturbation's scales too: the hyperparameters'
    objective is then F(ŵ(λ + ε)) − τ·entropy (eq. 14), with entropy_weight τ ≥ 0.
    """

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyperparameters,
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = math.inf,
        hyper_lr: float = 0.01,
        tune_scales: bool = False,
        scale_lr: float = 0.01,
        entropy_weight: float = 1e-3,
    ):
        self.elementary, self.response = split_parameters(model)
        weights = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, fused=True)
        tuned = torch.optim.Adam(
            [{"params": [hyper.unconstrained], "lr": hyper_lr}, {"params": [hyper.raw_scale], "lr": scale_lr}]
        )
        self.weights, self.hyper = Update(weights, clip), Update(tuned)
        self.tune_scales, self.entropy_weight = tune_scales, entropy_weight
        hyper.raw_scale.requires_grad_(tune_scales)

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.train()
        draw = hyper.perturbed(task.batch_size)
        batch = task.batch("train")
        prediction = task.predict(batch, draw)
        loss = task.loss(prediction, batch, draw)
        norm = self.weights(loss.objective)
        task.carry(batch, prediction)
        return _step(loss, loss.objective, norm)

    def hyper_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.eval()
        draw = hyper.current()
        if self.tune_scales:
            # The perturbation acts through the response; the values themselves stay the current ones.
            draw = replace(draw, h=hyper.perturbed(task.batch_size, differentiable=True).h)
        batch = task.batch("valid")
        with frozen(task.model):
            prediction = task.predict(batch, draw)
            loss = task.loss(prediction, batch, draw)
            objective = loss.objective
            if not objective.requires_grad:
                respond = f"build layers that respond to them, with num_hyper={hyper.num_tuned}, and pass them draw.h"
                raise ValueError(f"the validation loss does not depend on the tuned hyperparameters: {respond}")
            if self.tune_scales:
                objective = objective - self.entropy_weight * hyper.entropy()
            norm = self.hyper(objective)
        task.carry(batch, prediction)
        return _step(loss, objective, norm)

    def set_learning_rate(self, value: float) -> None:
        for group in self.weights.optimizer.param_groups:
            group["lr"] = value

    def state_dict(self) -> dict:
        return {"weights": self.weights.optimizer.state_dict(), "hyper": self.hyper.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.weights.optimizer.load_state_dict(state["weights"])
        self.hyper.optimizer.load_state_dict(state["hyper"])


def clip_gradient(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The norm of the gradient, which is scaled down to `clip` where it is larger."""
    if clip < math.inf:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """While this lasts, the module's parameters take no gradients."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _step(loss: Loss, objective: Tensor, norm: Tensor) -> Step:
    data, objective = loss.data.detach(), objective.detach()
    return Step(data, objective - data, objective + norm, loss.targets, loss.accuracy)
