"""Output layer and cross-entropy as one function that never holds all logits.

A language model's logits, T·B rows of thousands of types, are its largest tensor by far, and the passes over them cost
as much as the products. Here each chunk of rows is turned into its loss and its gradients while it is in the cache.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from stn.autograd import refuse_double_backward

CHUNK_ROWS = 256


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of targets (…) under logits x weightᵀ + bias: x (…, F), weight (V, F), bias (V,).

    Equals `F.cross_entropy(F.linear(x, weight, bias), targets)`. Refuses double backward.
    """
    return _LinearCrossEntropy.apply(x.flatten(0, -2), weight, bias, targets.flatten())


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, targets):
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        losses = x.new_empty(len(x))
        buffer = x.new_empty(min(CHUNK_ROWS, len(x)), len(weight))
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            target = targets[rows, None]
            logits = torch.addmm(bias, x[rows], weight.T, out=buffer[: len(target)])
            largest = logits.amax(1, keepdim=True)
            target_logits = logits.gather(1, target) - largest
            exponentials = logits.sub_(largest).exp_()
            totals = exponentials.sum(1, keepdim=True)
            losses[rows] = (totals.log() - target_logits)[:, 0]
            if needs_x or needs_weight or needs_bias:
                # The gradient of the mean loss in the logits: (softmax - one-hot) / rows.
                grad_logits = exponentials.mul_(1 / (totals * len(x)))
                grad_logits.scatter_add_(1, target, grad_logits.new_full((len(target), 1), -1 / len(x)))
            if needs_x:
                torch.mm(grad_logits, weight, out=grad_x[rows])
            if needs_weight:
                grad_weight.addmm_(grad_logits.T, x[rows])
            if needs_bias:
                grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        return losses.mean()

    @staticmethod
    def backward(ctx, grad_loss):
        refuse_double_backward("linear_cross_entropy")
        gradients = (None if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
        return *gradients, None
