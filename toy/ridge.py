"""Ridge regression, whose exact best response is known in closed form, and the two-layer linear network that gates it.

A linear model y = wᵀx is trained on

    L_T(w, λ) = (1/2n) ‖X w − t‖² + ½ Σ_j exp(λ_j) (∂y/∂x_j)²,  ∂y/∂x = w,

with one λ for all inputs (H = 1), which is ridge regression, or one for each (H = D). It is quadratic in w, so with
A = XᵀX/n, b = Xᵀt/n and K = diag(exp λ) the best response and its Jacobian are

    w*(λ) = (A + K)⁻¹ b,    ∂w*/∂λ = −(A + K)⁻¹ K diag(w*).

Theorem (MacKay et al. 2019, theorem 2). Let a two-layer linear network y = sᵀ(Q x), with as many hidden units as
inputs, be trained on this loss with one λ. There are Q₀, s₀, v and c such that for every λ

    Q*(λ) = σ(λ v + c) ⊙_rows Q₀,    s*(λ) = s₀

minimizes it: the best response is one fixed network with a sigmoid gate on each hidden unit. For the network computes
w = Qᵀs, and with A = Σ_i a_i q_i q_iᵀ, q_i the data's principal directions, each component of the best response is

    q_iᵀ w*(λ) = (q_iᵀb / a_i) · a_i / (a_i + exp λ) = (q_iᵀ w*(−∞)) · σ(log a_i − λ):

Q₀ has the rows q_i, s₀ = Q₀ w*(−∞) solves the problem without a penalty, v = −1 and c_i = log a_i.

What it needs: a squared error; a penalty on the Jacobian ∂y/∂x = Qᵀs (weight decay on Q and s apart amounts to one on
‖w‖, not its square, and makes w exactly 0 at a finite λ, which no sigmoid does); one λ for all inputs, or one for each
principal direction (unequal penalties of the inputs turn the principal directions); a_i > 0 or, where the data do not
span a direction, s₀_i = 0 and any c_i. It gives *a* best response: any other (Q, s) with the same product is as good.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stn.hyperparameters import Hyperparameters, Tuned


@dataclass(frozen=True)
class Ridge:
    """The problem. x (N, D) and t (N,) are trained on, x_valid and t_valid validate. λ (1,) or (D,) throughout."""

    x: Tensor
    t: Tensor
    x_valid: Tensor
    t_valid: Tensor

    @property
    def gram(self) -> Tensor:
        """A (D, D)."""
        return self.x.T @ self.x / len(self.x)

    @property
    def moment(self) -> Tensor:
        """b (D,)."""
        return self.x.T @ self.t / len(self.x)

    def hessian(self, lam: Tensor) -> Tensor:
        """A + K (D, D), of the training loss in w."""
        return self.gram + lam.exp().expand(len(self.gram)).diag()

    def training_loss(self, w: Tensor, lam: Tensor) -> Tensor:
        return (self.x @ w - self.t).square().mean() / 2 + (lam.exp() * w.square()).sum() / 2

    def validation_loss(self, w: Tensor) -> Tensor:
        return (self.x_valid @ w - self.t_valid).square().mean() / 2

    def best_response(self, lam: Tensor) -> Tensor:
        """w*(λ), (D,)."""
        return torch.linalg.solve(self.hessian(lam), self.moment)

    def jacobian(self, lam: Tensor) -> Tensor:
        """∂w*/∂λ, (D, H)."""
        shrunk = (lam.exp() * self.best_response(lam))[:, None] * self.inputs_of(lam)
        return -torch.linalg.solve(self.hessian(lam), shrunk)

    def inputs_of(self, lam: Tensor) -> Tensor:
        """(D, H), 1 where this λ penalizes this input, and 0 elsewhere."""
        inputs = len(self.gram)
        return torch.ones(inputs, 1).to(lam) if len(lam) == 1 else torch.eye(inputs).to(lam)

    def validation_gradient(self, w: Tensor) -> Tensor:
        """∂L_V/∂w, (D,)."""
        return self.x_valid.T @ (self.x_valid @ w - self.t_valid) / len(self.x_valid)

    def hypergradient(self, lam: Tensor) -> Tensor:
        """∂L_V(w*(λ))/∂λ, (H,)."""
        return self.jacobian(lam).T @ self.validation_gradient(self.best_response(lam))

    def gated_network(self) -> "GatedNetwork":
        """The theorem's network. A direction that the data do not span gets s₀ = 0, and a gate like any other's."""
        spread, directions = torch.linalg.eigh(self.gram)
        spans = spread > spread.max() * len(spread) * torch.finfo(spread.dtype).eps
        spread = torch.where(spans, spread, 1.0)
        output = torch.where(spans, directions.T @ self.moment / spread, 0.0)
        return GatedNetwork(directions.T, output, -torch.ones_like(spread), spread.log())


class GatedNetwork(NamedTuple):
    """hidden Q₀ (D, D), output s₀ (D,), and the gate's slope v and offset c (D,)."""

    hidden: Tensor
    output: Tensor
    slope: Tensor
    offset: Tensor

    def gate(self, lam: Tensor) -> Tensor:
        """λ (1,), or one for each hidden unit -> (D,)."""
        return torch.sigmoid(lam * self.slope + self.offset)

    def weights(self, lam: Tensor) -> Tensor:
        """w = Q*(λ)ᵀ s₀, (D,)."""
        return (self.gate(lam)[:, None] * self.hidden).T @ self.output


