import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from stn.errors import UserError
from stn.hypergradients.trajectory import Trajectory
from stn.hypergradients.updates import refuse_misfits

STEPS = (1, 2, 10)
# torch's optimizers with their options, each once without and once with weight decay.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8}),
    "dampened": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05, "eps": 1e-4, "betas": (0.8, 0.95)}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.0}),
}
TUNED = {"lr": OPTIMIZERS, "weight_decay": OPTIMIZERS, "momentum": {n: o for n, o in OPTIMIZERS.items() if n != "sgd"}}
CASES = [(option, name) for option, names in TUNED.items() for name in names]


class Toy:
    """A training loss of two weights that is no quadratic, and a validation loss, each step on other data."""

    def __init__(self, steps):
        generator = torch.Generator().manual_seed(0)
        self.data = torch.randn(steps, 6, 3, generator=generator, dtype=torch.float64)
        self.target = torch.randn(6, generator=generator, dtype=torch.float64)
        self.start = [torch.randn(3, 4, generator=generator, dtype=torch.float64) / 2, torch.ones(4).double()]

    def loss(self, weights, step):
        first, second = weights
        return (torch.tanh(self.data[step] @ first) @ second - self.target).square().mean()

    def validation(self, weights):
        return sum(weight.sin().sum() for weight in weights)


def unrolled(toy, name, options, steps, clip):
    """The weights after so many updates, written as the papers do, differentiable in the options."""
    weights = [own.clone().requires_grad_() for own in toy.start]
    first = [torch.zeros_like(own) for own in weights]
    second = [torch.zeros_like(own) for own in weights]
    lr, momentum, decay = options["lr"], options["momentum"], options["weight_decay"]
    for step in range(steps):
        gradients = torch.autograd.grad(toy.loss(weights, step), weights, create_graph=True)
        gradients = [*clip(gradients)]
        for place, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            if name == "adamw":
                w = w - lr * decay * w
            else:
                g = g + decay * w
            if name in ("adam", "adamw"):
                beta2 = options["beta2"]
                first[place] = momentum * first[place] + (1 - momentum) * g
                second[place] = beta2 * second[place] + (1 - beta2) * g * g
                mean = first[place] / (1 - momentum ** (step + 1))
                root = (second[place] / (1 - beta2 ** (step + 1))).sqrt()
                weights[place] = w - lr * mean / (root + options["eps"])
                continue
            damped = g if step == 0 else (1 - options["dampening"]) * g
            first[place] = momentum * first[place] + damped
            taken = g + momentum * first[place] if name == "nesterov" else first[place]
            weights[place] = w - lr * taken
    return weights


def tuned_options(name, decay, option):
    """Of the unrolled updates: the option of which the derivative is wanted as a tensor."""
    _, given = OPTIMIZERS[name]
    betas = given.get("betas", (0.9, 0.999))
    momentum = betas[0] if name.startswith("adam") else given.get("momentum", 0.0)
    options = {
        "lr": given["lr"],
        "momentum": momentum,
        "weight_decay": decay,
        "beta2": betas[1],
        "eps": given.get("eps", 1e-8),
        "dampening": given.get("dampening", 0.0),
    }
    return options | {option: torch.tensor(options[option], dtype=torch.float64, requires_grad=True)}


