"""A guard for functions whose backward pass is written by hand."""

import torch


def refuse_double_backward(name: str) -> None:
    """Raise RuntimeError if the running backward pass is itself to be differentiated (`create_graph=True`).

    A hand-written backward pass returns gradients without a graph, so that what is computed from them, such as a
    Hessian-vector product, would be wrong without an error. PyTorch's `once_differentiable` does not raise if the
    incoming gradient is a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} cannot be differentiated twice: its backward pass is written by hand")
