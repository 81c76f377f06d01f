"""Gradients with respect to those weights that have one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradients_of(objective: Tensor, parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The gradient of each of these on which the objective depends; frozen ones are left out too."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = torch.autograd.grad(objective, trained, allow_unused=True)
    return {own: gradient for own, gradient in zip(trained, found, strict=True) if gradient is not None}
