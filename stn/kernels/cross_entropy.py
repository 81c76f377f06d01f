"""Output layer and cross-entropy as one function that never holds all logits.

A language model's logits, T·B rows of thousands of types, are its largest tensor by far, and reading and writing them
costs as much time as the products. Here there are those of a chunk of rows at a time, which become their own gradient a
few rows at a time, while these are in the cache.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from stn.kernels.autograd import refuse_double_backward
from stn.kernels.products import add_weight_gradient, linear

CHUNK_ROWS = 1400  # of a product: large, as each chunk reads and writes the weight's whole gradient
CACHED_ROWS = 64  # whose softmax and gradient fit into a CPU's cache; a GPU takes a chunk at once

log_softmax = torch.ops.aten._log_softmax.out  # torch.log_softmax cannot write to a given tensor


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of targets (…) under logits x weightᵀ + bias: x (…, F), weight (V, F), bias (V,).

    Equals `F.cross_entropy(F.linear(x, weight, bias), targets)`. Products are computed in x's dtype, which may be
    bfloat16; the softmax, the loss and the sum of the weight's gradient have the weight's. Raises RuntimeError in a
    double backward pass.
    """
    if not torch.is_grad_enabled():  # ctx.needs_input_grad does not say so
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
    return _LinearCrossEntropy.apply(x.flatten(0, -2), weight, bias, targets.flatten())


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, targets):
        needs_x, needs_weight, needs_bias, _ = needs = ctx.needs_input_grad
        cast_weight = weight.to(x.dtype)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        losses = weight.new_empty(len(x))
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = linear(x[rows], cast_weight)  # but for the bias
            grad_logits = _losses_and_gradients(logits, bias, targets[rows], losses[rows], grad_bias, any(needs))
            if needs_x:
                grad_x[rows] = linear(grad_logits, cast_weight.T)
            if needs_weight:
                add_weight_gradient(grad_weight, grad_logits, x[rows])
            del logits, grad_logits  # before the next chunk's are made
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        ctx.rows = len(x)
        return losses.mean()

    @staticmethod
    def backward(ctx, grad_loss):
        refuse_double_backward("linear_cross_entropy")
        scale = grad_loss / ctx.rows
        gradients = (None if grad is None else grad * scale for grad in ctx.saved_tensors)
        return *gradients, None


def _losses_and_gradients(logits, bias, targets, losses, grad_bias, needs_gradient):
    """Write the losses (N,) of logits (N, V) + bias, and if needed their gradient, softmax - one-hot, over the logits.

    Adds the bias's gradient to grad_bias, if there is one. Returns the logits.
    """
    rows = CACHED_ROWS if logits.device.type == "cpu" else CHUNK_ROWS
    parts = (tensor.split(rows) for tensor in (logits, targets[:, None], losses))
    for part, target, loss in zip(*parts, strict=True):
        sums = part.to(bias.dtype).add_(bias)  # of one dtype, it is the part itself
        log_probabilities = log_softmax(sums, 1, False, out=sums)
        torch.neg(log_probabilities.gather(1, target)[:, 0], out=loss)
        if needs_gradient:
            gradient = log_probabilities.exp_()
            gradient.scatter_add_(1, target, gradient.new_full((1, 1), -1.0).expand_as(target))
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            part.copy_(gradient)
    return logits
