import math
import random
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from only_once import Raises
from reference import training_loss
from torch import nn
from torch.autograd.functional import hvp
from torch.func import functional_call

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.bilevel import Loss
from stn.conversion import convert
from stn.datasets.text import Corpus
from stn.delta_stn import held_statistics
from stn.errors import UserError
from stn.hypergradients.products import CentralDifferences, DoubleBackward
from stn.hypergradients.replay import Recorded, kept_random_state, random_state, set_random_state
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear
from stn.methods import Update

PRECISIONS = [(torch.float64, 1e-7), (torch.float32, 2e-3)]  # with the largest relative error of differences
BATCH = 6


class SelfTuning(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out, self.dropout = HyperLinear(5, 7, 1), HyperLinear(7, 3, 1), nn.Dropout(0.3)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.gate)

    def forward(self, x, draw):
        return self.out(self.dropout(self.hidden(x, draw.h).tanh()), draw.h)


class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(
            *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3)),
        )

    def forward(self, x, draw):  # noqa: ARG002
        return super().forward(x)


def converted(hyper):
    network = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Dropout(0.2), nn.Linear(7, 3))
    net = convert(network, hyper, dropout={"*": "rate"})
    return lambda x, draw: net(x, draw=draw), net


NETWORKS = {"self-tuning": (SelfTuning, (BATCH, 5)), "convolutional": (Convolutional, (BATCH, 2, 6, 6))}


class Regression:
    """Of a task what a replay needs, on mini-batches that are given."""

    def __init__(self, model, call=None):
        self.model, self.call = model, call or model

    def predict(self, batch, draw):
        return self.call(batch[0], draw)

    def loss(self, prediction, batch, draw):  # noqa: ARG002
        loss = (prediction - batch[1]).square().mean()
        return Loss(loss, loss.detach(), len(batch[1]))


class Step:
    """A weight step on so many mini-batches: its gradients are computed, for either kind of product.

    parameters: those that the optimizer has.
    """

    def __init__(self, task, draw, batches, parameters=None):
        self.parameters = [*(task.model.parameters() if parameters is None else parameters)]
        self.update = Update(torch.optim.SGD(self.parameters, 0.1))
        self.double = DoubleBackward(self.update, several=True)
        self.task, self.draw, self.batches = Recorded(task), draw, batches
        self.differences = CentralDifferences(self.parameters, lambda: self.task.gradients(self.parameters))
        self.before = random_state()
        task.model.train()
        self.update.begin()
        self.task.begin()
        for batch in batches:
            loss = self.task.loss(self.task.predict(batch, draw), batch, draw)
            self.update.add(loss.objective, len(batches))

    def oracle(self, direction):
        """torch's own product, of the same function of the weights."""
        names = [name for own in self.parameters for name, other in self.task.model.named_parameters() if other is own]

        def objective(*weights):
            set_random_state(self.before)
            found = 0.0
            for batch in self.batches:
                given = dict(zip(names, weights, strict=True))
                prediction = functional_call(self.task.model, given, (batch[0], self.draw))
                found = found + self.task.loss(prediction, batch, self.draw).objective / len(self.batches)
            return found

        with kept_random_state(), held_statistics(self.task.model):
            weights = tuple(own.detach() for own in self.parameters)
            return hvp(objective, weights, tuple(direction))[1]


def step_of(name, dtype, batches=1):
    kind, shape = NETWORKS[name]
    model = kind().to(dtype)
    hyper = Hyperparameters(rate=Tuned(0.3, range=(0, 1))).to(dtype)
    data = [(torch.randn(shape, dtype=dtype), torch.randn(BATCH, 3, dtype=dtype)) for _ in range(batches)]
    return Step(Regression(model), hyper.perturbed(BATCH), data)


def directions(parameters):
    return [torch.randn_like(own) for own in parameters]


