import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from only_once import Raises
from torch import nn
from torch.nn.utils import clip_grad_norm_

from stn.errors import UserError
from stn.hypergradients.loop import OptimizerTuner
from stn.lstm import HyperLSTM

STEPS = 6
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.08, "momentum": 0.7, "weight_decay": 0.03}),
    "nesterov": (torch.optim.SGD, {"lr": 0.08, "momentum": 0.7, "weight_decay": 0.03, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.05}),
}
OPTIONS = ("lr", "momentum", "weight_decay")
STILL = dict.fromkeys(OPTIONS, 0.0)


class Regression:
    """A small network on another mini-batch each step, in float64; `tensor` and `function` are the forms of a step."""

    def __init__(self, name="sgd", dropout=0.0, batch_norm=False, **options):
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(6)] if batch_norm else []
        self.net = nn.Sequential(nn.Linear(3, 6), *norm, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 1)).double()
        self.inputs = torch.randn(STEPS + 1, 8, 3, dtype=torch.float64)
        self.targets = self.inputs.sum(-1, keepdim=True).sin()
        kind, given = OPTIMIZERS[name]
        self.optimizer = kind(self.net.parameters(), **{**given, **options})

    def loss(self, step):
        return nn.functional.mse_loss(self.net.train()(self.inputs[step]), self.targets[step])

    def validation(self):
        return nn.functional.mse_loss(self.net.eval()(self.inputs[-1]), self.targets[-1])

    def trained(self, clip=math.inf):
        """The validation loss after the whole training."""
        for step in range(STEPS):
            self.optimizer.zero_grad()
            self.loss(step).backward()
            clip_grad_norm_(self.net.parameters(), clip)
            self.optimizer.step()
        return self.validation().item()

    def tuner(self, hyper_lrs=None, **options):
        return OptimizerTuner(self.optimizer, self.net, hyper_lrs or STILL, **options)

    def tuned(self, tuner, form="tensor", steps=range(STEPS)):
        """Each step's slopes."""
        slopes = []
        for step in steps:
            tuner.compute_hg(self.loss(step) if form == "tensor" else lambda step=step: self.loss(step))
            self.optimizer.step()
            slopes.append(tuner.hyper_step(self.validation()))
        return slopes


def difference(name, option, clip=math.inf, **problem):
    """Of the validation loss in an option, by whole trainings with a little more and a little less of it."""
    _, given = OPTIMIZERS[name]
    size, ends = 1e-5, []
    for change in (size, -size):
        if option == "momentum" and "betas" in given:
            changed = {"betas": (given["betas"][0] + change, given["betas"][1])}
        else:
            changed = {option: given[option] + change}
        ends.append(Regression(name, **problem, **changed).trained(clip))
    return (ends[0] - ends[1]) / (2 * size)


# Slopes


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slopes_are_those_of_whole_trainings(name, option):
    problem = Regression(name)
    slopes = problem.tuned(problem.tuner())[-1]
    assert slopes.keys() == set(OPTIONS)
    assert slopes[option] == pytest.approx(difference(name, option), rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slopes_know_that_the_norm_is_clipped(name):
    problem, largest = Regression(name), 0.3
    slopes = problem.tuned(problem.tuner(clip=largest))[-1]
    free = Regression(name)
    free_slopes = free.tuned(free.tuner())[-1]
    for option in OPTIONS:
        assert slopes[option] == pytest.approx(difference(name, option, clip=largest), rel=1e-5)
        assert slopes[option] != pytest.approx(free_slopes[option], rel=1e-2)


def test_training_is_as_without_where_nothing_is_moved():
    problem, plain = Regression(), Regression()
    problem.tuned(problem.tuner(clip=0.3))
    plain.trained(clip=0.3)
    for own, other in zip(problem.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_forms_agree(name, mu):
    """The function's numbers are differences; dropout's masks and running statistics are the same."""
    problems = [Regression(name, dropout=0.3, batch_norm=True) for _ in range(2)]
    forms = zip(problems, ("tensor", "function"), strict=True)
    found = []
    for problem, form in forms:
        torch.manual_seed(1)
        found.append(problem.tuned(problem.tuner(mu=mu), form))
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    first, second = (problem.net.state_dict() for problem in problems)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    assert first["1.num_batches_tracked"] == STEPS


@pytest.mark.parametrize("form", ["tensor", "function"])
def test_weights_that_are_frozen_or_unused_stay_out(form):
    problem = Regression()
    problem.net[0].bias.requires_grad_(False)
    problem.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2).double())]})
    tuner = problem.tuner()
    slopes = problem.tuned(tuner, form)[-1]
    plain = Regression()
    del plain.optimizer.param_groups[0]["params"][1]
    plain.net[0].bias.requires_grad_(False)
    assert slopes == pytest.approx(plain.tuned(plain.tuner())[-1], rel=1e-6)


