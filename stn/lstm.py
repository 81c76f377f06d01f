"""HyperLSTM: an LSTM layer whose weights respond to hyperparameters, one differentiable function per sequence.

Both products of a step have a best response (MacKay et al. 2019, section 5.2):

    z_t = W_ih x_t     + b_ih + g_ih ⊙ W'_ih x_t     + c_ih ⊙ b'_ih
        + W_hh h_{t−1} + b_hh + g_hh ⊙ W'_hh h_{t−1} + c_hh ⊙ b'_hh

where the gates g and c are the rows V h and C h. Elementary and response weights are stacked, so that one product
computes both. The input products of all steps are one product over T·B rows, and so is each weight's gradient.

Products are computed in the inputs' dtype, which may be bfloat16. Parameters, the cell state, pointwise operations and
sums over steps have the parameters' dtype.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from stn.dropout import drop_connect
from stn.kernels.autograd import refuse_double_backward
from stn.kernels.graphs import graphed
from stn.kernels.products import linear, multiplier, weight_gradient
from stn.kernels.recompute import recomputed
from stn.layers import HyperLayer, check_tensor, shown
from stn.lstm_tangents import output_tangents
from stn.response import RespondingWeight, gated, is_dual, linearizes, respond

State = tuple[Tensor, Tensor]

# The gradient of the input, from that of the output and the output; written to `grad_input` in one pass over memory.
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


class HyperLSTM(HyperLayer):
    """One LSTM layer over a whole sequence; keys, gate order and shapes as in a one-layer `nn.LSTM`.

    `weight_ih_l0` (4·hidden, in), `weight_hh_l0` (4·hidden, hidden), `bias_ih_l0`, `bias_hh_l0` (4·hidden,), each
    with its `response_…` twin; `gate_ih_l0`, `gate_hh_l0` (8·hidden, H). Rows: input, forget, candidate, output.

    cuda_graphs: on a GPU, record the kernels of a sequence and launch them together (stn/kernels/graphs.py).
    checkpoint_activations: keep the inputs alone for the backward pass, which computes the sequence again.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_hyper: int,
        *,
        cuda_graphs: bool = True,
        checkpoint_activations: bool = False,
    ):
        super().__init__(num_hyper)
        self.cuda_graphs, self.checkpoint_activations = cuda_graphs, checkpoint_activations
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = 4 * hidden_size
        fan_ins = {"ih": input_size, "hh": hidden_size}
        for kind in ("", "response_") if num_hyper else ("",):
            for part, fan_in in fan_ins.items():
                self.add_parameter(f"{kind}weight_{part}_l0", rows, fan_in, bound=1 / math.sqrt(fan_in))
            for part, fan_in in fan_ins.items():
                self.add_parameter(f"{kind}bias_{part}_l0", rows, bound=1 / math.sqrt(fan_in))
        if num_hyper:
            for part in fan_ins:
                self.add_gate(f"gate_{part}_l0", 2 * rows)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        h: Tensor | None = None,
        weight_drop: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, State]:
        """x (T, B, in), state two of (1, B, hidden), h (B, H) or (1, H) -> output (T, B, hidden), state.

        T ≥ 1. The sequence comes first, the batch second: a batch-first x of as many examples as steps cannot be told
        from that. The output has x's dtype, the state that of the parameters.

        weight_drop: DropConnect's rate on the recurrent weights, whose elementary and response part share a mask;
            0 at evaluation; a float or (). generator: of that mask.

        Raises TypeError or ValueError for anything else.
        """
        self.check_inputs("x", x, h, "T", "B", self.input_size)
        if not len(x):
            raise ValueError(f"HyperLSTM takes a step or more: found x {shown(x.shape)}")
        if state is not None:
            self._check_state(state, x.shape[1])
        else:
            zeros = x.new_zeros(1, x.shape[1], self.hidden_size, dtype=self.weight_hh_l0.dtype)
            state = zeros, zeros
        options = {"cuda_graphs": self.cuda_graphs, "recompute": self.checkpoint_activations}
        return sequence(Weights.of(self), x, state, h, weight_drop, generator, **options)

    def responding_weights(self) -> list[RespondingWeight]:
        return Weights.of(self).responding()

    def extra_repr(self) -> str:
        options = "" if self.cuda_graphs else ", cuda_graphs=False"
        options += ", checkpoint_activations=True" if self.checkpoint_activations else ""
        return f"input_size={self.input_size}, hidden_size={self.hidden_size}, num_hyper={self.num_hyper}{options}"

    def _check_state(self, state: State, batch: int) -> None:
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError("HyperLSTM takes a state of two tensors, hidden state and cell, as it returned them")
        for name, part in zip(("a hidden state", "a cell"), state, strict=True):
            check_tensor("HyperLSTM", name, part, 1, batch, self.hidden_size)


