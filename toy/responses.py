"""Approximate best responses to learn: hypernetworks, global and local, and a network with a best-response layer.

Each is a module from h (B, H), what it sees of λ, to the weights w (B, D) of the linear model y = wᵀx, one row for each
example, and is trained by the library's own weight steps on `RidgeTask`.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

import stn
from toy.ridge import Ridge

MOMENTUM = 0.9
CLIP = 10.0  # of the gradient: a wide perturbation now and then makes a penalty of thousands


class Hypernetwork(nn.Sequential):
    """Layers of these sizes from λ to all weights: local as one affine layer (H, D), global as a perceptron.

    (Lorraine & Duvenaud 2018.)
    """

    def __init__(self, *sizes: int):
        layers: list[nn.Module] = []
        for pair in pairwise(sizes):
            layers += [nn.Linear(*pair), nn.Tanh()]
        super().__init__(*layers[:-1])


class LinearNetwork(nn.Module):
    """y = sᵀ(Q x), whose hidden layer responds: the two-layer linear network with the gates of a best-response layer.

    The weights w = Qᵀs are its outputs for the unit vectors: y is linear, so that its Jacobian is the same for all x.
    """

    def __init__(self, inputs: int, num_hyper: int):
        super().__init__()
        self.hidden = stn.HyperLinear(inputs, inputs, num_hyper, bias=False)
        self.output = nn.Linear(inputs, 1, bias=False)
        self.inputs = inputs

    def forward(self, h: Tensor) -> Tensor:
        unit = torch.eye(self.inputs, dtype=h.dtype)[:, None].expand(-1, len(h), -1)  # (D, B, D)
        return self.output(self.hidden(unit, h)).squeeze(-1).T


class RidgeTask(stn.StreamTask):
    """The training and the validation loss of a response: a mini-batch is the whole data set, in a new order.

    Each example is predicted, and its Jacobian penalized, by the weights that respond to its own perturbed λ.
    """

    likelihood = False

    def __init__(self, model: nn.Module, ridge: Ridge):
        self.model, self.batch_size = model, len(ridge.x)
        data = {"train": (ridge.x, ridge.t), "valid": (ridge.x_valid, ridge.t_valid)}
        self.streams = {split: stn.Shuffled(pair, len(pair[0])) for split, pair in data.items()}

    def predict(self, _: tuple[Tensor, Tensor], draw: stn.Draw) -> Tensor:
        return self.model(draw.h)

    def loss(self, weights: Tensor, batch: tuple[Tensor, Tensor], draw: stn.Draw) -> stn.Loss:
        x, t = batch
        data = ((x * weights).sum(1) - t).square().mean() / 2
        penalty = (draw.tuned_values * weights.square()).sum(1).mean() / 2 if self.model.training else 0.0
        return stn.Loss(data + penalty, data.detach(), len(x))


Seen = Callable[[int, RidgeTask], None]  # a number of weight steps, and the task after them


def train(
    model: nn.Module, ridge: Ridge, hyper: stn.Hyperparameters, steps: int, lr: float, seen: Seen = lambda *_: None
) -> RidgeTask:
    """The weight steps of a Δ-STN where hyperparameters are fed centred, of an STN elsewhere; λ stays where it is.

    The learning rate falls linearly to 0, so that the perturbation's noise averages out.
    """
    task = RidgeTask(model.double(), ridge)
    delta = bool(hyper.centred.any())
    if delta:
        stn.zero_gates(model)
    method = (stn.DeltaSTN if delta else stn.STN)(model, hyper, lr=lr, momentum=MOMENTUM, clip=CLIP)
    for step in range(steps):
        method.set_learning_rate(lr * (1 - step / steps))
        method.weight_step(task, hyper)
        seen(step + 1, task)
    return task


def response(model: nn.Module, hyper: stn.Hyperparameters, shifts: Tensor) -> Tensor:
    """(B, H) shifts of λ -> (B, D), the weights ŵ(λ + shift)."""
    with torch.no_grad():
        return model(hyper.current().h + shifts)


def jacobian(model: nn.Module, hyper: stn.Hyperparameters) -> Tensor:
    """∂ŵ/∂λ, (D, H)."""
    return torch.autograd.functional.jacobian(lambda h: model(h)[0], hyper.current().h.detach())[:, 0]


def hypergradient(task: RidgeTask, hyper: stn.Hyperparameters) -> Tensor:
    """∂L_V(ŵ(λ))/∂λ, (H,): what a hyperparameter step follows."""
    task.model.eval()
    batch, draw = task.batch("valid"), hyper.current()
    with stn.frozen(task.model):
        objective = task.loss(task.predict(batch, draw), batch, draw).objective
    return torch.autograd.grad(objective, hyper.unconstrained)[0]