def test_first_order_takes_no_second_gradient():
    problem, calls = Regression(), []
    tuner = problem.tuner(first_order=True)
    for step in range(3):
        tuner.compute_hg(lambda step=step: calls.append(step) or problem.loss(step))
        problem.optimizer.step()
    assert calls == [0, 1, 2]
    exact = Regression()
    exact_slopes = exact.tuned(exact.tuner(), steps=range(3))[-1]
    assert tuner.hyper_step(problem.validation())["lr"] != pytest.approx(exact_slopes["lr"], rel=1e-3)


def test_the_product_of_a_function_is_that_of_the_same_step():
    """Beside the step's own gradients there are two for each option, and two at first to look for noise."""
    problem, calls = Regression(), []
    tuner = problem.tuner({"lr": 0.0, "weight_decay": 0.0})
    counts = []
    for step in range(3):
        calls.clear()
        tuner.compute_hg(lambda step=step: calls.append(step) or problem.loss(step))
        problem.optimizer.step()
        assert {*calls} == {step}
        counts.append(len(calls))
    assert counts == [1, 7, 5]


# Moves


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_stay_what_they_can_be(name, sign):
    """Whatever the slope: lr and weight decay above 0 and finite, momentum below 1."""
    problem = Regression(name)
    tuner = problem.tuner(dict.fromkeys(OPTIONS, 1e6))
    firsts = dict(tuner.values)
    for _ in range(60):
        before = dict(tuner.values)
        tuner.compute_hg(problem.loss(0))
        tuner.hyper_step(sign * problem.validation())
        for option, value in tuner.values.items():
            assert 1e-6 * firsts[option] * 0.999 <= value < (1 if option == "momentum" else math.inf)
            assert before[option] / 2.001 <= value <= before[option] * 2.001
        for own in problem.net.parameters():
            own.grad = None
    momentum = problem.optimizer.param_groups[0].get("momentum") or problem.optimizer.param_groups[0]["betas"][0]
    assert momentum == tuner.values["momentum"]


def test_a_step_is_against_the_slope():
    problem = Regression()
    step_sizes = {"lr": 1e-3, "momentum": 1e-2, "weight_decay": 1e-3}
    tuner = problem.tuner(step_sizes)
    (slopes,) = problem.tuned(tuner, steps=range(1))
    _, given = OPTIMIZERS["sgd"]
    for option, size in step_sizes.items():
        expected = given[option] - size * slopes[option]
        assert tuner.values[option] == problem.optimizer.param_groups[0][option] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("start", "rises"), [(1e-3, True), (1.95, False)])
def test_it_learns(start, rises):
    """Least squares by gradient descent, whose largest stable rate is 2 and best about 1."""
    inputs = torch.linalg.qr(torch.randn(32, 4))[0].double() * 4  # of curvature 1 along all axes
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]).double()

    def run(hyper_lr):
        torch.manual_seed(0)
        net = nn.Linear(4, 1, bias=False).double()
        optimizer = torch.optim.SGD(net.parameters(), start)
        tuner = OptimizerTuner(optimizer, net, {"lr": hyper_lr}, mu=0.9)
        for _ in range(40):
            tuner.compute_hg((net(inputs) - targets).square().mean())
            optimizer.step()
            tuner.hyper_step((net(inputs) - targets).square().mean())
        return (net(inputs) - targets).square().mean().item(), tuner.values["lr"]

    (constant, _), (tuned, lr) = run(0.0), run(0.01)
    assert tuned < constant / 2
    assert (lr > start) == rises


def test_groups_keep_their_ratio():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.025}]
    optimizer = torch.optim.SGD(groups, weight_decay=0.01)
    tuner = OptimizerTuner(optimizer, net, {"lr": 1e-2, "weight_decay": 1e-3})
    for _ in range(3):
        tuner.compute_hg(net(torch.ones(2, 3).double()).square().mean())
        optimizer.step()
        tuner.hyper_step(net(torch.ones(2, 3).double()).square().mean())
    first, second = optimizer.param_groups
    assert first["lr"] == tuner.values["lr"] != 0.1
    assert second["lr"] == pytest.approx(first["lr"] / 4, rel=1e-12)
    assert first["weight_decay"] == second["weight_decay"] == tuner.values["weight_decay"] != 0.01


