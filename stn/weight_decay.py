"""Weight decay as a hyperparameter of the training loss: what is penalized are the weights as they respond.

Half the coefficient times ‖W + g_b ⊙ W'‖², g_b the gate of example b, in the mean over the examples. With a constant
coefficient its gradient is that of torch.optim.SGD's weight_decay. Penalizing W alone would leave the response blind
to the coefficient.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stn.conversion import SelfTuning
from stn.hyperparameters import Draw
from stn.layers import HyperLayer
from stn.patterns import Patterns
from stn.response import RespondingWeight, gated


class WeightDecay:
    """The penalty on a network's weights; called with a draw, it returns it in nats, a scalar.

    coefficients: the hyperparameter that is the coefficient of all weights, or one for each pattern of layers' names in
    the network, of which the first that fits counts, such as {"encoder.*": "decay"}. Biases, and parameters of one
    dimension such as those of normalization, are not penalized, nor is what is frozen. A weight that two layers share
    counts once.

    Raises ValueError for a pattern that fits no layer with a weight.

    >>> import stn
    >>> hyper = stn.Hyperparameters(decay=stn.Tuned(0.5, range=(0, float("inf")), per_example=False))
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> nn.init.constant_(layer.weight, 3.0)
    Parameter containing:
    tensor([[3., 3.]], requires_grad=True)
    >>> decay = WeightDecay(stn.convert(layer, hyper), "decay")
    >>> round(decay(hyper.current()).item(), 4)  # ½ · 0.5 · (3² + 3²): at its start the weight does not respond
    4.5
    """

    def __init__(self, model: nn.Module, coefficients: str | Mapping[str, str]):
        self.model = model.module if isinstance(model, SelfTuning) else model
        self.coefficients = Patterns("weight_decay", coefficients)
        self.coefficients.refuse_idle(name for name, layer in self.model.named_modules() if _weights_of(layer))
        if not [*self._weights()]:
            raise ValueError("weight_decay: the network has no weight that it could penalize")

    def __call__(self, draw: Draw) -> Tensor:
        penalties = (_penalty(weight, draw[name], draw.h) for weight, name in self._weights())
        return sum(penalties, torch.zeros((), device=draw.h.device))

    def _weights(self) -> Iterator[tuple[RespondingWeight, str]]:
        """Those that are trained just now, and the names of their coefficients."""
        seen: set[tuple] = set()
        for name, layer in self.model.named_modules():
            for weight in _weights_of(layer):
                coefficient, memory = self.coefficients.of(name), _memory(weight.weight)
                if coefficient is not None and memory not in seen and weight.requires_grad:
                    seen.add(memory)
                    yield weight, coefficient


def _weights_of(layer: nn.Module) -> list[RespondingWeight]:
    if isinstance(layer, HyperLayer):
        return layer.responding_weights()
    names = [*layer._parameters, *(layer.parametrizations if parametrize.is_parametrized(layer) else ())]
    own = [getattr(layer, name) for name in names if "weight" in name]
    return [part for weight in own if weight is not None and weight.dim() > 1 for part in _parts(layer, weight)]


def _parts(layer: nn.Module, weight: Tensor) -> list[RespondingWeight]:
    """The three projections of an attention layer, each by itself as its twin has them, or the weight as it is."""
    attends = isinstance(layer, nn.MultiheadAttention) and len(weight) == 3 * layer.embed_dim
    return [RespondingWeight(part) for part in weight.chunk(3 if attends else 1)]


def _memory(weight: Tensor) -> tuple:
    """What two tensors share that are one weight."""
    return weight.untyped_storage()._cdata, weight.storage_offset(), weight.shape


def _penalty(weight: RespondingWeight, coefficient: float | Tensor, h: Tensor) -> Tensor:
    """Σ over rows r of ½ (c̄ ‖W_r‖² + 2 mean(c g_r) W_r·W'_r + mean(c g_r²) ‖W'_r‖²): no copy for each example."""
    elementary = weight.rows(weight.weight)
    coefficient = torch.as_tensor(coefficient, dtype=elementary.dtype, device=elementary.device).reshape(-1, 1)
    penalty = coefficient.mean() * elementary.square().sum()
    if weight.response is not None:
        response, gate = weight.rows(weight.response), gated(h, weight.gate)
        mixed, squared = (elementary * response).sum(1), response.square().sum(1)
        penalty = penalty + 2 * (coefficient * gate).mean(0) @ mixed + (coefficient * gate.square()).mean(0) @ squared
    return penalty / 2
