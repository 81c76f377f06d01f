"""What functions with hand-written backward passes share."""

import torch


def refuse_double_backward(name: str) -> None:
    """Raise RuntimeError inside a backward pass that is itself to be differentiated (`create_graph=True`).

    A function that saves intermediates would give gradients without a graph, and whatever is built on them, such as a
    Hessian-vector product, would silently be wrong. `once_differentiable` lets that pass where the incoming gradient
    is a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} cannot be differentiated twice: its backward pass is written by hand")