def test_a_slope_that_is_not_finite_moves_nothing():
    problem = Regression()
    tuner = problem.tuner(dict.fromkeys(OPTIONS, 0.1))
    tuner.compute_hg(problem.loss(0))
    problem.optimizer.step()
    before = dict(tuner.values)
    slopes = tuner.hyper_step(problem.validation() * math.nan)
    assert math.isnan(slopes["lr"]) and tuner.values == before
    assert not any(trajectory.tangents for trajectory in tuner.trajectories.values())
    tuner.compute_hg(problem.loss(1))  # begins anew
    problem.optimizer.step()
    assert all(math.isfinite(slope) for slope in tuner.hyper_step(problem.validation()).values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_loop_is_the_same_to_the_last_bit(name):
    step_sizes = {"lr": 1e-3, "momentum": 1e-2, "weight_decay": 1e-3}
    whole = Regression(name)
    whole_tuner = whole.tuner(step_sizes, mu=0.9)
    whole.tuned(whole_tuner, steps=range(3))
    state = deepcopy((whole.net.state_dict(), whole.optimizer.state_dict(), whole_tuner.state_dict()))
    slopes = whole.tuned(whole_tuner, steps=range(3, STEPS))

    resumed = Regression(name)
    tuner = resumed.tuner(step_sizes, mu=0.9)
    for part, own in zip((resumed.net, resumed.optimizer, tuner), state, strict=True):
        part.load_state_dict(own)
    assert resumed.tuned(tuner, steps=range(3, STEPS)) == slopes
    assert tuner.values == whole_tuner.values


# What is refused


@pytest.mark.parametrize(
    ("hyper_lrs", "options", "told"),
    [
        ({"lr": 0.1}, {"mu": 1.1}, "mu is 1.1: give a discount from 0 to 1"),
        ({"lr": 0.1}, {"mu": -0.1}, "mu is -0.1: give a discount from 0 to 1"),
        ({"lr": -1.0}, {}, "the step size of lr is -1.0: it must be a number of 0 or more"),
        ({"lr": math.nan}, {}, "the step size of lr is nan: it must be a number of 0 or more"),
        ({"lr": 0.1}, {"clip": 1.0, "clip_value": 1.0}, "clip and clip_value both limit the gradient"),
    ],
)
def test_numbers_out_of_range_are_refused(hyper_lrs, options, told):
    with pytest.raises(ValueError, match=told):
        Regression().tuner(hyper_lrs, **options)


def test_options_that_cannot_be_tuned_are_refused():
    with pytest.raises(UserError, match="the momentum of SGD is 0, from where it is not tuned: start it above 0"):
        Regression(momentum=0.0).tuner()
    net = nn.Linear(2, 1)
    with pytest.raises(UserError, match="hypergradients are not known of RMSprop"):
        OptimizerTuner(torch.optim.RMSprop(net.parameters()), net, {"lr": 0.1})


def test_a_network_that_cannot_be_differentiated_twice_wants_a_function():
    lstm = HyperLSTM(3, 2, 0).double()
    optimizer = torch.optim.SGD(lstm.parameters(), 0.1)
    inputs, h = torch.randn(4, 2, 3).double(), torch.zeros(1, 0).double()

    def loss():
        return lstm(inputs, None, h)[0].square().mean()

    tuner = OptimizerTuner(optimizer, lstm, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"HyperLSTM cannot be differentiated twice.*: give compute_hg a function"):
        tuner.compute_hg(loss())
    for _ in range(3):
        tuner.compute_hg(loss)
        optimizer.step()
        slopes = tuner.hyper_step(loss())
    assert slopes["lr"] < 0


def test_so_does_one_where_that_shows_only_at_the_product():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    tuner = OptimizerTuner(optimizer, net, {"lr": 0.1})
    with pytest.raises(ValueError, match="derivative is not implemented: give compute_hg a function"):
        for _ in range(2):
            tuner.compute_hg(Raises.apply(net(torch.ones(3, 2))).square().mean())
            optimizer.step()


# Others that change an optimizer, and other buffers than running statistics


def test_momentum_stays_below_1_in_every_group():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    groups = [
        {"params": net[0].parameters(), "momentum": 0.5},
        {"params": net[1].parameters(), "momentum": 0.9},
    ]
    tuner = OptimizerTuner(optimizer := torch.optim.SGD(groups, lr=0.01), net, {"momentum": 1.0})
    for trajectory in tuner.trajectories.values():
        trajectory.slope = lambda _: -10.0
    for _ in range(100):
        tuner.compute_hg(net(torch.ones(2, 3)).square().mean())
        optimizer.step()
        tuner.hyper_step(net(torch.ones(2, 3)).square().mean())
        assert all(0 < group["momentum"] < 1 for group in optimizer.param_groups)
    assert optimizer.param_groups[1]["momentum"] > 0.99


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("change", ["scheduler", "group"])
def test_an_option_that_others_change_is_told(change):
    toy = Regression()
    tuner = OptimizerTuner(toy.optimizer, toy.net, {"lr": 1e-3})
    tuner.compute_hg(toy.loss(0))
    toy.optimizer.step()
    tuner.hyper_step(toy.validation())
    if change == "scheduler":
        torch.optim.lr_scheduler.ExponentialLR(toy.optimizer, 0.1).step()
    else:
        toy.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(UserError, match=r"the optimizer's lr was changed .*: leave them to the tuner"):
        tuner.compute_hg(toy.loss(1))


def test_buffers_are_as_the_step_left_them():
    """Spectral normalization estimates a singular vector anew in each forward pass of a training."""
    torch.manual_seed(0)
    net = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs = torch.randn(8, 3).double()
    tuner = OptimizerTuner(optimizer := torch.optim.SGD(net.parameters(), lr=0.01), net, {"lr": 0.0})
    calls = []

    def loss():
        calls.append(net[0].weight_u.clone())
        return net(inputs).square().mean()

    for _ in range(3):
        tuner.compute_hg(loss)
        optimizer.step()
    once = [torch.equal(first, second) for first, second in pairwise(calls[1:])]
    assert len(calls) > 6 and torch.equal(calls[-1], calls[-2]) and once.count(False) == 2  # two steps after the first
