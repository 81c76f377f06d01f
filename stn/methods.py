"""How a step learns. A method owns the optimizers of the weights, of the hyperparameters and of their scales."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

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

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value


HYPER_OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}


class BestResponseMethod:
    """What methods share that tune hyperparameters through a best response: everything but the weight step.

    A hyperparameter step minimizes the validation loss F(ŵ(λ)) over λ through the best response alone.

    updates: the optimizers' steps by name, of which the state is the method's. hyper_optimizer, hyper_lr: of λ and the
    scales. tune_scales: learn the perturbation's scales too: the objective is then F(ŵ(λ + ε)) − τ·entropy (MacKay et
    al. 2019, eq. 14), with entropy_weight τ ≥ 0.
    """

    updates: dict[str, Update]

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyperparameters,
        *,
        hyper_lr: float = 0.01,
        hyper_optimizer: str = "adam",
        tune_scales: bool = False,
        scale_lr: float = 0.01,
        entropy_weight: float = 1e-3,
    ):
        if hyper_optimizer not in HYPER_OPTIMIZERS:
            raise ValueError(f"hyper_optimizer is {hyper_optimizer!r}: it must be one of {', '.join(HYPER_OPTIMIZERS)}")
        self.elementary, self.response = split_parameters(model)
        groups = [{"params": [hyper.unconstrained], "lr": hyper_lr}, {"params": [hyper.raw_scale], "lr": scale_lr}]
        self.updates = {"hyper": Update(HYPER_OPTIMIZERS[hyper_optimizer](groups))}
        self.tune_scales, self.entropy_weight = tune_scales, entropy_weight
        hyper.raw_scale.requires_grad_(tune_scales)

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
            norm = self.updates["hyper"](objective)
        task.carry(batch, prediction)
        return step_of(loss, objective, norm)

    def state_dict(self) -> dict:
        return {name: update.optimizer.state_dict() for name, update in self.updates.items()}

    def load_state_dict(self, state: dict) -> None:
        for name, update in self.updates.items():
            update.optimizer.load_state_dict(state[name])


class STN(BestResponseMethod):
    """The self-tuning network (MacKay et al. 2019, algorithm 1).

    A weight step minimizes the training loss L_T(λ + ε, ŵ(λ + ε)) over the weights, by SGD; for the hyperparameter step
    and its options see `BestResponseMethod`.

    clip: largest norm of the weights' gradient.
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
        **hyper_options: Any,
    ):
        super().__init__(model, hyper, **hyper_options)
        weights = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, fused=True)
        self.updates["weights"] = Update(weights, clip)

    def weight_step(self, task: Task, hyper: Hyperparameters) -> Step:
        task.model.train()
        draw = hyper.perturbed(task.batch_size)
        batch = task.batch("train")
        prediction = task.predict(batch, draw)
        loss = task.loss(prediction, batch, draw)
        norm = self.updates["weights"](loss.objective)
        task.carry(batch, prediction)
        return step_of(loss, loss.objective, norm)

    def set_learning_rate(self, value: float) -> None:
        self.updates["weights"].set_learning_rate(value)


def clip_gradient(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The norm of the gradient, which is scaled down to `clip` where it is larger."""
    if clip < math.inf:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


@contextmanager
def frozen(module: nn.Module | Iterable[nn.Parameter]) -> Iterator[None]:
    """While this lasts, the module's parameters, or the ones given, take no gradients."""
    parameters = module.parameters() if isinstance(module, nn.Module) else module
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def step_of(loss: Loss, objective: Tensor, norm: Tensor) -> Step:
    """The record of a step that minimized the objective, whose gradient had this norm."""
    data, objective = loss.data.detach(), objective.detach()
    return Step(data, objective - data, objective + norm, loss.targets, loss.accuracy)
