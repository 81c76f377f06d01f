"""The hypergradient ∂L_V/∂λ by differentiating the training: unrolled, or implicitly by conjugate gradients.

Costs are in gradient evaluations of the training loss, from weights of 0 on. A product with its second derivatives is
a gradient of a gradient, and counts as two.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from toy.ridge import Ridge


class Hypergradient(NamedTuple):
    """value (H,); training: gradient evaluations that train the weights; beyond: all others."""

    value: Tensor
    training: int
    beyond: int


def descend(ridge: Ridge, lam: Tensor, steps: int, differentiable: bool = False) -> Tensor:
    """The weights (D,) after steps of gradient descent from 0, as long as the largest curvature allows."""
    rate = 1 / torch.linalg.eigvalsh(ridge.hessian(lam.detach())).max()
    w = torch.zeros_like(ridge.moment).requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(ridge.training_loss(w, lam), w, create_graph=differentiable)
        w = w - rate * gradient if differentiable else (w - rate * gradient).detach().requires_grad_()
    return w


def unrolled(ridge: Ridge, lam: Tensor, steps: int) -> Hypergradient:
    """Backward through all steps of the training (Domke 2012; Maclaurin et al. 2015): two products for each step.

    One product with ∂²L_T/∂w² and one with ∂²L_T/∂λ∂w come of the same gradient of a gradient.
    """
    lam = lam.clone().requires_grad_()
    loss = ridge.validation_loss(descend(ridge, lam, steps, differentiable=True))
    return Hypergradient(torch.autograd.grad(loss, lam)[0], steps, 2 * steps + 1)


def implicit(ridge: Ridge, lam: Tensor, steps: int, iterations: int) -> Hypergradient:
    """−(∂L_V/∂w) (∂²L_T/∂w²)⁻¹ ∂²L_T/∂w∂λ at the trained weights, by the implicit function theorem (Bengio 2000).

    The system is solved by so many iterations of conjugate gradients (Pedregosa 2016), a product each.
    """
    lam, w = lam.clone().requires_grad_(), descend(ridge, lam, steps)
    (target,) = torch.autograd.grad(ridge.validation_loss(w), w)
    (gradient,) = torch.autograd.grad(ridge.training_loss(w, lam), w, create_graph=True)

    def product(direction: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, w, direction, retain_graph=True)[0]

    solution = conjugate_gradients(product, target, iterations)
    (value,) = torch.autograd.grad(gradient, lam, -solution)
    return Hypergradient(value, steps, 2 * iterations + 3)


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """The solution x of product(x) = target, product symmetric and positive definite (Hestenes & Stiefel 1952)."""
    x, residual, direction = torch.zeros_like(target), target, target
    for _ in range(iterations):
        if not residual.any():
            break
        along = product(direction)
        length = residual @ residual / (direction @ along)
        x = x + length * direction
        before, residual = residual, residual - length * along
        direction = residual + (residual @ residual) / (before @ before) * direction
    return x


def angle(found: Tensor, exact: Tensor) -> float:
    """Between two vectors, in degrees; 90 for a found one of 0, which has no direction."""
    if not found.any():
        return 90.0
    found, exact = found / found.norm(), exact / exact.norm()
    # Stable where they are close, unlike the arc cosine (Kahan 2006).
    return torch.rad2deg(2 * torch.atan2((found - exact).norm(), (found + exact).norm())).item()