def error(found, expected):
    """By the norm of the difference over the norm."""
    found, expected = (torch.cat([part.flatten() for part in parts]).double() for parts in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


# Against torch's own


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_ways_find_torchs_own_product(name, dtype, bound, batches):
    step = step_of(name, dtype, batches)
    direction = directions(step.parameters)
    expected = step.oracle(direction)
    assert error(step.double(direction), expected) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert error(step.differences(direction), expected) < bound


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_both_ways_agree_on_a_converted_network(dtype, bound):
    hyper = Hyperparameters(rate=Tuned(0.3, range=(0, 1)))
    call, net = converted(hyper)
    hyper, net = hyper.to(dtype), net.to(dtype)
    batch = torch.randn(BATCH, 5, dtype=dtype), torch.randn(BATCH, 3, dtype=dtype)
    step = Step(Regression(net, call), hyper.perturbed(BATCH), [batch])
    direction = directions(step.parameters)
    expected = step.double(direction)  # before weights are touched
    assert error(step.differences(direction), expected) < bound


def language_step(dtype):
    """A step of a tiny AWD-LSTM with all dropouts, and the obvious implementation's gradients, to differentiate."""
    hyper = Hyperparameters(
        **{name: Tuned(0.3, own.range, per_example=own.per_example, feed="squashed") for name, own in TABLE.items()}
    ).to(dtype)
    model = AWDLSTM(12, 6, 5, 2, hyper.num_tuned, dtype).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    words = [torch.randint(12, (90,)) for _ in range(3)]
    task = LanguageModeling(model, Corpus(*words, tuple(map(str, range(12))), ""), 3, 7)
    state = [tuple(torch.randn(2, 1, 3, width, dtype=dtype)) for width in (5, 6)]
    task.streams["train"].state = state
    step = Step(task, hyper.perturbed(3), [batch := task.batch("train")])
    with kept_random_state():
        set_random_state(step.before)
        loss, _ = training_loss(model, batch.inputs, batch.targets, state, step.draw)
    return step, torch.autograd.grad(loss, step.parameters, create_graph=True)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 5e-3)])
def test_differences_know_the_fused_lstm(dtype, bound):
    step, gradients = language_step(dtype)
    direction = directions(step.parameters)
    expected = torch.autograd.grad(gradients, step.parameters, direction)
    assert error(step.differences(direction), expected) < bound


# Double backward


def test_a_network_that_cannot_be_differentiated_twice_has_its_gradients_all_the_same():
    step, gradients = language_step(torch.float64)
    assert "cannot be differentiated twice" in step.double.failed and "\n" not in step.double.failed
    assert step.update.backward is torch.Tensor.backward
    assert error([own.grad for own in step.parameters], [part.detach() for part in gradients]) < 1e-10


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_an_operation_that_is_marked_is_not_passed_over():
    """Autograd computes products without it, and says nothing."""
    weights = [nn.Parameter(torch.randn(3)) for _ in range(2)]
    double = DoubleBackward(update := Update(torch.optim.SGD(weights, 0.1)))
    update.add((Marked.apply(weights[0]).pow(2) * weights[1].exp()).sum())
    assert double.failed == "an operation of it is marked as once_differentiable"
    torch.testing.assert_close(weights[0].grad, 4 * weights[0].detach() ** 3 * weights[1].detach().exp())


def test_a_second_derivative_that_is_lacking_shows_at_the_product():
    weight = nn.Parameter(torch.ones(3))
    double = DoubleBackward(update := Update(torch.optim.SGD([weight], 0.1)))
    update.add(Raises.apply(weight).pow(2).sum())
    assert not double.failed
    assert double.try_product([torch.ones(3)]) is None
    assert double.failed == "derivative is not implemented" and update.backward is torch.Tensor.backward


