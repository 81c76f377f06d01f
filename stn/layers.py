"""Best-response layers: layers whose weights respond to hyperparameters, example by example.

    y = W x + b + (V h) ⊙ (W' x) + (C h) ⊙ b'        (MacKay et al. 2019, eq. 9-11)

W and b are the elementary weights and keep `torch.nn`'s own names, so that a plain checkpoint loads into its
self-tuning twin. W' and b' are `response_weight` and `response_bias`; V and C, stacked, are `gate`. With no
tuned hyperparameter a layer is its plain counterpart: no response, no extra memory or time.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_STD = 0.01  # MacKay et al. 2019: small, never zero, since a zero gate would leave W' without a gradient


class HyperLayer(nn.Module):
    """What best-response layers share. `num_hyper`: H, the number of tuned hyperparameters."""

    def __init__(self, num_hyper: int):
        super().__init__()
        self.num_hyper = num_hyper

    def declare(self, *names: str) -> None:
        """Parameters that some layers of this kind lack: None until added."""
        for name in names:
            self.register_parameter(name, None)

    def add_parameter(self, name: str, *shape: int, bound: float) -> None:
        """Register a parameter of this shape, drawn from U(±bound)."""
        self.register_parameter(name, nn.Parameter(torch.empty(*shape).uniform_(-bound, bound)))

    def add_gate(self, name: str, rows: int) -> None:
        """Register a gate of shape (rows, H), drawn from N(0, 0.01²)."""
        self.register_parameter(name, nn.Parameter(torch.empty(rows, self.num_hyper).normal_(std=GATE_STD)))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # A plain layer's checkpoint has no response: this layer keeps its own.
        response = {prefix + name: value for name, value in self.state_dict().items() if _is_response(name)}
        if not response.keys() & state_dict.keys():
            state_dict = {**state_dict, **response}
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_response(name: str) -> bool:
    return name.startswith(("response_", "gate"))


class HyperLinear(HyperLayer):
    """`nn.Linear` with a best response.

    `weight` and `response_weight` (out, in), `bias` and `response_bias` (out,), `gate` (2·out, H), without a
    bias (out, H).
    """

    def __init__(self, in_features: int, out_features: int, num_hyper: int, bias: bool = True):
        super().__init__(num_hyper)
        bound = 1 / math.sqrt(in_features)
        self.add_parameter("weight", out_features, in_features, bound=bound)
        self.declare("bias", "response_weight", "response_bias", "gate")
        if bias:
            self.add_parameter("bias", out_features, bound=bound)
        if num_hyper:
            self.add_parameter("response_weight", out_features, in_features, bound=bound)
            if bias:
                self.add_parameter("response_bias", out_features, bound=bound)
            self.add_gate("gate", 2 * out_features if bias else out_features)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """x (…, B, in), h (B, H) or (1, H) -> (…, B, out). A plain layer ignores h."""
        if not self.num_hyper:
            return F.linear(x, self.weight, self.bias)
        gate = F.linear(h, self.gate)
        weight_gate, bias_gate = gate.chunk(2, -1) if self.bias is not None else (gate, None)
        bias = None if self.bias is None else respond(self.bias, bias_gate, self.response_bias)
        if len(h) == 1:
            weight = respond(self.weight, weight_gate.T, self.response_weight)
            return F.linear(x, weight, None if bias is None else bias[0])
        stacked = F.linear(x, torch.cat([self.weight, self.response_weight]))
        elementary, response = stacked.chunk(2, -1)
        y = respond(elementary, weight_gate, response)
        return y if bias is None else y + bias


class HyperEmbedding(HyperLayer):
    """`nn.Embedding` with a best response: `weight` and `response_weight` (num_types, dim), `gate` (dim, H)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, num_hyper: int):
        super().__init__(num_hyper)
        self.add_parameter("weight", num_embeddings, embedding_dim, bound=0.1)
        self.declare("response_weight", "gate")
        if num_hyper:
            self.add_parameter("response_weight", num_embeddings, embedding_dim, bound=0.1)
            self.add_gate("gate", embedding_dim)

    def forward(self, ids: Tensor, h: Tensor | None = None) -> Tensor:
        """ids (…, B), h (B, H) or (1, H) -> (…, B, dim). A plain layer ignores h."""
        elementary = F.embedding(ids, self.weight)
        if not self.num_hyper:
            return elementary
        return respond(elementary, F.linear(h, self.gate), F.embedding(ids, self.response_weight))


def respond(elementary: Tensor, gate: Tensor, response: Tensor) -> Tensor:
    """elementary + gate ⊙ response, broadcast: one response for each example, or one folded into the weights."""
    return torch.addcmul(elementary, gate, response)
