"""How weights respond to hyperparameters: the arithmetic that best-response layers share.

`at_centre` a layer linearizes its response where h or x is a dual tensor of `torch.autograd.forward_ad`: the primal is
the output at h = 0, and the tangent ẏ = W ẋ + (V ε) ⊙ (W' x) + (C ε) ⊙ b' its derivative in the direction of the
tangents ẋ and ε (Bae & Grosse 2020). Both are differentiable. Elsewhere, PyTorch differentiates layers as it does any
function.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

_centred = ContextVar("centred", default=False)


@contextmanager
def at_centre() -> Iterator[None]:
    """While this lasts, layers take h to be 0, and its tangent for the direction in which to linearize."""
    before = _centred.set(True)
    try:
        yield
    finally:
        _centred.reset(before)


def linearizes(*inputs: Tensor | None) -> bool:
    """Whether a layer is to linearize: `at_centre`, where an input carries a tangent of `torch.autograd.forward_ad`."""
    return _centred.get() and any(map(is_dual, inputs))


def is_dual(tensor: Tensor | None) -> bool:
    """Whether it carries a tangent of `torch.autograd.forward_ad`."""
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


def respond(elementary: Tensor, gate: Tensor, response: Tensor) -> Tensor:
    """elementary + gate ⊙ response, broadcast: of each example's output, or of weights that all examples share."""
    return torch.addcmul(elementary, gate, response)


def gated(h: Tensor, gate: Tensor) -> Tensor:
    """V h, (B, F), of the gate's type: a network in bfloat16 may have hyperparameters in float32."""
    return F.linear(h.to(gate.dtype), gate)


class RespondingWeight(NamedTuple):
    """W + g ⊙ W': a weight, its response or None, the gate (F, H) of g, and the axis of W along which g lies."""

    weight: Tensor
    response: Tensor | None = None
    gate: Tensor | None = None
    axis: int = 0

    def rows(self, part: Tensor) -> Tensor:
        """(F, …): the weight or its response, with what an entry of g multiplies in one row."""
        return part.movedim(self.axis, 0).flatten(1)

    @property
    def requires_grad(self) -> bool:
        return self.weight.requires_grad or (self.response is not None and self.response.requires_grad)


class AffineResponse:
    """y = W x + b + (V h) ⊙ (W' x) + (C h) ⊙ b' (MacKay et al. 2019, eq. 9-11), of what has these parts as attributes.

    `weight` and `response_weight` (out, …), `bias` and `response_bias` (out,) or None, `gate`, V over C, (2·out, H),
    without a bias (out, H); `elementary_scale` () or None, by which W x + b is multiplied; `num_hyper`, H, of which 0
    leaves the plain layer. Products are computed in the inputs' dtype, which may be bfloat16; parameters, and responses
    folded into them, keep their own.
    """

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The plain layer's output for weights of x's dtype."""
        raise NotImplementedError

    def across(self, gate: Tensor, y: Tensor) -> Tensor:
        """(B or 1, out), as it broadcasts over outputs like y."""
        raise NotImplementedError

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W x and W' x."""
        return self._cast_forward(x, self.weight), self._cast_forward(x, self.response_weight)

    def stacked_products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same by one convolution with the output channels stacked, so that the inputs are read once."""
        elementary, response = self._cast_forward(x, torch.cat([self.weight, self.response_weight])).chunk(2, 1)
        return elementary, response

    def output(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Of inputs x, for h (B, H) or (1, H)."""
        if not self.num_hyper:
            return self._cast_forward(x, self._scaled(self.weight), self._scaled_bias())
        if linearizes(x, h):
            return self._linearized(x, h)
        if len(h) == 1:
            return self._cast_forward(x, *self.responding(h))
        weight_gate, bias = self._gates(h)
        elementary, response = self.products(x)
        y = respond(self._scaled(elementary), self.across(weight_gate, elementary).to(elementary.dtype), response)
        return y if bias is None else y + self.across(bias, y).to(y.dtype)

    def responding_weights(self) -> list[RespondingWeight]:
        """W and its response."""
        if not self.num_hyper:
            return [RespondingWeight(self.weight)]
        return [RespondingWeight(self._scaled(self.weight), self.response_weight, self.gate[: len(self.weight)])]

    def responding(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """The plain layer's weight and bias that respond to h (1, H)."""
        weight_gate, bias = self._gates(h)
        gate = weight_gate.reshape(-1, *[1] * (self.weight.dim() - 1))
        return respond(self._scaled(self.weight), gate, self.response_weight), None if bias is None else bias[0]

    def _gates(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights' gate, and the bias that responds to h, (B, out) each."""
        gate, bias = gated(h, self.gate), self._scaled_bias()
        if bias is None:
            return gate, None
        weight_gate, bias_gate = gate.chunk(2, -1)
        return weight_gate, respond(bias, bias_gate, self.response_bias)

    def _linearized(self, x: Tensor, h: Tensor) -> Tensor:
        """A dual tensor: the output at the centre, and its tangent."""
        (x, tangent_x), (_, tangent_h) = forward_ad.unpack_dual(x), forward_ad.unpack_dual(h)
        weight, bias = self._scaled(self.weight), self._scaled_bias()
        primal, tangent = self._cast_forward(x, weight, bias), None
        if tangent_h is not None:
            gate = gated(tangent_h, self.gate).to(x.dtype)
            weight_gate, bias_gate = (gate, None) if bias is None else gate.chunk(2, 1)
            response = self._cast_forward(x, self.response_weight)
            tangent = self.across(weight_gate, response) * response
            if bias is not None:
                tangent = tangent + self.across(bias_gate * self.response_bias.to(x.dtype), tangent)
        if tangent_x is not None:
            carried = self._cast_forward(tangent_x, weight)
            tangent = carried if tangent is None else tangent + carried
        return forward_ad.make_dual(primal, tangent.to(primal.dtype))

    def _scaled(self, elementary: Tensor) -> Tensor:
        if self.elementary_scale is None:
            return elementary
        # [None]: without a dimension, a GPU would round the scalar to bfloat16, the same error for all outputs.
        return (elementary * self.elementary_scale[None]).to(elementary.dtype)

    def _scaled_bias(self) -> Tensor | None:
        return None if self.bias is None else self._scaled(self.bias)

    def _cast_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.plain_forward(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