def test_gradients_are_those_of_backward_and_may_be_clipped():
    step = step_of("self-tuning", torch.float64, batches=2)
    direction = directions(step.parameters)
    expected = step.double(direction)
    plain = step_of("self-tuning", torch.float64)
    plain.double.stop()
    plain.task.model.load_state_dict(step.task.model.state_dict())
    plain.update.begin()
    set_random_state(step.before)
    for batch in step.batches:
        plain.update.add(plain.task.loss(plain.task.predict(batch, step.draw), batch, step.draw).objective, 2)
    for own, other in zip(step.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-12, atol=1e-15)
        assert not own.grad.requires_grad
    nn.utils.clip_grad_norm_(step.parameters, 1e-3)
    assert all(map(torch.equal, step.double(direction), expected))


def test_weights_that_share_a_gradient_are_clipped_each():
    """Of a sum autograd gives both weights one tensor."""
    weights = [nn.Parameter(torch.full((3,), value).double()) for value in (1.0, 2.0)]
    double = DoubleBackward(update := Update(torch.optim.SGD(weights, 0.1)))
    update.add((weights[0] + weights[1]).exp().sum())
    for own in weights:
        own.grad *= 0.5
    for own, product in zip(weights, double([torch.ones(3).double()] * 2), strict=True):
        assert own.grad.tolist() == pytest.approx([math.exp(3) / 2] * 3)
        assert product.tolist() == pytest.approx([2 * math.exp(3)] * 3)


def test_what_is_released_is_gone():
    step = step_of("self-tuning", torch.float64)
    step.double.release()
    assert not any(part.any() for part in step.double(directions(step.parameters)))
    step.update.begin()
    step.update.add(step.parameters[0].pow(3).sum())  # the next step's
    direction = directions(step.parameters)
    torch.testing.assert_close(step.double(direction)[0], 6 * step.parameters[0].detach() * direction[0])


@pytest.mark.parametrize("when", ["backward", "product"])
def test_memory_that_runs_out_is_no_reason_to_go_another_way(when, monkeypatch):
    step = step_of("self-tuning", torch.float64)

    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(torch.autograd, "grad", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        if when == "backward":
            step.update.add(step.parameters[0].sum())
        else:
            step.double.try_product(directions(step.parameters))
    assert not step.double.failed


# Differences


def test_running_statistics_are_updated_once_a_step():
    torch.manual_seed(1)
    step = step_of("convolutional", torch.float64)
    norm = step.task.model[1]
    assert norm.num_batches_tracked == 1
    before = deepcopy(norm.state_dict())
    step.differences(directions(step.parameters))
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    assert norm.track_running_stats


def test_random_numbers_and_weights_stay_as_they_are():
    step = step_of("self-tuning", torch.float32)
    direction, before = directions(step.parameters), [own.detach().clone() for own in step.parameters]
    gradients, state = [own.grad.clone() for own in step.parameters], torch.get_rng_state()
    step.differences(direction)
    assert all(map(torch.equal, step.parameters, before)) and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(own.grad, gradient) for own, gradient in zip(step.parameters, gradients, strict=True))


def test_weights_are_put_back_where_a_gradient_cannot_be_computed():
    weights = [nn.Parameter(torch.randn(4))]
    before, calls = weights[0].detach().clone(), []

    def gradients():
        calls.append(weights[0].detach().clone())
        if len(calls) == 4:
            raise KeyboardInterrupt
        return [weights[0].detach() * 2]

    with pytest.raises(KeyboardInterrupt):
        CentralDifferences(weights, gradients)([torch.ones(4)])
    assert not torch.equal(calls[3], before) and torch.equal(weights[0], before)


def test_the_two_gradients_lie_either_way_along_the_direction():
    """A tenth of the cube root of the precision of the weights' norm away, whatever the direction's length."""
    weights, at = [nn.Parameter(torch.full((4,), 3.0).double())], []  # of norm 6

    def gradients():
        at.append(weights[0].detach().clone())
        return [weights[0].detach() * 0]

    for length in (1e-8, 1.0, 1e8):
        at.clear()
        CentralDifferences(weights, gradients)([torch.tensor([length, 0, 0, 0]).double()])
        above, below = at[-2:]
        size = 0.6 * torch.finfo(torch.float64).eps ** (1 / 3)
        assert (above - 3).tolist() == pytest.approx([size, 0, 0, 0], rel=1e-6)
        assert (below - 3).tolist() == pytest.approx([-size, 0, 0, 0], rel=1e-6)