def make_ridge(inputs: int = 6, examples: int = 200, noise: float = 0.5, seed: int = 0) -> Ridge:
    """Inputs with variances from 3 down to 0.03 in random directions, targets linear in them but for noise; float64."""
    normal = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    deviations = torch.logspace(math.log10(3), math.log10(0.03), inputs, dtype=torch.float64).sqrt()
    directions = torch.linalg.qr(torch.randn(inputs, inputs, **normal)).Q
    w = torch.randn(inputs, **normal)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(examples, inputs, **normal) * deviations @ directions
        return x, x @ w + noise * torch.randn(examples, **normal)

    return Ridge(*draw(), *draw())


def tuned(lam: float, scale: float, count: int, feed: str) -> Hyperparameters:
    """`count` penalties exp(λ), in float64, perturbed example by example with this scale."""
    source = Tuned(math.exp(lam), scale=scale, transform="exp", feed=feed)
    return Hyperparameters(**{f"penalty{number}": source for number in range(count)}).double()


def linearized_optimum(ridge: Ridge, lam: Tensor, scale: float) -> Tensor:
    """The Jacobian J (D, H) to which a Δ-STN converges at a perturbation ε ~ N(0, scale²) of each λ.

    It minimizes E[L_T(w*(λ) + J ε, λ + ε)], whose gradient in J vanishes where E[∇_w L_T(w*(λ) + J ε, λ + ε) εᵀ] = 0.
    Where ∇_w L_T is affine in w and in λ, that is (A + K) J + ∂²L_T/∂w∂λ = 0 for any ε without third moments: J is the
    exact Jacobian at every scale. Here K is exponential in λ. With the moments m_k = E[ε^k exp ε] and P_h the inputs
    that λ_h penalizes, column h solves

        (scale² (A + m₀ K) + (m₂ − scale² m₀) K P_h) J_h = −m₁ K P_h w*(λ),

    which for one λ is, in each principal direction, exp(scale²/2) (a + κ) / (a + κ (1 + scale²) exp(scale²/2)) times
    the exact Jacobian: off by scale² (½ − ³⁄₂ κ / (a + κ)) of it, κ = exp λ, and terms of order scale⁴.
    """
    m0, m1, m2 = moments(scale)
    penalty, w, columns = lam.exp().expand(len(ridge.gram)), ridge.best_response(lam), []
    for own in ridge.inputs_of(lam).T:
        system = scale**2 * (ridge.gram + m0 * penalty.diag()) + (m2 - scale**2 * m0) * (penalty * own).diag()
        columns.append(-torch.linalg.solve(system, m1 * penalty * own * w))
    return torch.stack(columns, 1)


def affine_optimum(ridge: Ridge, lam: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The w and J (D,) that minimize E[L_T(w + J ε, λ + ε)] for one λ: to these an STN converges.

    Unlike the Δ-STN's, its elementary weights answer to all the perturbed λ: w is not w*(λ). The gradients vanish where

        (A + m₀ K) w + m₁ K J = b,    m₁ K w + (scale² A + m₂ K) J = 0.
    """
    (m0, m1, m2), penalty = moments(scale), ridge.hessian(lam) - ridge.gram
    rows = [
        torch.cat([ridge.gram + m0 * penalty, m1 * penalty], 1),
        torch.cat([m1 * penalty, scale**2 * ridge.gram + m2 * penalty], 1),
    ]
    found = torch.linalg.solve(torch.cat(rows), torch.cat([ridge.moment, torch.zeros_like(ridge.moment)]))
    return found.chunk(2)


def moments(scale: float) -> tuple[float, float, float]:
    """E[ε^k exp ε] of ε ~ N(0, scale²) for k = 0, 1 and 2."""
    variance = scale**2
    mean = math.exp(variance / 2)
    return mean, variance * mean, variance * (1 + variance) * mean
