"""Weight decay as a hyperparameter of the training loss: what is penalized are the weights as they respond.

Half the coefficient times ‖W + g_b ⊙ W'‖², g_b the gate of example b, in the mean over the examples. With a constant
coefficient its gradient is that of torch.optim.SGD's weight_decay. Penalizing W alone would leave the response blind
to the coefficient.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.hyperparameters import Draw
from stn.layers import HyperLayer
from stn.patterns import Patterns
from stn.response import RespondingWeight


class WeightDecay:
    """The penalty on a network's weights; called with a draw, it returns it in nats, a scalar.

    coefficients: the hyperparameter that is the coefficient of all weights, or one for each pattern of layers' names,
    of which the first that fits counts, such as {"encoder.*": "decay"}. Biases, and parameters of one dimension such as
    those of normalization, are not penalized, nor is what is frozen. A weight that two layers share counts once.

    Raises ValueError for a pattern that fits no layer with a weight.
    """

    def __init__(self, model: nn.Module, coefficients: str | Mapping[str, str]):
        self.model, self.coefficients = model, Patterns("weight_decay", coefficients)
        if not [*self._weights()]:
            raise ValueError("weight_decay: the network has no weight that it could penalize")
        self.coefficients.refuse_idle()

    def __call__(self, draw: Draw) -> Tensor:
        return sum(_penalty(weight, draw[name], draw.h) for weight, name in self._weights())

    def _weights(self) -> Iterator[tuple[RespondingWeight, str]]:
        """Those that are trained just now, and the names of their coefficients."""
        seen: set[Tensor] = set()
        for name, layer in self.model.named_modules():
            for weight in _weights_of(layer):
                coefficient = self.coefficients.of(name)
                if coefficient is not None and weight.weight not in seen and weight.requires_grad:
                    seen.add(weight.weight)
                    yield weight, coefficient


def _weights_of(layer: nn.Module) -> list[RespondingWeight]:
    if isinstance(layer, HyperLayer):
        return layer.responding_weights()
    own = layer.named_parameters(recurse=False)
    return [RespondingWeight(weight) for name, weight in own if weight.dim() > 1 and "weight" in name]


def _penalty(weight: RespondingWeight, coefficient: float | Tensor, h: Tensor) -> Tensor:
    """Σ over rows r of ½ (c̄ ‖W_r‖² + 2 mean(c g_r) W_r·W'_r + mean(c g_r²) ‖W'_r‖²): no copy for each example."""
    elementary = weight.rows(weight.weight)
    coefficient = torch.as_tensor(coefficient, dtype=elementary.dtype, device=elementary.device).reshape(-1, 1)
    penalty = coefficient.mean() * elementary.square().sum()
    if weight.response is not None:
        response, gate = weight.rows(weight.response), F.linear(h, weight.gate)
        mixed, squared = (elementary * response).sum(1), response.square().sum(1)
        penalty = penalty + 2 * (coefficient * gate).mean(0) @ mixed + (coefficient * gate.square()).mean(0) @ squared
    return penalty / 2
