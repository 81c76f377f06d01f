"""How weights depend on an option of their optimizer, carried from update to update in forward mode."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stn.hypergradients.updates import WEIGHT, Tangent, no_tangent, update_of
from stn.optimizers import shares

Product = Callable[[list[Tensor]], list[Tensor]]  # of the training loss's Hessian with a direction


class Trajectory:
    """Z, the derivative of weights and optimizer state with respect to an option, such as the learning rate.

    Each update takes it to Z ← μ A Z + B (Donini et al. 2020), where A and B are the derivatives of the update with
    respect to the state and to the option. At a discount μ of 1 and a constant option, Z·∇E is the hypergradient of E
    through the whole training; at μ = 0 through its last update alone.

    parameters: the weights that are followed, of the optimizer's. clip, clip_value: of their gradient, its norm and its
    entries, which are part of the update.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Sequence[nn.Parameter],
        option: str = "lr",
        clip: float = math.inf,
        clip_value: float = math.inf,
    ):
        self.optimizer, self.option, self.clip, self.clip_value = optimizer, option, clip, clip_value
        # By place, as an optimizer that loads a state has other groups from then on.
        places = {
            parameter: (place, {option: share})
            for place, share in enumerate(shares(optimizer, option))
            for parameter in optimizer.param_groups[place]["params"]
        }
        self.places = {parameter: places[parameter] for parameter in parameters}
        self.tangents: dict[nn.Parameter, Tangent] = {}

    def reset(self) -> None:
        self.tangents = {}

    @torch.no_grad()
    def advance(self, norm: Tensor, product: Product | None, discount: float) -> None:
        """Follow the update that is about to be made; the parameters have their final gradients.

        norm: the gradient's, before clipping. product: with the Hessian; None leaves that part of A out. A weight
        without a gradient is not updated, and its tangent only discounted.
        """
        if discount == 0:
            self.reset()
        for tangent in self.tangents.values() if discount != 1 else ():
            for part in tangent.values():
                part.mul_(discount)
        updated = [parameter for parameter in self.places if parameter.grad is not None]
        grad_tangents = self._gradients_tangents(norm, updated, product)
        update = update_of(self.optimizer)
        for parameter, grad_tangent in zip(updated, grad_tangents, strict=True):
            place, direction = self.places[parameter]
            group = self.optimizer.param_groups[place]
            tangent = self.tangents.get(parameter) or no_tangent(self.optimizer, parameter)
            state = self.optimizer.state.get(parameter, {})
            self.tangents[parameter] = update(group, direction, state, parameter, parameter.grad, tangent, grad_tangent)

    def slope(self, gradients: dict[nn.Parameter, Tensor]) -> float:
        """Z·∇E, of the gradients of E with respect to the weights: the hypergradient of E."""
        parts = [
            torch.linalg.vecdot(gradient.flatten(), self.tangents[parameter][WEIGHT].flatten())
            for parameter, gradient in gradients.items()
            if parameter in self.tangents
        ]
        return torch.stack(parts).sum().item() if parts else 0.0

    def _gradients_tangents(
        self, norm: Tensor, updated: Sequence[nn.Parameter], product: Product | None
    ) -> list[Tensor]:
        if product is None or not self.tangents:
            return [torch.zeros_like(parameter) for parameter in updated]
        direction = [
            self.tangents[parameter][WEIGHT] if parameter in self.tangents else torch.zeros_like(parameter)
            for parameter in self.places
        ]
        found = dict(zip(self.places, product(direction), strict=True))
        return self._clipped(norm, updated, [found[parameter] for parameter in updated])

    def _clipped(self, norm: Tensor, updated: Sequence[nn.Parameter], tangents: list[Tensor]) -> list[Tensor]:
        """The tangent of the clipped gradient: (c/‖g‖) (I − ĝĝᵀ) dg where the norm was too large."""
        if self.clip < math.inf and norm > self.clip:
            # g is the clipped gradient, c / (‖g‖ + 1e-6) as long as the one before: PyTorch's clip_grad_norm_.
            scale = self.clip / (norm + 1e-6)
            along = sum(
                torch.linalg.vecdot(own.grad.flatten(), tangent.flatten())
                for own, tangent in zip(updated, tangents, strict=True)
            )
            tangents = [
                tangent * scale - own.grad * (along / (self.clip * norm))
                for own, tangent in zip(updated, tangents, strict=True)
            ]
        if self.clip_value < math.inf:
            tangents = [
                torch.where(own.grad.abs() < self.clip_value, tangent, 0.0)
                for own, tangent in zip(updated, tangents, strict=True)
            ]
        return tangents

    def state_dict(self) -> dict:
        return {"tangents": [self.tangents.get(parameter) for parameter in self.places]}

    def load_state_dict(self, state: dict) -> None:
        self.tangents = {
            parameter: {name: part.to(parameter.device) for name, part in tangent.items()}
            for parameter, tangent in zip(self.places, state["tangents"], strict=True)
            if tangent is not None
        }
