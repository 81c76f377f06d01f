"""How one update of an optimizer responds to its hyperparameters: the update's derivative in forward mode.

An update takes weights w, a gradient g and the optimizer's own state to new weights and a new state. A tangent is the
derivative of these with respect to one hyperparameter; `sgd` and `adam` take the tangent before an update to the one
after it, for the updates of torch.optim.SGD, Adam and AdamW as PyTorch documents them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from stn.errors import UserError
from stn.optimizers import value_of

Tangent = dict[str, Tensor]  # of the weight, "weight", and of what the optimizer keeps for it, by its name there
Group = Mapping[str, Any]
OPTIONS = ("lr", "momentum", "weight_decay")
WEIGHT = "weight"


def sgd(
    group: Group, direction: Mapping[str, float], state: Mapping, w: Tensor, g: Tensor, tangent: Tangent, dg: Tensor
) -> Tangent:
    """The tangent after an update of SGD with momentum, Nesterov's or not, and weight decay.

    group, direction: the options of the parameter group, and their derivatives. state: what the optimizer keeps of the
    weight, before the update. w, g: the weight and its final gradient; tangent, dg: their tangents.
    """
    lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    dlr, dmomentum, ddecay = (direction.get(name, 0.0) for name in OPTIONS)
    dw = tangent[WEIGHT]
    g, dg = (-g, -dg) if group["maximize"] else (g, dg)
    if decay or ddecay:
        g, dg = g.add(w, alpha=decay), dg.add(dw, alpha=decay).add_(w, alpha=ddecay)
    after = {}
    step, dstep = g, dg
    if momentum:
        before, kept = state.get("momentum_buffer"), 1 - group["dampening"]
        if before is None:  # the first gradient starts the buffer, undamped
            buffer, dbuffer = g, dg
        else:
            buffer = (before * momentum).add_(g, alpha=kept)
            dbuffer = (tangent["momentum_buffer"] * momentum).add_(before, alpha=dmomentum).add_(dg, alpha=kept)
        after["momentum_buffer"] = dbuffer
        step, dstep = buffer, dbuffer
        if group["nesterov"]:
            step = g.add(buffer, alpha=momentum)
            dstep = dg.add(buffer, alpha=dmomentum).add_(dbuffer, alpha=momentum)
    return {WEIGHT: dw.sub(dstep, alpha=lr).sub_(step, alpha=dlr), **after}


def adam(
    group: Group, direction: Mapping[str, float], state: Mapping, w: Tensor, g: Tensor, tangent: Tangent, dg: Tensor
) -> Tangent:
    """The tangent after an update of Adam, or of AdamW, which decays the weights apart; arguments as of `sgd`.

    The momentum is the first of Adam's betas. Where the second moment is 0, as for weights that no gradient has reached
    yet, its root has no derivative: it counts as 0 there.
    """
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
    dlr, dbeta1, ddecay = (direction.get(name, 0.0) for name in OPTIONS)
    dw = tangent[WEIGHT]
    g, dg = (-g, -dg) if group["maximize"] else (g, dg)
    kept, dkept = 1.0, 0.0  # of the weight, by a decay that is apart
    if group.get("decoupled_weight_decay"):
        kept, dkept = 1 - lr * decay, -(dlr * decay + lr * ddecay)
    elif decay or ddecay:
        g, dg = g.add(w, alpha=decay), dg.add(dw, alpha=decay).add_(w, alpha=ddecay)
    steps = float(state["step"]) + 1 if state else 1.0
    mean_before = state["exp_avg"] if state else torch.zeros_like(w)
    square_before = state["exp_avg_sq"] if state else torch.zeros_like(w)
    mean, square = mean_before.lerp(g, 1 - beta1), (square_before * beta2).addcmul_(g, g, value=1 - beta2)
    dmean = tangent["exp_avg"].lerp(dg, 1 - beta1)
    if dbeta1:
        dmean.add_(mean_before - g, alpha=dbeta1)
    dsquare = (tangent["exp_avg_sq"] * beta2).addcmul_(g, dg, value=2 * (1 - beta2))

    whole1, whole2 = 1 - beta1**steps, 1 - beta2**steps
    root = square.sqrt()
    droot = torch.where(root > 0, dsquare / (2 * root), 0.0)
    below = (root / math.sqrt(whole2)).add_(group["eps"])
    step = mean / whole1 / below
    dwhole1 = -steps * beta1 ** (steps - 1) * dbeta1
    dstep = dmean.div(whole1).sub_(mean, alpha=dwhole1 / whole1**2).sub_(step * droot, alpha=1 / math.sqrt(whole2))
    dstep = dstep.div_(below)
    dw = (dw * kept).add_(w, alpha=dkept).sub_(dstep, alpha=lr).sub_(step, alpha=dlr)
    return {WEIGHT: dw, "exp_avg": dmean, "exp_avg_sq": dsquare}


# For each optimizer its update, and what it keeps of a weight that depends on its hyperparameters.
_UPDATES: dict[type[Optimizer], tuple[Callable[..., Tangent], tuple[str, ...]]] = {
    SGD: (sgd, ("momentum_buffer",)),
    Adam: (adam, ("exp_avg", "exp_avg_sq")),
}


def update_of(optimizer: Optimizer) -> Callable[..., Tangent]:
    return _entry(optimizer)[0]


def no_tangent(optimizer: Optimizer, weight: Tensor) -> Tangent:
    """The tangent of what no hyperparameter has touched yet."""
    return {name: torch.zeros_like(weight) for name in (WEIGHT, *_entry(optimizer)[1])}


def _entry(optimizer: Optimizer) -> tuple[Callable[..., Tangent], tuple[str, ...]]:
    return next(entry for kind, entry in _UPDATES.items() if isinstance(optimizer, kind))


def refuse_misfits(optimizer: Optimizer, parameters: Sequence[nn.Parameter], options: Sequence[str]) -> None:
    """Raise UserError where an optimizer's options cannot be tuned by hypergradients."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, tuple(_UPDATES)):
        raise UserError(f"hypergradients are not known of {name}: give an SGD, Adam or AdamW")
    if any(group.get("amsgrad") for group in optimizer.param_groups):
        raise UserError(f"hypergradients are not known of {name} with amsgrad: build it without")
    if short := [own.dtype for own in parameters if own.dtype not in (torch.float32, torch.float64)]:
        raise UserError(f"hypergradients of {short[0]} weights would be rounded away: keep the weights in float32")
    for option in options:
        if option not in OPTIONS:
            raise UserError(f"{name} has no option {option!r} that is tuned: give some of {', '.join(OPTIONS)}")
        if not value_of(optimizer, option) > 0:
            raise UserError(f"the {option} of {name} is 0, from where it is not tuned: start it above 0")
