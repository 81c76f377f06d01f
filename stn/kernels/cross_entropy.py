"""Output layer and cross-entropy as one function that never holds all logits.

A language model's logits, T·B rows of thousands of types, are its largest tensor by far, and reading and writing them
costs as much time as the products. Here the loss and the gradients of a chunk of rows are computed while the chunk is
in the cache.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from stn.kernels.autograd import refuse_double_backward
from stn.kernels.products import add_weight_gradient, multiplier

CHUNK_ROWS = 1400  # of a product; large, as each chunk reads and writes the weight's whole gradient
CACHED_ROWS = 64  # of what follows the product

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
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        cast_weight = weight.to(x.dtype)
        products = multiplier(cast_weight, CHUNK_ROWS)
        backward_products = multiplier(cast_weight.T, CHUNK_ROWS) if needs_x else None
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        losses = weight.new_empty(len(x))
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            product = products(x[rows])  # the logits but for the bias, then their gradient
            parts = (tensor.split(CACHED_ROWS) for tensor in (product, targets[rows, None], losses[rows]))
            for part, target, loss in zip(*parts, strict=True):
                logits = part.to(weight.dtype).add_(bias)
                log_probabilities = log_softmax(logits, 1, False, out=logits)
                torch.neg(log_probabilities.gather(1, target)[:, 0], out=loss)
                if any(ctx.needs_input_grad):
                    # The gradient of a row's loss in its logits: softmax - one-hot.
                    grad_logits = log_probabilities.exp_()
                    grad_logits.scatter_add_(1, target, grad_logits.new_full((1, 1), -1.0).expand_as(target))
                    part.copy_(grad_logits)
                if needs_bias:
                    grad_bias += grad_logits.sum(0)
            if needs_x:
                grad_x[rows] = backward_products(product)
            if needs_weight:
                add_weight_gradient(grad_weight, product, x[rows])
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        ctx.rows = len(x)
        return losses.mean()

    @staticmethod
    def backward(ctx, grad_loss):
        refuse_double_backward("linear_cross_entropy")
        scale = grad_loss / ctx.rows
        gradients = (None if grad is None else grad * scale for grad in ctx.saved_tensors)
        return *gradients, None
