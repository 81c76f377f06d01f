"""Matrix products, by oneDNN where PyTorch's own are slower.

On CPUs PyTorch multiplies float32 by the routines of MKL or another BLAS, which on some processors reach little more
than half of oneDNN's rate; and none of its public products keeps a weight that is used many times in the order in which
the routine reads it. `benchmarks/lstm_step.py --products` measures these functions beside what else there is.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

# Below these, what oneDNN costs beside the product exceeds what it saves: some 10 µs a call, with autograd 70.
MIN_ENTRIES = 2**16  # of a multiplier's weight
MIN_MULTIPLICATIONS = 2**24  # of a single product
MIN_ROWS_TO_PACK = 1000  # of x: with fewer, it takes longer to rearrange the weight than that saves


def multiplier(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function x -> x weightᵀ, to be called for many x (rows, F); weight (R, F) must not change meanwhile.

    The weight is rearranged in memory only once, which with few rows takes as long as multiplying. Other numbers of
    rows will do, but rows are what it is rearranged for. Without gradients.
    """
    if weight.numel() < MIN_ENTRIES or not _has_onednn(weight):
        transposed = weight.T.contiguous()
        return lambda x: x @ transposed
    packed = onednn_packed(weight, rows)
    return lambda x: onednn_linear(x, packed)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x weightᵀ + bias for x (…, F), weight (R, F) and bias (R,), all of one dtype."""
    # PyTorch's own product of bfloat16 is oneDNN's, and autocast may make it one.
    if x.dtype != torch.float32 or x.numel() * len(weight) < MIN_MULTIPLICATIONS or not _has_onednn(weight):
        return F.linear(x, weight, bias)
    y = _Linear.apply(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight).view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient gradᵀ x (R, F) of the weight of `linear`, for the gradient of its output (N, R) and x (N, F)."""
    return linear(grad.T, x.T)


def add_weight_gradient(total: Tensor, grad: Tensor, x: Tensor) -> None:
    """total += gradᵀ x, the product in the dtype of grad and x and the sum in that of total."""
    total += weight_gradient(grad, x)


class _Linear(Function):
    """x weightᵀ for x (N, F) and weight (R, F); differentiable any number of times, backwards and forwards."""

    @staticmethod
    def forward(x, weight):
        return _product(x, weight)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        x, weight = inputs
        needs_x, needs_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        return linear(grad, weight.T) if needs_x else None, weight_gradient(grad, x) if needs_weight else None

    @staticmethod
    def jvp(ctx, tangent_x, tangent_weight):
        x, weight = ctx.saved_tensors
        return linear(tangent_x, weight) + linear(x, tangent_weight)

    @staticmethod
    def vmap(info, in_dims, x, weight):  # noqa: ARG004
        return torch.vmap(F.linear, in_dims)(x, weight), 0


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ by oneDNN, which needs x contiguous: in the order of factors in which less is copied."""
    rows, columns = len(x), len(weight)
    if not x.numel():
        return x @ weight.T
    copied = 0 if x.is_contiguous() else x.numel()
    copied_if_swapped = rows * columns + (0 if weight.is_contiguous() else weight.numel())
    if copied_if_swapped < copied:
        return onednn_linear(weight, x).T.contiguous()
    return onednn_linear(x, onednn_packed(weight, rows) if rows >= MIN_ROWS_TO_PACK else weight)


def onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ for contiguous x; the weight may be strided, or `onednn_packed`. Without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def onednn_packed(weight: Tensor, rows: int) -> Tensor:
    """The weight in the order in which oneDNN reads it for an x of so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def _has_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by such a weight; `torch.backends.mkldnn.flags(enabled=False)` says no."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and _onednn_multiplies(weight.dtype)
    )


@functools.cache
def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has oneDNN's products of this type for this processor."""
    one = torch.ones(1, 1, dtype=dtype, device="cpu")
    try:
        onednn_linear(one, onednn_packed(one, 1))
    except (AttributeError, RuntimeError):
        return False
    return True
