"""The tangent of an LSTM layer's outputs, one differentiable function per sequence.

Once the sequence itself is known, its derivative in a direction is a linear recurrence: with the cell c_t, the gates
i, f, o and the candidate g of step t, and the tangent of what is not recurrent, d_t, in the place of z_t,

    ż_t = d_t + W_hh ḣ_{t−1}
    ċ_t = f ċ_{t−1} + i (1 − i) g ż_i + f (1 − f) c_{t−1} ż_f + (1 − g²) i ż_g
    ḣ_t = o (1 − o) tanh(c_t) ż_o + (1 − tanh²(c_t)) o ċ_t

The sequence counts as constant: gradients are those of the d_t alone, by the recurrence's transpose.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from stn.kernels.autograd import refuse_double_backward
from stn.kernels.graphs import graphed
from stn.kernels.products import multiplier

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


def output_tangents(
    drive: Tensor,
    weight_hh: Tensor,
    c0: Tensor,
    activations: Tensor,
    cells: Tensor,
    tanh_cells: Tensor,
    *,
    graphs: bool,
) -> Tensor:
    """The tangents ḣ (T, B, hidden) for d, `drive` (T, B, 4·hidden); those of the initial state are 0.

    weight_hh (4·hidden, hidden), in the dtype of products. Of the sequence: c0 (B, hidden), the activated gates
    (T, B, 4·hidden) in the order i, f, g, o, the cells and their tanh (T, B, hidden). graphs: see HyperLSTM.
    """
    i, f, g, o = activations.chunk(4, -1)
    previous = torch.cat([c0[None], cells[:-1]])
    slopes = torch.stack([sigmoid_backward(g, i), sigmoid_backward(previous, f), tanh_backward(i, g)], 2)
    of_output, of_cell = sigmoid_backward(tanh_cells, o), tanh_backward(o, tanh_cells)
    return _Tangents.apply(graphs, drive, weight_hh, f, slopes, of_output, of_cell)


class _Tangents(Function):
    """slopes (T, B, 3, hidden): of c_t in z_i, z_f, z_g. of_output, of_cell (T, B, hidden): of h_t in z_o and c_t."""

    @staticmethod
    def forward(ctx, graphs, drive, *constants):
        ctx.graphs = graphs
        ctx.save_for_backward(*constants)
        (tangents,) = _unrolled(drive, *constants, cuda_graphs=graphs)
        return tangents

    @staticmethod
    def backward(ctx, grad_tangents):
        refuse_double_backward("HyperLSTM's linearized pass")
        (grad_drive,) = _unrolled_backward(grad_tangents.contiguous(), *ctx.saved_tensors, cuda_graphs=ctx.graphs)
        return None, grad_drive, None, None, None, None, None


@graphed
def _unrolled(drive, weight_hh, f, slopes, of_output, of_cell):
    steps, batch, hidden = of_cell.shape
    tangents = torch.empty_like(of_cell)
    recurrent_product = multiplier(weight_hh, batch)
    c, h = torch.zeros_like(of_cell[0]), None
    for t in range(steps):
        z = drive[t] if h is None else drive[t] + recurrent_product(h.to(weight_hh.dtype))
        inputs = z[:, : 3 * hidden].view(batch, 3, hidden)
        c = torch.addcmul((slopes[t] * inputs).sum(1), c, f[t])
        h = torch.mul(of_output[t], z[:, 3 * hidden :], out=tangents[t]).addcmul_(of_cell[t], c)
    return (tangents,)


@graphed
def _unrolled_backward(grad_tangents, weight_hh, f, slopes, of_output, of_cell):
    steps, batch, hidden = of_cell.shape
    grad_drive = of_cell.new_empty(steps, batch, 4 * hidden)
    recurrent_backward = multiplier(weight_hh.T, batch)
    grad_c, grad_h = torch.zeros_like(of_cell[0]), grad_tangents[-1]
    for t in reversed(range(steps)):
        grad_c.addcmul_(of_cell[t], grad_h)
        torch.mul(slopes[t], grad_c[:, None], out=grad_drive[t, :, : 3 * hidden].view(batch, 3, hidden))
        torch.mul(of_output[t], grad_h, out=grad_drive[t, :, 3 * hidden :])
        grad_c *= f[t]
        if t:
            grad_h = grad_tangents[t - 1] + recurrent_backward(grad_drive[t].to(weight_hh.dtype))
    return (grad_drive,)