def followed(toy, optimizer, option, steps, discount=1.0, clip=math.inf, clip_value=math.inf, exact=True):
    """The trajectory after so many of torch's own updates; products by autograd."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trajectory = Trajectory(optimizer, weights, option, clip, clip_value)
    for step in range(steps):
        gradients = torch.autograd.grad(toy.loss(weights, step), weights, create_graph=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.detach().clone()
        norm = nn.utils.clip_grad_norm_(weights, clip)
        nn.utils.clip_grad_value_(weights, clip_value)

        def product(direction, gradients=gradients):
            return [*torch.autograd.grad(gradients, weights, direction)]

        trajectory.advance(norm, product if exact else None, discount)
        optimizer.step()
    return trajectory, weights


def build(toy, name, decay=0.0):
    kind, options = OPTIMIZERS[name]
    weights = [nn.Parameter(own.clone()) for own in toy.start]
    return kind(weights, **{**options, "weight_decay": decay})


def slope(toy, trajectory, weights):
    found = torch.autograd.grad(toy.validation(weights), weights)
    return trajectory.slope(dict(zip(weights, found, strict=True)))


def by_norm(largest):
    def clip(gradients):
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        return [gradient * scale for gradient in gradients]

    return clip


def unchanged(gradients):
    return gradients


# Against autodiff through the unrolled updates


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("option", "name"), CASES)
def test_the_slope_is_that_of_autodiff_through_all_updates(option, name, steps, decay):
    if option == "weight_decay" and decay == 0:
        return
    toy = Toy(steps)
    options = tuned_options(name, decay, option)
    reached = unrolled(toy, name, options, steps, unchanged)
    (expected,) = torch.autograd.grad(toy.validation(reached), options[option], allow_unused=True)

    trajectory, weights = followed(toy, build(toy, name, decay), option, steps)
    for weight, own in zip(weights, reached, strict=True):  # the oracle makes torch's updates
        torch.testing.assert_close(weight, own, rtol=1e-12, atol=1e-12)
    assert slope(toy, trajectory, weights) == pytest.approx(float(expected or 0.0), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_the_norm_is_part_of_the_update(name):
    toy, largest = Toy(10), 0.4
    options = tuned_options(name, 0.02, "lr")
    (expected,) = torch.autograd.grad(toy.validation(unrolled(toy, name, options, 10, by_norm(largest))), options["lr"])
    trajectory, weights = followed(toy, build(toy, name, 0.02), "lr", 10, clip=largest)
    found = slope(toy, trajectory, weights)
    assert found == pytest.approx(expected.item(), rel=1e-8)
    free, others = followed(toy, build(toy, name, 0.02), "lr", 10)
    assert found != pytest.approx(slope(toy, free, others), rel=1e-3)  # it did act


def test_clipping_entries_is_part_of_the_update():
    toy, largest = Toy(10), 0.2
    options = tuned_options("momentum", 0.0, "lr")

    def clip(gradients):
        return [gradient.clamp(-largest, largest) for gradient in gradients]

    (expected,) = torch.autograd.grad(toy.validation(unrolled(toy, "momentum", options, 10, clip)), options["lr"])
    trajectory, weights = followed(toy, build(toy, "momentum"), "lr", 10, clip_value=largest)
    assert slope(toy, trajectory, weights) == pytest.approx(expected.item(), rel=1e-8)


def test_groups_may_order_the_weights_in_their_own_way():
    """What is followed has its own order: that of `parameters`."""
    toy = Toy(4)
    expected, weights = followed(toy, build(toy, "adam"), "lr", 4)
    first, second = (nn.Parameter(own.clone()) for own in toy.start)
    kind, options = OPTIMIZERS["adam"]
    optimizer = kind([{"params": [second]}, {"params": [first]}], **options)
    trajectory = Trajectory(optimizer, [first, second])
    for step in range(4):
        gradients = torch.autograd.grad(toy.loss((first, second), step), (first, second), create_graph=True)
        first.grad, second.grad = (gradient.detach() for gradient in gradients)

        def product(direction, gradients=gradients):
            return [*torch.autograd.grad(gradients, (first, second), direction)]

        trajectory.advance(torch.ones(()), product, 1.0)
        optimizer.step()
    assert slope(toy, trajectory, [first, second]) == pytest.approx(slope(toy, expected, weights), rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_maximizing_a_loss_is_minimizing_its_opposite(name):
    toy = Toy(4)
    expected, weights = followed(toy, build(toy, name, 0.02), "lr", 4)
    other = Toy(4)
    other.loss = lambda weights, step: -toy.loss(weights, step)
    kind, options = OPTIMIZERS[name]
    own = [nn.Parameter(start.clone()) for start in toy.start]
    optimizer = kind(own, **{**options, "weight_decay": 0.02}, maximize=True)
    trajectory, _ = followed(other, optimizer, "lr", 4)
    assert slope(toy, trajectory, own) == pytest.approx(slope(toy, expected, weights), rel=1e-10)


# The discount


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_discount_of_0_keeps_the_last_update_alone(name):
    toy = Toy(4)
    trajectory, weights = followed(toy, build(toy, name, 0.02), "lr", 4, discount=0.0)

    optimizer = build(toy, name, 0.02)
    _, before = followed(toy, optimizer, "lr", 3)
    state = optimizer.state_dict()
    moved = []
    for change in (-1e-6, 1e-6):
        again = build(toy, name, 0.02)
        again.load_state_dict(deepcopy(state))
        own = again.param_groups[0]["params"]
        for weight, place in zip(own, before, strict=True):
            weight.data = place.data.clone()
            weight.grad = None
        for group in again.param_groups:
            group["lr"] += change
        for weight, gradient in zip(own, torch.autograd.grad(toy.loss(own, 3), own), strict=True):
            weight.grad = gradient
        again.step()
        moved.append([weight.detach().clone() for weight in own])
    for weight, low, high in zip(weights, *moved, strict=True):
        torch.testing.assert_close(trajectory.tangents[weight]["weight"], (high - low) / 2e-6, rtol=1e-5, atol=1e-8)


def test_the_discount_is_of_each_step():
    """Of gradient descent on a linear loss, where A = 1: Z is the sum of the discounted gradients."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    trajectory = Trajectory(optimizer := torch.optim.SGD([weight], lr=0.1), [weight])
    for gradient in (1.0, 2.0, 5.0):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        trajectory.advance(weight.grad.norm(), lambda direction: [torch.zeros_like(part) for part in direction], 0.5)
        optimizer.step()
    assert trajectory.slope({weight: torch.ones(1).double()}) == -(0.25 * 1 + 0.5 * 2 + 5)