class Weights(NamedTuple):
    """The parameters of one LSTM layer in one direction, named as the layer's; a plain one has no response."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    response_weight_ih: Tensor | None = None
    response_weight_hh: Tensor | None = None
    response_bias_ih: Tensor | None = None
    response_bias_hh: Tensor | None = None
    gate_ih: Tensor | None = None
    gate_hh: Tensor | None = None

    @classmethod
    def of(cls, layer: torch.nn.Module, suffix: str = "_l0") -> "Weights":
        """Those whose names end with the suffix."""
        return cls(*(getattr(layer, name + suffix, None) for name in cls._fields))

    def responding(self) -> list[RespondingWeight]:
        """The weights, without biases, and how they respond."""
        parts = (
            (self.weight_ih, self.response_weight_ih, self.gate_ih),
            (self.weight_hh, self.response_weight_hh, self.gate_hh),
        )
        return [
            RespondingWeight(weight, response, None if gate is None else gate[: len(weight)])
            for weight, response, gate in parts
        ]

    @property
    def bias(self) -> Tensor:
        """(1, 4·hidden)."""
        if self.bias_ih is None:
            return self.weight_hh.new_zeros(1, len(self.weight_hh))
        return (self.bias_ih + self.bias_hh)[None]

    def dropped(self, rate: float | Tensor, generator: torch.Generator | None) -> "Weights":
        """With DropConnect on the recurrent weights, as of `drop_connect`."""
        names = [name for name in ("weight_hh", "response_weight_hh") if getattr(self, name) is not None]
        dropped = drop_connect(rate, *(getattr(self, name) for name in names), generator=generator)
        return self._replace(**dict(zip(names, dropped, strict=True)))

    def gates(self, h: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Of the input weights and their bias, of the recurrent weights and theirs; (B or 1, 4·hidden) each."""
        gate_ih, gate_hh = gated(h, self.gate_ih), gated(h, self.gate_hh)
        if self.bias_ih is None:
            return gate_ih, None, gate_hh, None
        return *gate_ih.chunk(2, -1), *gate_hh.chunk(2, -1)

    def at(self, h: Tensor) -> "Weights":
        """The plain layer's that respond to h (1, H)."""
        gate_ih, bias_gate_ih, gate_hh, bias_gate_hh = self.gates(h)
        weight_ih = respond(self.weight_ih, gate_ih.T, self.response_weight_ih)
        weight_hh = respond(self.weight_hh, gate_hh.T, self.response_weight_hh)
        if bias_gate_ih is None:
            return Weights(weight_ih, weight_hh)
        bias_ih = respond(self.bias_ih, bias_gate_ih, self.response_bias_ih)
        return Weights(weight_ih, weight_hh, bias_ih[0], respond(self.bias_hh, bias_gate_hh, self.response_bias_hh)[0])


