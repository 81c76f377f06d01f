"""Hypergradients of an optimizer's options for whoever writes their own training loop."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stn.errors import UserError
from stn.hypergradients.gradients import gradients_of
from stn.hypergradients.products import CentralDifferences, DoubleBackward
from stn.hypergradients.replay import kept_buffers, kept_random_state, random_state, set_random_state
from stn.hypergradients.steps import REACH, Bounds, bounded_step, bounds_around
from stn.hypergradients.trajectory import Trajectory
from stn.hypergradients.updates import refuse_misfits
from stn.methods import Update
from stn.optimizers import set_option, shares, value_of


class OptimizerTuner:
    """Tunes options of a network's optimizer by the hypergradients of a validation loss, in any loop.

    hyper_lrs: which of "lr", "momentum" (of Adam the first beta) and "weight_decay" are tuned, and the step size β ≥ 0
    of each. mu: the discount of the past, in [0, 1]: 1 is RTHO (Franceschi et al. 2017), less is MARTHE (Donini et al.
    2020). clip, clip_value: largest norm, or largest entries, of the gradient, which `compute_hg` clips. first_order:
    leave the training loss's Hessian out. Each option tuned costs a product with it.

    Raises UserError for an optimizer or option that cannot be tuned, or that others change; ValueError for numbers out
    of range, and for a loss that cannot be differentiated twice.

    >>> net, loss = nn.Linear(3, 1), nn.MSELoss()
    >>> train, valid = ((torch.randn(16, 3), torch.randn(16, 1)) for _ in range(2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    >>> tuner = OptimizerTuner(optimizer, net, {"lr": 1e-4})
    >>> for _ in range(5):
    ...     tuner.compute_hg(loss(net(train[0]), train[1]))  # in place of zero_grad and backward
    ...     optimizer.step()
    ...     slopes = tuner.hyper_step(loss(net(valid[0]), valid[1]))
    >>> tuner.values["lr"] == optimizer.param_groups[0]["lr"] > 0
    True
    """

    def __init__(
        self,
        optimizer: Optimizer,
        net: nn.Module,
        hyper_lrs: Mapping[str, float],
        *,
        mu: float = 1.0,
        first_order: bool = False,
        clip: float = math.inf,
        clip_value: float = math.inf,
    ):
        if not 0 <= mu <= 1:
            raise ValueError(f"mu is {mu}: give a discount from 0 to 1")
        for option, step in hyper_lrs.items():
            if not 0 <= step < math.inf:
                raise ValueError(f"the step size of {option} is {step}: it must be a number of 0 or more")
        self.net, self.hyper_lrs, self.mu, self.first_order = net, dict(hyper_lrs), mu, first_order
        self.update = Update(optimizer, clip, clip_value=clip_value)
        self.parameters = self.update.parameters
        refuse_misfits(optimizer, self.parameters, [*hyper_lrs])
        self.differences = CentralDifferences(self.parameters, self._again)
        self.values = {option: value_of(optimizer, option) for option in hyper_lrs}
        self.shares = {option: shares(optimizer, option) for option in hyper_lrs}
        self.bounds = {option: bounds_around(value) for option, value in self.values.items()}
        if "momentum" in self.values:  # below 1 in every group
            lowest, most = self.bounds["momentum"].lowest, max(self.shares["momentum"])
            self.bounds["momentum"] = Bounds(lowest, 1 / most - (1 / most - self.values["momentum"]) / REACH)
        self.trajectories = {
            option: Trajectory(optimizer, self.parameters, option, clip, clip_value) for option in hyper_lrs
        }

    def compute_hg(self, loss: Tensor | Callable[[], Tensor]) -> None:
        """Compute the training loss's gradients, and carry on how the weights depend on the options.

        Call it right before `optimizer.step()`, in place of `zero_grad` and `backward`. loss: a scalar, whose graph can
        be differentiated twice; or a function that computes it, for networks of which it cannot: their Hessian products
        are then differences of gradients, for which it is called again, with the same random numbers. It computes in
        float32: without autocast.
        """
        self._refuse_other_hands()
        self.update.begin()
        exact = not self.first_order and self.mu > 0
        if callable(loss):
            self.step = loss, random_state()
            self.update.add(loss())
            products = self.differences if exact else None
        else:
            products = _Exact(self.update, several=len(self.trajectories) > 1).try_product if exact else None
            if not loss.requires_grad:
                raise ValueError("the loss does not depend on the network's weights: compute it from them, unfrozen")
            self.update.add(loss)
        norm = self.update.clipped()
        for trajectory in self.trajectories.values():
            trajectory.advance(norm, products, self.mu)
        self.update.backward = Tensor.backward  # and so let go of the graph

    def hyper_step(self, loss: Tensor) -> dict[str, float]:
        """Move the options against the hypergradients of a validation loss; these, by option.

        Call it after `optimizer.step()`. A hypergradient that is not finite moves nothing, and its past is forgotten.
        """
        gradients = gradients_of(loss, self.parameters)
        slopes = {option: trajectory.slope(gradients) for option, trajectory in self.trajectories.items()}
        for option, slope in slopes.items():
            if not math.isfinite(slope):
                self.trajectories[option].reset()
                continue
            change = -self.hyper_lrs[option] * slope
            self.values[option] = bounded_step(self.values[option], change, self.bounds[option])
            set_option(self.update.optimizer, option, self.values[option], self.shares[option])
        return slopes

    def _refuse_other_hands(self) -> None:
        """Raise UserError where a scheduler, say, has changed an option that is tuned, or a group was added."""
        for option, value in self.values.items():
            now = shares(self.update.optimizer, option), value_of(self.update.optimizer, option)
            if len(now[0]) != len(self.shares[option]) or not math.isclose(now[1], value, rel_tol=1e-9):
                changed = f"the optimizer's {option} was changed from {value:g} to {now[1]:g}, or its groups were"
                raise UserError(f"{changed}: leave them to the tuner, without a scheduler, or make a new one")

    def state_dict(self) -> dict:
        own = {option: trajectory.state_dict() for option, trajectory in self.trajectories.items()}
        return {"values": dict(self.values), "trajectories": own}

    def load_state_dict(self, state: dict) -> None:
        """The optimizer has its own state, options included."""
        self.values = dict(state["values"])
        for option, trajectory in self.trajectories.items():
            trajectory.load_state_dict(state["trajectories"][option])

    def _again(self) -> list[Tensor]:
        """The step's gradients, at the weights as they are now."""
        loss, random = self.step
        with kept_random_state(), kept_buffers(self.net):
            set_random_state(random)
            found = gradients_of(loss(), self.parameters)
        return [found[own] if own in found else torch.zeros_like(own) for own in self.parameters]


class _Exact(DoubleBackward):
    """Products that no differences take the place of."""

    def fail(self, error: RuntimeError) -> None:
        super().fail(error)
        raise ValueError(f"{self.failed}: give compute_hg a function that computes the loss") from error
