"""A run's hypergradients, by its best response and by training on at other hyperparameters.

A hyperparameter step goes along −dL_V/dλ as the best response has it. What λ does to the validation loss is seen by
training on for some steps at λ + δs and, from the same weights and on the same random numbers, at λ − δs. The
signs s are rows of a Hadamard matrix, so that each training says something of every hyperparameter, and what it says of
one is not mixed with the others: a two-level design (Plackett & Burman 1946) of central differences.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stn.bilevel import evaluate
from stn.layers import gates
from stn.training import Trainer


class Estimate(NamedTuple):
    """mean: of some measurements. error: its standard error."""

    mean: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether the sign can be told: the mean is more than two standard errors from 0."""
        return abs(self.mean) > 2 * self.error


class Evidence(NamedTuple):
    """What is known of −dL_V/dλ of one hyperparameter, in nats per unit of the unconstrained λ.

    value: the hyperparameter's. gate: root mean square of the gates' weights for it. response: by the best response,
    over mini-batches of the validation data; noise: the standard deviation of one hyperparameter step's. training: by
    training on.
    """

    value: float
    gate: float
    response: Estimate
    noise: float
    training: Estimate

    @property
    def agree(self) -> bool | None:
        """Whether both signs are the same; None where one of them cannot be told."""
        if not (self.response.is_clear and self.training.is_clear):
            return None
        return self.response.mean * self.training.mean > 0


def diagnose(
    trainer: Trainer,
    state: Mapping[str, Any],
    batches: int,
    steps: int,
    pairs: int,
    shift: float = 1.0,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Evidence]:
    """The evidence on each tuned hyperparameter.

    state: where the trainer is to start from, as a checkpoint holds it; of the trainer's own state a copy. batches: of
    validation data, for the response. steps: weight steps of each training. pairs: of trainings, a multiple of the
    number of `sign_patterns`. shift: δ, how far λ is moved. done: called after each step. The trainer is left somewhere
    else. Raises Diverged as training does, ValueError for a number of pairs that does not suffice.
    """
    hyper = trainer.hyper
    trainer.load_state_dict(state)
    values = hyper.constrain(hyper.unconstrained.detach())
    gate = torch.cat([gate.detach() for gate in gates(trainer.task.model)]).square().mean(0).sqrt()
    response = response_gradients(trainer, batches, done)
    effects, errors = design_effects(*training_differences(trainer, state, steps, pairs, shift, done))
    noise = response.std(0)
    return {
        name: Evidence(
            values[column].item(),
            gate[column].item(),
            Estimate(response[:, column].mean().item(), noise[column].item() / math.sqrt(batches)),
            noise[column].item(),
            Estimate(effects[column].item(), errors[column].item()),
        )
        for name, column in hyper.columns.items()
    }


def response_gradients(trainer: Trainer, batches: int, done: Callable[[], None] = lambda: None) -> Tensor:
    """(batches, H) −dL_V/dλ as hyperparameter steps see it, one after another, at the hyperparameters as they are."""
    update, found = trainer.method.updates["hyper"], []

    def keep(parameters: list[torch.nn.Parameter]) -> None:
        found.append(-parameters[0].grad.detach())

    update.set_learning_rate(0.0)
    update.watchers.append(keep)
    try:
        for _ in range(batches):
            trainer.hyper_step()
            done()
    finally:
        update.watchers.remove(keep)
    return torch.stack(found).cpu().double()


def training_differences(
    trainer: Trainer,
    state: Mapping[str, Any],
    steps: int,
    pairs: int,
    shift: float,
    done: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """(pairs, H) signs s, and (pairs,) the directional derivatives −(L_V(λ + δs) − L_V(λ − δs)) / 2δ after training on.

    Each pair trains on other mini-batches and other random numbers.
    """
    patterns = sign_patterns(trainer.hyper.num_tuned)
    signs = torch.stack([patterns[pair % len(patterns)] for pair in range(pairs)])
    losses = [
        [_trained_on(trainer, state, side * shift * signs[pair], steps, pair, done) for side in (1, -1)]
        for pair in range(pairs)
    ]
    above, below = torch.tensor(losses, dtype=torch.float64).T
    return signs, (below - above) / (2 * shift)


def _trained_on(
    trainer: Trainer, state: Mapping[str, Any], move: Tensor, steps: int, seed: int, done: Callable[[], None]
) -> float:
    """The validation loss after so many weight steps with λ moved."""
    trainer.load_state_dict(state)
    torch.manual_seed(seed)
    with torch.no_grad():
        trainer.hyper.unconstrained += move.to(trainer.hyper.unconstrained)
    for _ in range(seed * steps):
        trainer.task.batch("train")  # those that the pairs before have trained on
    for _ in range(steps):
        trainer.weight_step()
        done()
    trainer.recorder.flush()
    return evaluate(trainer.task, trainer.hyper, "valid").loss


def sign_patterns(count: int) -> Tensor:
    """(N, count) signs whose columns are orthogonal, N the least power of two that is at least `count`."""
    patterns = torch.ones(1, 1, dtype=torch.float64)
    while len(patterns) < count:
        patterns = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), patterns)
    return patterns[:, :count]


def design_effects(signs: Tensor, differences: Tensor) -> tuple[Tensor, Tensor]:
    """(H,) the least-squares effect of each hyperparameter, and its standard error.

    signs: (P, H), in whole designs of `sign_patterns`, P > H. differences: (P,). Raises ValueError for others.
    """
    pairs, count = signs.shape
    if pairs <= count or not torch.equal(signs.T @ signs, pairs * torch.eye(count, dtype=signs.dtype)):
        needed = len(sign_patterns(count))
        raise ValueError(f"{pairs} pairs for {count} hyperparameters: take a multiple of {needed}, above {count}")
    effects = signs.T @ differences / pairs
    variance = (differences - signs @ effects).square().sum() / (pairs - count)
    return effects, (variance / pairs).sqrt().expand(count)