class OwnNoise(nn.Module):
    """Draws from a generator that is not torch's own."""

    def __init__(self, draw):
        super().__init__()
        self.linear, self.draw_noise = nn.Linear(5, 3), draw

    def forward(self, x, draw):  # noqa: ARG002
        return self.linear(x) * self.draw_noise()


def test_noise_that_cannot_be_replayed_is_refused():
    generator = torch.Generator()
    for draw in (random.random, lambda: torch.rand(3, generator=generator)):
        model = OwnNoise(draw)
        step = Step(Regression(model), None, [(torch.randn(BATCH, 5), torch.randn(BATCH, 3))])
        with pytest.raises(UserError, match=r"draws random numbers of its own, so that gradients .* differ by noise: "):
            step.differences(directions(step.parameters))


def test_noise_is_looked_for_once():
    calls, weights = [], [nn.Parameter(torch.ones(2).double())]

    def gradients():
        calls.append(1)
        return [weights[0].detach() * 3]

    differences = CentralDifferences(weights, gradients)
    counts = [len(calls)]
    for _ in range(3):
        assert differences([torch.ones(2).double()])[0].tolist() == pytest.approx([3, 3], rel=1e-8)
        counts.append(len(calls))
    assert [after - before for before, after in pairwise(counts)] == [4, 2, 2]


# Both


@pytest.mark.parametrize("way", ["double", "differences"])
def test_weights_that_are_unused_or_frozen_have_no_part(way):
    model = SelfTuning().double()
    model.unused = nn.Linear(2, 2).double()
    model.hidden.weight.requires_grad_(False)
    draw = Hyperparameters(rate=Tuned(0.3, range=(0, 1))).double().perturbed(BATCH)
    batch = torch.randn(BATCH, 5).double(), torch.randn(BATCH, 3).double()
    step = Step(Regression(model), draw, [batch])
    direction = directions(step.parameters)
    for own, part in zip(step.parameters, direction, strict=True):
        part *= own.requires_grad
    found, expected = getattr(step, way)(direction), step.oracle(direction)
    left_out = {model.hidden.weight, *model.unused.parameters()}
    for own, part, other in zip(step.parameters, found, expected, strict=True):
        if own in left_out:
            assert not part.any() and own.grad is None
        else:
            torch.testing.assert_close(part, other, rtol=1e-6, atol=1e-8)


class Linear:
    """A task whose loss is linear in the weights."""

    def __init__(self):
        self.model = nn.Linear(4, 1).double()

    def predict(self, batch, draw):  # noqa: ARG002
        return self.model(batch)

    def loss(self, prediction, *_):
        return Loss(prediction.mean(), prediction.mean(), 1)


@pytest.mark.parametrize("way", ["double", "differences"])
def test_a_linear_loss_has_no_curvature(way):
    step = Step(Linear(), None, [torch.randn(5, 4).double()])
    found = getattr(step, way)(directions(step.parameters))
    assert [part.shape for part in found] == [own.shape for own in step.parameters]
    assert not any(part.abs().max() > 1e-12 for part in found)


@pytest.mark.parametrize("way", ["double", "differences"])
def test_along_a_direction_of_0_nothing_changes(way):
    step = step_of("self-tuning", torch.float32)
    found = getattr(step, way)([torch.zeros_like(own) for own in step.parameters])
    assert not any(part.any() for part in found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", ["double", "differences"])
def test_a_direction_that_is_not_finite_shows_in_the_product(way, bad):
    step = step_of("self-tuning", torch.float32)
    before = [own.detach().clone() for own in step.parameters]
    direction = directions(step.parameters)
    direction[0][0, 0] = bad
    assert not all(part.isfinite().all() for part in getattr(step, way)(direction))
    assert all(map(torch.equal, step.parameters, before))