def sequence(
    weights: Weights,
    x: Tensor,
    state: State,
    h: Tensor | None,
    weight_drop: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
    *,
    cuda_graphs: bool,
    recompute: bool = False,
) -> tuple[Tensor, State]:
    """An LSTM layer over a sequence: see HyperLSTM, whose inputs it takes without checking them."""
    hidden, cell = state[0][0], state[1][0]
    # DropConnect's mask is drawn here: what is computed again draws nothing.
    if linearizes(x, h if weights.gate_hh is not None else None):
        inputs = weights.dropped(weight_drop, generator), x, hidden, cell, h
        output, hidden, cell = recomputed(partial(_linearized, cuda_graphs), *inputs, enabled=recompute)
        return output, (hidden[None], cell[None])
    weights_ih, weights_hh, *others = _products(weights, h)
    inputs = x, hidden, cell, weights_ih, drop_connect(weight_drop, *weights_hh, generator=generator), *others
    output, cell = recomputed(partial(_recurrence, cuda_graphs), *inputs, enabled=recompute)
    return output, (output[-1:].to(cell.dtype), cell[None])


def _products(weights: Weights, h: Tensor | None):
    """Input weights, recurrent weights, bias (1 or B, 4·hidden), input gate, recurrent gate.

    A response that all examples share is added to the weights, which leaves a plain layer without gates.
    """
    if weights.gate_hh is not None and len(h) == 1:
        weights = weights.at(h)
    weight_ih, weight_hh, bias = weights.weight_ih, weights.weight_hh, weights.bias
    if weights.gate_hh is None:
        return (weight_ih,), (weight_hh,), bias, None, None
    gate_ih, bias_gate_ih, gate_hh, bias_gate_hh = weights.gates(h)
    if bias_gate_ih is not None:
        bias_ih = respond(weights.bias_ih, bias_gate_ih, weights.response_bias_ih)
        bias = bias_ih + respond(weights.bias_hh, bias_gate_hh, weights.response_bias_hh)
    weights_ih = weight_ih, weights.response_weight_ih
    return weights_ih, (weight_hh, weights.response_weight_hh), bias, gate_ih, gate_hh


def _recurrence(cuda_graphs, x, h0, c0, weights_ih, weights_hh, bias, gate_ih, gate_hh):
    """`_Recurrence` with the weights stacked."""
    return _Recurrence.apply(
        cuda_graphs, x, h0, c0, torch.cat(weights_ih), torch.cat(weights_hh), bias, gate_ih, gate_hh
    )


