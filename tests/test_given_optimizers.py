"""Methods with optimizers that the user built, several mini-batches a step, and objectives scaled for float16."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.testing import assert_close

from stn.bilevel import Loss, StreamTask
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear, split_parameters
from stn.methods import STN

pytestmark = pytest.mark.usefixtures("double")
METHODS = pytest.mark.parametrize("method", [STN, DeltaSTN])


class InOrder:
    """Mini-batches of so many examples, one after the other."""

    epochs = 0

    def __init__(self, tensors, batch_size):
        self.batches = list(zip(*(tensor.split(batch_size) for tensor in tensors), strict=True))

    def next(self):
        self.batches.append(self.batches.pop(0))
        return self.batches[-1]


class Regression(StreamTask):
    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.model = nn.Module()
        self.model.hidden, self.model.out = HyperLinear(3, 5, 1), HyperLinear(5, 2, 1)
        for layer in (self.model.hidden, self.model.out):
            nn.init.normal_(layer.gate)
        data = torch.randn(24, 3), torch.randn(24, 2)
        self.streams = {"train": InOrder(data, batch_size), "valid": InOrder(data, batch_size)}

    def predict(self, batch, draw):
        return self.model.out(self.model.hidden(batch[0], draw.h).tanh(), draw.h)

    def loss(self, prediction, batch, draw):
        loss = ((prediction - batch[1]) * (1 + draw["shift"].reshape(-1, 1))).square().mean()
        return Loss(loss, loss.detach(), len(batch[1]))


def made(method, batch_size=8, scale=0.5):
    torch.manual_seed(0)
    feed = "centred" if method is DeltaSTN else "unconstrained"
    return Regression(batch_size), Hyperparameters(shift=Tuned(0.4, scale=scale, feed=feed))


def state_after(method, steps=3, batch_size=8, scale=0.5, optimizer=None, **options):
    """Weights and hyperparameters after some steps of both kinds. optimizer: builds one of the task's model."""
    task, hyper = made(method, batch_size, scale)
    given = {"lr": 0.1, "momentum": 0.9} if optimizer is None else {"optimizer": optimizer(task.model)}
    way = method(task.model, hyper, **given, hyper_lr=0.05, **options)
    torch.manual_seed(1)
    for _ in range(steps):
        step = way.weight_step(task, hyper)
        way.hyper_step(task, hyper)
    assert step.health.isfinite()
    return [*task.model.parameters(), *hyper.parameters()]


def both_parts(model):
    return [torch.optim.SGD(part, 0.1, 0.9) for part in split_parameters(model)]


@METHODS
def test_a_given_optimizer_takes_the_steps_that_the_methods_own_would(method):
    own = state_after(method)
    assert_close(state_after(method, optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.1, 0.9)), own)
    if method is DeltaSTN:
        assert_close(state_after(method, optimizer=both_parts), own)


def test_one_optimizer_that_the_delta_stn_steps_twice_counts_each_parameters_steps_once():
    """Adam's bias correction, weight decay and momentum would show a parameter stepped where it has no gradient."""

    def alone(model):
        return [torch.optim.AdamW(part, 0.01, weight_decay=0.3) for part in split_parameters(model)]

    together = state_after(DeltaSTN, optimizer=lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.3))
    assert_close(together, state_after(DeltaSTN, optimizer=alone))


@METHODS
def test_several_mini_batches_a_step_are_one_of_all_their_examples(method):
    whole, parts = (state_after(method, 1, size, 0.0, accumulate=24 // size)[:-2] for size in (24, 6))
    assert_close(parts, whole)


@METHODS
def test_a_step_of_several_mini_batches_says_their_mean(method):
    task, hyper = made(method, 6, 0.0)
    draw, batches = hyper.current(), task.streams["train"].batches
    expected = [task.loss(task.predict(batch, draw), batch, draw).data for batch in batches]
    step = method(task.model, hyper, lr=0.1, accumulate=4).weight_step(task, hyper)
    assert step.targets == 24
    assert_close(step.data, torch.stack(expected).mean())


@METHODS
@pytest.mark.parametrize("clip", [1e-2, 1e9])
def test_scaled_objectives_give_the_same_steps(method, clip):
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    assert_close(state_after(method, clip=clip, scaler=scaler), state_after(method, clip=clip))
    assert scaler.get_scale() > 1024.0


@METHODS
def test_a_step_whose_scale_was_too_large_is_left_out(method):
    scaler = GradScaler("cpu", init_scale=2.0**120)
    task, hyper = made(method)
    loss = task.loss
    task.loss = lambda *args: Loss(1e300 * loss(*args).objective, loss(*args).data, 1)
    before = deepcopy(task.model.state_dict())
    step = method(task.model, hyper, lr=0.1, scaler=scaler).weight_step(task, hyper)
    assert_close(task.model.state_dict(), before)
    assert step.health.isfinite() and scaler.get_scale() < 2.0**120


@METHODS
def test_optimizers_that_cannot_train_the_network_are_refused(method):
    task, hyper = made(method)
    with pytest.raises(ValueError, match="lr is nan: give a learning rate, or an optimizer"):
        method(task.model, hyper)
    half = torch.optim.SGD(task.model.hidden.parameters(), 0.1)
    with pytest.raises(ValueError, match="of the network's parameters that are trained"):
        method(task.model, hyper, optimizer=half)
    if method is DeltaSTN:
        with pytest.raises(ValueError, match="3 optimizers: give one, or two"):
            method(task.model, hyper, optimizer=[half] * 3)
        with pytest.raises(ValueError, match="response_lr is for the method's own optimizers"):
            method(task.model, hyper, optimizer=half, response_lr=0.1)


@METHODS
def test_the_state_has_each_optimizer_once_and_the_scaler(method):
    def begun():
        task, hyper = made(method)
        adam = torch.optim.Adam(task.model.parameters(), 0.01)
        return task, hyper, method(task.model, hyper, optimizer=adam, scaler=GradScaler("cpu", growth_interval=3))

    task, hyper, way = begun()
    for _ in range(2):
        way.weight_step(task, hyper)
        way.hyper_step(task, hyper)
    state = deepcopy((way.state_dict(), task.model.state_dict(), hyper.state_dict()))
    assert len(state[0]) == 3 and "scaler" in state[0]
    again, its_hyper, its_way = begun()
    again.model.load_state_dict(state[1])
    its_hyper.load_state_dict(state[2])
    its_way.load_state_dict(state[0])
    again.streams = deepcopy(task.streams)
    for one, own_hyper, own in ((task, hyper, way), (again, its_hyper, its_way)):
        torch.manual_seed(5)
        own.weight_step(one, own_hyper)
        own.hyper_step(one, own_hyper)
    assert_close(again.model.state_dict(), task.model.state_dict(), rtol=0, atol=0)
    assert_close(its_hyper.state_dict(), hyper.state_dict(), rtol=0, atol=0)
