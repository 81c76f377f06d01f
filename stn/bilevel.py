"""What one step of a self-tuning network does (MacKay et al. 2019, algorithm 1).

A weight step minimizes the training loss L_T(λ + ε, ŵ(λ + ε)) over the weights; a hyperparameter step minimizes the
validation loss F(ŵ(λ)) over λ, through the best response alone.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stn.hyperparameters import Draw, Hyperparameters


class Loss(NamedTuple):
    """objective: what a step minimizes. data: mean loss per target in nats, without penalties. targets: how many.

    accuracy: the share of targets that are predicted right, where the task tells.
    """

    objective: Tensor
    data: Tensor
    targets: int
    accuracy: Tensor | None = None


class Score(NamedTuple):
    """loss: mean per target in nats. accuracy: the share of targets that are predicted right, where the task tells."""

    loss: float
    accuracy: float | None = None

    def measures(self) -> dict[str, float]:
        """By the names that logs use: the loss, and the accuracy or else the perplexity."""
        if self.accuracy is None:
            return {"loss": self.loss, "ppl": perplexity(self.loss)}
        return {"loss": self.loss, "acc": self.accuracy}


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


class Task(Protocol):
    """An experiment: what to train, on which mini-batches, with which loss. It owns its data streams."""

    model: nn.Module
    batch_size: int  # the most examples of a mini-batch
    epochs: int  # passes over the training stream completed so far
    position: tuple[int, int]  # weight steps of this pass, done and in all

    def training_loss(self, draw: Draw) -> Loss:
        """The loss on the next training mini-batch; regularized, with the draw's values."""

    def validation_loss(self, draw: Draw) -> Loss:
        """The loss on the next validation mini-batch, for a hyperparameter step; not regularized."""

    def evaluate(self, split: str, draw: Draw) -> Score:
        """Over all of "valid" or "test"."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Step(NamedTuple):
    """What a step did, as scalars on the device.

    data: its mini-batch's mean loss per target. penalty: what the objective added to that. health: a number that is
    finite if the step was.
    """

    data: Tensor
    penalty: Tensor
    health: Tensor
    targets: int
    accuracy: Tensor | None = None


def weight_step(task: Task, hyper: Hyperparameters, optimizer: Optimizer, clip: float) -> Step:
    """One step of the weights on the training loss, at hyperparameters perturbed around λ.

    clip: largest norm of the gradient; infinity for no clipping.
    """
    task.model.train()
    loss = task.training_loss(hyper.perturbed(task.batch_size))
    optimizer.zero_grad(set_to_none=True)
    loss.objective.backward()
    norm = clip_gradient(task.model.parameters(), clip)
    optimizer.step()
    return _step(loss, loss.objective, norm)


def clip_gradient(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The norm of the gradient, which is scaled down to `clip` where it is larger."""
    if clip < math.inf:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def hyper_step(task: Task, hyper: Hyperparameters, optimizer: Optimizer, entropy_weight: float | None) -> Step:
    """One step of λ on the validation loss; no gradient of the weights is computed.

    entropy_weight: τ ≥ 0, to tune the perturbation's scales too: the objective is then F(ŵ(λ + ε)) − τ·entropy
        (MacKay et al. 2019, eq. 14); None leaves them, and ε out.
    """
    task.model.eval()
    with frozen(task.model):
        if entropy_weight is None:
            loss = task.validation_loss(hyper.current())
            objective = loss.objective
        else:
            # The perturbation acts through the response; the values themselves stay the current ones.
            perturbed = hyper.perturbed(task.batch_size, differentiable=True)
            loss = task.validation_loss(replace(hyper.current(), h=perturbed.h))
            objective = loss.objective - entropy_weight * hyper.entropy()
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
    optimizer.step()
    return _step(loss, objective, hyper.unconstrained.sum())


def _step(loss: Loss, objective: Tensor, health: Tensor) -> Step:
    data, objective = loss.data.detach(), objective.detach()
    return Step(data, objective - data, objective + health.detach(), loss.targets, loss.accuracy)


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


@torch.no_grad()
def evaluate(task: Task, hyper: Hyperparameters, split: str) -> Score:
    """Over all of a split, with the best response to the current hyperparameters."""
    task.model.eval()
    return task.evaluate(split, hyper.current())
