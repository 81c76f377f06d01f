"""Matrix products that a plain `a @ b` computes too slowly, or in the wrong type."""

from collections.abc import Callable

import torch
from torch import Tensor


def multiplier(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """x -> x weightᵀ, for many x (rows, F) one after another: weight (R, F), which must not change meanwhile.

    A product of a few rows spends as long on the weight's layout in memory as on multiplying; here it is laid out once.
    """
    if weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkl.is_available():
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        return lambda x: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)
    transposed = weight.T.contiguous()
    return lambda x: x @ transposed


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, the product in a's and b's type and the sum in total's."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
