"""Matrix products that `a @ b` computes too slowly or in the wrong dtype."""

from collections.abc import Callable

import torch
from torch import Tensor


def multiplier(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function x -> x weightᵀ, to be called for many x (rows, F); weight (R, F) must not change meanwhile.

    With few rows, rearranging the weight in memory takes as long as multiplying; here it is rearranged only once.
    """
    if weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkl.is_available():
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        return lambda x: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)
    transposed = weight.T.contiguous()
    return lambda x: x @ transposed


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, the product in the dtype of a and b and the sum in that of total."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