def _linearized(
    cuda_graphs: bool, weights: Weights, x: Tensor, hidden: Tensor, cell: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Dual outputs, as stn/response.py has them, of a plain sequence and its tangent; the state carries none."""
    x, tangent_x = forward_ad.unpack_dual(x)
    bias = weights.bias
    constants = x, hidden, cell, weights.weight_ih, weights.weight_hh, bias
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in constants):
        raise RuntimeError(
            "HyperLSTM's linearized pass gives gradients to responses alone: its weights, state and input at h = 0 "
            "must not depend on what is trained; where they do, train with linearize=False"
        )
    weight_ih, weight_hh = weights.weight_ih.to(x.dtype), weights.weight_hh.to(x.dtype)
    outputs, last_cell, activations, cells, tanh_cells, *_ = _unrolled(
        x, hidden, cell, weight_ih, weight_hh, bias, None, None, cuda_graphs=cuda_graphs
    )
    drive = cell.new_zeros(()) if tangent_x is None else linear(tangent_x, weight_ih)
    if weights.gate_hh is not None and is_dual(h):
        gate_ih, bias_gate_ih, gate_hh, bias_gate_hh = weights.gates(forward_ad.unpack_dual(h).tangent)
        previous = torch.cat([hidden[None].to(x.dtype), outputs[:-1]])
        if bias_gate_ih is not None:
            drive = drive + bias_gate_ih * weights.response_bias_ih + bias_gate_hh * weights.response_bias_hh
        drive = respond(drive, gate_ih, linear(x, weights.response_weight_ih.to(x.dtype)))
        drive = respond(drive, gate_hh, linear(previous, weights.response_weight_hh.to(x.dtype)))
    tangent = output_tangents(drive.to(cell.dtype), weight_hh, cell, activations, cells, tanh_cells, graphs=cuda_graphs)
    return forward_ad.make_dual(outputs, tangent.to(x.dtype)), outputs[-1].to(cell.dtype), last_cell


class _Recurrence(Function):
    """The sequence as one function with a hand-written backward pass; each is one launch where cuda_graphs are used.

    x (T, B, in), h0 and c0 (B, hidden), weight_ih (R, in), weight_hh (R, hidden), bias (1 or B, 4·hidden), gates
    (B, 4·hidden) or None -> outputs (T, B, hidden), last cell (B, hidden). R is 4·hidden for plain weights, and
    8·hidden for elementary weights stacked over response weights.
    """

    @staticmethod
    def forward(ctx, cuda_graphs, x, h0, c0, weight_ih, weight_hh, bias, gate_ih, gate_hh):
        weight_ih, weight_hh = weight_ih.to(x.dtype), weight_hh.to(x.dtype)
        arguments = x, h0, c0, weight_ih, weight_hh, bias, gate_ih, gate_hh
        outputs, cell, *saved = _unrolled(*arguments, cuda_graphs=cuda_graphs)
        ctx.save_for_backward(x, h0, c0, weight_ih, weight_hh, gate_ih, gate_hh, outputs, *saved)
        ctx.bias_rows, ctx.cuda_graphs = len(bias), cuda_graphs
        return outputs, cell

    @staticmethod
    def backward(ctx, grad_outputs, grad_cell):
        refuse_double_backward("HyperLSTM")
        arguments = ctx.needs_input_grad[1:], ctx.bias_rows, grad_outputs, grad_cell, *ctx.saved_tensors
        return None, *_unrolled_backward(*arguments, cuda_graphs=ctx.cuda_graphs)


@graphed
def _unrolled(x, h0, c0, weight_ih, weight_hh, bias, gate_ih, gate_hh):
    """Outputs, last cell, and the intermediate results of all steps, which the backward pass needs."""
    steps, batch, hidden = len(x), len(h0), h0.shape[1]
    rows = 4 * hidden
    products = linear(x, weight_ih)  # (T, B, R)
    activations = products[..., :rows].to(c0.dtype)  # each step turns it into z_t, then the activated gates, in place
    outputs, cells = x.new_empty(steps, batch, hidden), c0.new_empty(steps, batch, hidden)
    tanh_cells = torch.empty_like(cells)
    input_response = recurrent_response = None
    if gate_ih is not None:
        input_response = products[..., rows:]
        recurrent_response = torch.empty_like(input_response)
    recurrent_product = multiplier(weight_hh, batch)

    # Each step does all of its pointwise work at once, while its data is in the cache.
    h, c = h0.to(x.dtype), c0
    z, i_and_f, (i, f, g, o) = activations.unbind(), activations[..., : 2 * hidden].unbind(), _gates(activations)
    for t in range(steps):
        product = recurrent_product(h)
        converted = product.to(c0.dtype)  # once, as every operation on two dtypes would convert it anew
        z[t].add_(bias).add_(converted[:, :rows])
        if gate_ih is not None:
            z[t].addcmul_(input_response[t], gate_ih).addcmul_(converted[:, rows:], gate_hh)
            recurrent_response[t] = product[:, rows:]
        i_and_f[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        c = torch.mul(f[t], c, out=cells[t]).addcmul_(i[t], g[t])
        torch.tanh(c, out=tanh_cells[t])
        h = torch.mul(o[t], tanh_cells[t], out=outputs[t])
    return outputs, c.clone(), activations, cells, tanh_cells, input_response, recurrent_response


@graphed
def _unrolled_backward(
    needs, bias_rows, grad_outputs, grad_cell,
    x, h0, c0, weight_ih, weight_hh, gate_ih, gate_hh,
    outputs, activations, cells, tanh_cells, input_response, recurrent_response,
):  # fmt: skip
    """The gradients of `_Recurrence`'s tensors; `needs` says which are wanted."""
    steps, batch, hidden = outputs.shape
    rows = 4 * hidden

    # Gradients of the elementary products, the same for input and recurrence, beside those of the response
    # products: the recurrent ones during the loop, the input's after it.
    grad_products = x.new_empty(steps, batch, len(weight_hh))
    grad_elementary, grad_response = grad_products[..., :rows], grad_products[..., rows:]
    grad_bias = h0.new_zeros(batch, rows)
    grad_gate_ih, grad_gate_hh = (None, None) if gate_ih is None else h0.new_zeros(2, batch, rows)
    grad_h, grad_c = torch.zeros_like(h0), grad_cell.clone()
    recurrent_backward = multiplier(weight_hh.T, batch)
    grad_recurrent = x.new_zeros(batch, hidden)
    i_and_f, (i, f, g, o) = activations[..., : 2 * hidden].unbind(), _gates(activations)
    # Of one step: the gradients of the activated gates, which become that of z_t in place.
    grad_z, scratch = h0.new_empty(batch, rows), torch.empty_like(grad_c)
    grad_i_and_f, (grad_i, grad_f, grad_g, grad_o) = grad_z[:, : 2 * hidden], grad_z.chunk(4, -1)
    for t in reversed(range(steps)):
        tanh_c = tanh_cells[t]
        torch.add(grad_outputs[t], grad_recurrent.to(c0.dtype), out=grad_h)
        torch.mul(grad_h, tanh_c, out=grad_o)
        grad_c += tanh_backward(torch.mul(grad_h, o[t], out=scratch), tanh_c, grad_input=scratch)
        torch.mul(grad_c, g[t], out=grad_i)
        torch.mul(grad_c, cells[t - 1] if t else c0, out=grad_f)
        torch.mul(grad_c, i[t], out=grad_g)
        grad_c *= f[t]
        sigmoid_backward(grad_i_and_f, i_and_f[t], grad_input=grad_i_and_f)
        tanh_backward(grad_g, g[t], grad_input=grad_g)
        sigmoid_backward(grad_o, o[t], grad_input=grad_o)
        grad_bias += grad_z
        grad_elementary[t] = grad_z
        if gate_ih is not None:
            grad_gate_ih.addcmul_(grad_z, input_response[t])
            grad_gate_hh.addcmul_(grad_z, recurrent_response[t])
            grad_response[t] = grad_z.mul_(gate_hh)
        grad_recurrent = recurrent_backward(grad_products[t])

    if bias_rows == 1:
        grad_bias = grad_bias.sum(0, keepdim=True)
    grad_x = grad_weight_ih = grad_weight_hh = None
    if needs[4]:
        previous = torch.cat([h0[None].to(x.dtype), outputs[:-1]])
        grad_weight_hh = weight_gradient(grad_products.flatten(0, 1), previous.flatten(0, 1)).to(c0.dtype)
    if gate_ih is not None:
        for elementary, response in zip(grad_elementary, grad_response, strict=True):  # by steps, in the cache
            torch.mul(elementary, gate_ih, out=response)
    if needs[0]:
        grad_x = linear(grad_products, weight_ih.T)
    if needs[3]:
        grad_weight_ih = weight_gradient(grad_products.flatten(0, 1), x.flatten(0, 1)).to(c0.dtype)
    grad_h0 = grad_recurrent.to(c0.dtype)
    return grad_x, grad_h0, grad_c, grad_weight_ih, grad_weight_hh, grad_bias, grad_gate_ih, grad_gate_hh


def _gates(stacked: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """stacked (T, B, 4·hidden) -> input, forget, candidate and output gate, each as T tensors of (B, hidden)."""
    return tuple(gate.unbind() for gate in stacked.chunk(4, -1))
