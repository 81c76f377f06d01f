"""How an unconstrained number λ becomes a hyperparameter's value: monotone maps, each with its inverse."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stn.errors import UserError, one_line

Range = tuple[float, float]

INF = math.inf
TOLERANCE = 1e-4  # relative to the distance between two numbers that are checked


class Transform(NamedTuple):
    """forward: of λ, elementwise, the values. inverse: back."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _logit(unconstrained: Tensor) -> Tensor:
    return torch.logit(unconstrained, torch.finfo(unconstrained.dtype).eps)


# Those that lead to one range; the others lead to any whose ends are finite or not, as here.
RANGES: dict[str, Range] = {
    "sigmoid": (0, 1),
    "softplus": (0, INF),
    "exp": (0, INF),
    "linear": (-INF, INF),
    "logit": (-INF, INF),
}
FINITE_ENDS = {"stretched_sigmoid": (True, True), "lower_softplus": (True, False), "upper_softplus": (False, True)}
NAMES = (*RANGES, *FINITE_ENDS)
# Those that a range does not have by itself: low + (high − low)·sigmoid(λ), low + softplus(λ), high − softplus(λ) or λ.
OTHERS = {"exp": Transform(torch.exp, torch.log), "logit": Transform(_logit, torch.sigmoid)}


def resolve(name: str, transform: str | Transform | tuple | None, ends: Range) -> tuple[Transform | None, Range]:
    """The transform of a hyperparameter, None where its range has it by itself, and its range.

    transform: one of NAMES, a pair of functions, or None. ends: of the range; without any, it is the transform's.

    Raises UserError for another word, or a range that the transform does not lead to.
    """
    if transform is None:
        return None, ends
    if isinstance(transform, tuple) and len(transform) == 2 and all(map(callable, transform)):
        return Transform(*transform), ends
    if transform not in NAMES:
        known = ", ".join(NAMES)
        raise UserError(f"{name} has the transform {transform!r}: give {known}, or a pair (forward, inverse)")
    if ends == (-INF, INF):
        if transform not in RANGES:
            raise UserError(f"{name} has the transform {transform}, which needs a range: give it one")
        ends = RANGES[transform]
    low, high = ends
    fits = ends == RANGES[transform] if transform in RANGES else FINITE_ENDS[transform] == (low > -INF, high < INF)
    if not fits:
        raise UserError(f"{name} has the range ({low:g}, {high:g}), to which the transform {transform} does not lead")
    return OTHERS.get(transform), ends


def unconstrain(name: str, transform: Transform, value: float) -> float:
    """The λ of a value. Raises UserError where there is none."""
    try:
        start = float(transform.inverse(torch.tensor([value], dtype=torch.float64)))
        transform.forward(torch.zeros(2, dtype=torch.float64)).diff()
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        told = f"{name} has a transform that cannot be computed ({one_line(error)})"
        raise UserError(f"{told}: give functions of tensors, elementwise, such as torch.exp and torch.log") from error
    if not math.isfinite(start):
        raise UserError(f"{name} cannot start at {value:g}: the inverse of its transform gives {start:g} there")
    return start


def refuse_misfit(name: str, transform: Transform, ends: Range, start: float, scale: float) -> None:
    """Raise UserError where, near its start, forward is not monotone, leaves the range, or is not undone by inverse.

    Near is within three scales, where nearly all of its perturbations lie.
    """
    reach = 3 * max(scale, 0.1)
    around = torch.linspace(start - reach, start + reach, 13, dtype=torch.float64)
    values = transform.forward(around)
    steps, told = values.diff(), f"{name} is perturbed by up to {reach:.3g} about λ = {start:.3g}, where its transform"
    inside = (values > ends[0]) & (values < ends[1])  # false for NaN
    if not inside.all() or not ((steps > 0).all() or (steps < 0).all()):
        raise UserError(f"{told} is not monotone, or leaves its range: give another one, or a smaller scale")
    again = transform.inverse(values)
    if not torch.allclose(again, around, rtol=TOLERANCE, atol=TOLERANCE):
        worst = int((again - around).abs().nan_to_num(INF).argmax())
        found = f"of {around[worst]:.4g} is {values[worst]:.4g}, of which inverse gives {again[worst]:.4g}"
        raise UserError(f"{told} {found}: give a function and its inverse")