def test_first_order_leaves_the_hessian_out():
    toy = Toy(5)
    exact, weights = followed(toy, build(toy, "sgd"), "lr", 5)
    rough, others = followed(toy, build(toy, "sgd"), "lr", 5, exact=False)
    total = [torch.zeros_like(own) for own in toy.start]
    again = build(toy, "sgd")
    own = again.param_groups[0]["params"]
    for step in range(5):
        for weight, gradient, sum_ in zip(own, torch.autograd.grad(toy.loss(own, step), own), total, strict=True):
            weight.grad = gradient
            sum_ -= gradient
        again.step()
    for weight, expected in zip(others, total, strict=True):
        torch.testing.assert_close(rough.tangents[weight]["weight"], expected)
    assert slope(toy, exact, weights) != pytest.approx(slope(toy, rough, others), rel=1e-3)


# Parts


def test_groups_keep_the_ratio_of_their_learning_rates():
    toy = Toy(3)
    weights = [nn.Parameter(own.clone()) for own in toy.start]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.02}])
    trajectory, _ = followed(toy, optimizer, "lr", 3)

    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    reached = [own.clone().requires_grad_() for own in toy.start]
    for step in range(3):
        gradients = torch.autograd.grad(toy.loss(reached, step), reached, create_graph=True)
        reached = [
            own - lr * share * gradient for own, share, gradient in zip(reached, (1, 0.2), gradients, strict=True)
        ]
    (expected,) = torch.autograd.grad(toy.validation(reached), lr)
    assert slope(toy, trajectory, weights) == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_weight_without_gradient_keeps_its_tangent(name):
    toy = Toy(2)
    optimizer = build(toy, name)
    trajectory, weights = followed(toy, optimizer, "lr", 2)
    before = trajectory.tangents[weights[0]]["weight"].clone()
    weights[0].grad, weights[1].grad = None, torch.ones(4).double()
    trajectory.advance(torch.ones(()), lambda direction: [torch.zeros_like(part) for part in direction], 0.5)
    torch.testing.assert_close(trajectory.tangents[weights[0]]["weight"], before / 2)


def test_a_second_moment_of_0_contributes_nothing():
    weight = nn.Parameter(torch.zeros(2))
    trajectory = Trajectory(optimizer := torch.optim.Adam([weight], lr=0.1), [weight])
    for _ in range(3):
        weight.grad = torch.tensor([0.0, 1.0])
        trajectory.advance(torch.ones(()), lambda direction: [torch.ones_like(part) for part in direction], 1.0)
        optimizer.step()
    assert trajectory.tangents[weight]["weight"].isfinite().all()


def test_state_goes_on_where_it_was():
    toy = Toy(6)
    whole, weights = followed(toy, build(toy, "adam"), "lr", 6)
    other = build(toy, "adam")
    own = other.param_groups[0]["params"]
    fresh = Trajectory(other, own)
    fresh.load_state_dict(whole.state_dict())
    for weight, mine in zip(weights, own, strict=True):
        for name, part in whole.tangents[weight].items():
            assert torch.equal(fresh.tangents[mine][name], part)


# What is refused


@pytest.mark.parametrize(
    ("optimizer", "options", "told"),
    [
        (
            lambda w: torch.optim.RMSprop(w),
            ["lr"],
            "hypergradients are not known of RMSprop: give an SGD, Adam or AdamW",
        ),
        (lambda w: torch.optim.Adam(w, amsgrad=True), ["lr"], "with amsgrad: build it without"),
        (lambda w: torch.optim.SGD(w, 0.1), ["momentum"], "the momentum of SGD is 0, from where it is not tuned"),
        (lambda w: torch.optim.SGD(w, 0.1), ["dampening"], "SGD has no option 'dampening' that is tuned"),
    ],
)
def test_what_cannot_be_tuned_is_refused(optimizer, options, told):
    weights = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(UserError, match=told.replace("(", r"\(")):
        refuse_misfits(optimizer(weights), weights, options)


def test_16_bit_weights_are_refused():
    weights = [nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))]
    with pytest.raises(UserError, match=r"torch\.bfloat16 weights would be rounded away: keep the weights in float32"):
        refuse_misfits(torch.optim.SGD(weights, 0.1), weights, ["lr"])
