"""The Δ-STN against golden numbers, finite differences and the double-backward trick, in float64."""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from reference import step_by_step
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from lstm.model import AWDLSTM, activation_penalty, temporal_penalty
from stn import HyperConv2d, HyperEmbedding, HyperLinear, HyperLSTM, Hyperparameters, Tuned, frozen
from stn.bilevel import Loss, StreamTask
from stn.delta_stn import DeltaSTN, held_statistics, linearized
from stn.dropout import drop_connect, dropout, embedding_dropout, locked_dropout
from stn.errors import UserError
from stn.hyperparameters import Draw
from stn.kernels.cross_entropy import linear_cross_entropy
from stn.layers import split_parameters, zero_gates
from stn.response import at_centre
from stn.schedules import Constant
from stn.scripts import methods
from stn.streams import Shuffled

pytestmark = pytest.mark.usefixtures("double")
BATCH, HYPER = 5, 3


class MLP(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(HyperLinear(*pair, HYPER) for pair in pairwise(sizes))

    def forward(self, x, h):
        for layer in self.layers[:-1]:
            x = layer(x, h).tanh()
        return self.layers[-1](x, h)


def draw_of(h):
    return Draw(h, torch.empty(len(h), 0), {}, frozenset(), {})


def test_golden_linearized_prediction_and_gradients(golden):
    numbers = golden("delta")
    model = MLP(7, 5, 5, 4)
    state = {key: numbers[key.replace("layers.", "layer").replace(".", "/")] for key in model.state_dict()}
    model.load_state_dict(state)
    x, y, direction = numbers["x"], numbers["y"], numbers["perturbation"]
    close = partial(assert_close, rtol=1e-10, atol=1e-12)
    close(model(x, torch.zeros(1, HYPER)), numbers["prediction_at_center"])
    prediction = linearized(lambda draw: model(x, draw.h), draw_of(direction))
    close(prediction, numbers["linearized_prediction"])
    close(prediction - model(x, torch.zeros(1, HYPER)), numbers["jvp"])
    close(model(x, direction), numbers["full_prediction"])
    loss = F.cross_entropy(prediction, y)
    close(loss, numbers["linearized_loss"])
    loss.backward()
    for key, parameter in model.named_parameters():
        close(parameter.grad, numbers["grad_" + key.replace("layers.", "layer").replace(".", "/")])
    centre = numbers["center"].requires_grad_()
    validation_loss = F.cross_entropy(model(x, (centre - centre.detach())[None]), y)
    close(validation_loss, numbers["validation_loss"])
    close(torch.autograd.grad(validation_loss, centre)[0], numbers["validation_grad"])


# Linearized layers


class Case(NamedTuple):
    """A network of h, and its inputs; the tangent of x, where it has one."""

    module: nn.Module
    x: torch.Tensor
    tangent_x: torch.Tensor | None = None


def case(name):
    steps = 6
    embedded = torch.randn(steps, BATCH, 7)
    images = torch.randn(BATCH, 3, 8, 8)
    made = {
        "linear": lambda: Case(HyperLinear(7, 4, HYPER), torch.randn(BATCH, 7), torch.randn(BATCH, 7)),
        "linear-without-bias": lambda: Case(HyperLinear(7, 4, HYPER, bias=False), torch.randn(BATCH, 7)),
        "linear-scaled": lambda: Case(
            HyperLinear(7, 4, HYPER, elementary_scale=True), torch.randn(BATCH, 7), torch.randn(BATCH, 7)
        ),
        "linear-of-sequences": lambda: Case(HyperLinear(7, 4, HYPER), embedded, torch.randn(steps, BATCH, 7)),
        "convolution": lambda: Case(HyperConv2d(3, 4, 3, HYPER, padding=1), images, torch.randn_like(images)),
        "convolution-without-bias": lambda: Case(HyperConv2d(3, 4, 3, HYPER, bias=False), images),
        "embedding": lambda: Case(HyperEmbedding(11, 6, HYPER), torch.randint(11, (steps, BATCH))),
        "lstm": lambda: Case(HyperLSTM(7, 4, HYPER), embedded, torch.randn_like(embedded)),
        "first-lstm": lambda: Case(HyperLSTM(7, 4, HYPER), embedded),
        "one-step-lstm": lambda: Case(HyperLSTM(7, 4, HYPER), embedded[:1], torch.randn(1, BATCH, 7)),
        "mlp": lambda: Case(MLP(7, 6, 4), torch.randn(BATCH, 7)),
    }[name]()
    for parameter in made.module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


CASES = (
    "linear", "linear-without-bias", "linear-scaled", "linear-of-sequences", "convolution", "convolution-without-bias",
    "embedding", "lstm", "first-lstm", "one-step-lstm", "mlp",
)  # fmt: skip
any_case = pytest.mark.parametrize("name", CASES)
any_rows = pytest.mark.parametrize("rows", [1, BATCH], ids=["one-row", "row-per-example"])


def output(module, x, h):
    found = module(x, h=h) if isinstance(module, HyperLSTM) else module(x, h)
    return found[0] if isinstance(found, tuple) else found


def dual(tensor, tangent):
    return tensor if tangent is None else forward_ad.make_dual(tensor, tangent)


def primal_and_tangent(found, direction):
    with forward_ad.dual_level(), at_centre():
        centre = dual(torch.zeros_like(direction), direction)
        return forward_ad.unpack_dual(output(found.module, dual(found.x, found.tangent_x), centre))


@any_rows
@any_case
def test_the_tangent_is_the_limit_of_differences(name, rows):
    found, direction, step = case(name), torch.randn(rows, HYPER), 1e-6
    with torch.no_grad():
        primal, tangent = primal_and_tangent(found, direction)

    def at(distance):
        moved = found.x if found.tangent_x is None else found.x + distance * found.tangent_x
        return output(found.module, moved, distance * direction)

    with torch.no_grad():
        assert_close(primal, at(0.0))
        assert_close(tangent, (at(step) - at(-step)) / (2 * step), rtol=1e-6, atol=1e-7)


@any_rows
@any_case
def test_gradients_through_the_tangent(name, rows):
    """Of the response and of incoming tangents, against the double-backward trick: J ẋ is vᵀ J ẋ's gradient in v."""
    found, direction = case(name), torch.randn(rows, HYPER, requires_grad=True)
    elementary, response = split_parameters(found.module)
    tangent_x = None if found.tangent_x is None else found.tangent_x.requires_grad_()
    inputs = [*response, direction, *([tangent_x] if tangent_x is not None else [])]
    with frozen(elementary):
        _, tangent = primal_and_tangent(found._replace(tangent_x=tangent_x), direction)
    weights = torch.randn_like(tangent)
    actual = torch.autograd.grad((tangent.sin() * weights).sum(), inputs)

    centre = torch.zeros_like(direction).requires_grad_()
    x = found.x.detach().requires_grad_() if tangent_x is not None else found.x
    plain = reference(found.module, x, centre)
    cotangent = torch.zeros_like(plain, requires_grad=True)
    moving = [centre, *([x] if tangent_x is not None else [])]
    pulled = torch.autograd.grad(plain, moving, cotangent, create_graph=True)
    total = sum((p * d).sum() for p, d in zip(pulled, inputs[len(response) :], strict=True))
    (trick,) = torch.autograd.grad(total, cotangent, create_graph=True)
    assert_close(tangent, trick)
    expected = torch.autograd.grad((trick.sin() * weights).sum(), inputs)
    assert_close(actual, expected)


def reference(module, x, h):
    """The module's output by operations that autograd differentiates twice."""
    if not isinstance(module, HyperLSTM):
        return output(module, x, h)
    zeros = torch.zeros(1, BATCH, module.hidden_size)
    return step_by_step(module, x, zeros, zeros, h)[0]


def test_an_lstm_is_linearized_with_its_mask_and_state():
    """DropConnect's mask is that of elementary and response weights, and the state has no tangent."""
    layer, x, direction = HyperLSTM(7, 4, HYPER), torch.randn(6, BATCH, 7), torch.randn(BATCH, HYPER)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    state = torch.randn(1, BATCH, 4), torch.randn(1, BATCH, 4)
    (mask,) = seeded_mask(layer)
    torch.manual_seed(1)
    with torch.no_grad(), forward_ad.dual_level(), at_centre():
        found, (hidden, cell) = layer(x, state, dual(torch.zeros_like(direction), direction), 0.4)
        found, tangent = forward_ad.unpack_dual(found)
    plain = step_by_step(layer, x, *state, torch.zeros(1, HYPER), mask)
    assert_close((found, (hidden, cell)), plain)
    run = lambda h: step_by_step(layer, x, *state, h, mask)[0]  # noqa: E731
    assert_close(tangent, jvp(run, (torch.zeros_like(direction),), (direction,))[1])


def seeded_mask(layer):
    torch.manual_seed(1)
    return drop_connect(0.4, torch.ones_like(layer.weight_hh_l0))


def test_a_linearized_lstm_refuses_what_it_gives_no_gradient():
    layer, x = HyperLSTM(7, 4, HYPER), torch.randn(6, BATCH, 7)
    with pytest.raises(RuntimeError, match="responses alone"):
        primal_and_tangent(Case(layer, x), torch.randn(BATCH, HYPER))


def test_a_plain_lstm_passes_tangents_on():
    layer, x, tangent = HyperLSTM(7, 4, 0), torch.randn(6, BATCH, 7), torch.randn(6, BATCH, 7)
    plain = nn.LSTM(7, 4)
    plain.load_state_dict(layer.state_dict())
    with frozen(layer), forward_ad.dual_level(), at_centre():
        found = forward_ad.unpack_dual(layer(dual(x, tangent))[0])
    step = 1e-6
    assert_close(found.primal, plain(x)[0])
    differences = (plain(x + step * tangent)[0] - plain(x - step * tangent)[0]) / (2 * step)
    assert_close(found.tangent, differences, rtol=1e-6, atol=1e-7)


# The method's steps


class Regression(StreamTask):
    """A mean squared error on rows that are taken in turn; the input is dropped by the hyperparameter `rate`."""

    def __init__(self, model, x, y, batch_size=BATCH):
        self.model, self.batch_size = model, batch_size
        self.streams = {split: Shuffled((x, y), batch_size) for split in ("train", "valid")}
        self.drawn, self.predictions, self.carried = [], [], []

    def predict(self, batch, draw):
        x, _ = batch
        self.drawn.append(draw)
        if self.model.training:
            x = dropout(x, draw["rate"])
        self.predictions.append(self.model(x, draw.h))
        return self.predictions[-1]

    def carry(self, batch, prediction):  # noqa: ARG002
        self.carried.append(prediction)

    def loss(self, prediction, batch, draw):  # noqa: ARG002
        loss = F.mse_loss(prediction, batch[1])
        return Loss(loss, loss.detach(), len(batch[1]))

    def evaluate(self, split, draw):
        raise NotImplementedError


def hyperparameters(**tuned):
    names = {"rate": (0, 0.9), "other": (0, 1), "third": (0, 1)}
    return Hyperparameters(**{name: Tuned(0.3, range=ends, feed="centred", **tuned) for name, ends in names.items()})


def regression(**tuned):
    model = MLP(7, 6, 4)
    return Regression(model, torch.randn(20, 7), torch.randn(20, 4)), hyperparameters(**tuned)


def copies(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def moved(parameters, before):
    return [not torch.equal(now, then) for now, then in zip(parameters, before, strict=True)]


def test_a_weight_step_is_two_updates_each_of_its_own_parameters():
    """The elementary weights' at the current values, h = 0, by SGD on that loss alone; then the response's, on another
    loss, of which the elementary weights, already updated, are constants."""
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1, response_lr=0.5)
    elementary, response = method.elementary, method.response
    before, seen, frozen_gradients = (copies(elementary), copies(response)), [], []
    for name in ("elementary", "response"):
        method.updates[name].watchers.append(
            lambda _, name=name: seen.append((name, moved(elementary, before[0]), moved(response, before[1])))
        )
    method.updates["elementary"].watchers.append(lambda _: frozen_gradients.extend(p.grad for p in response))
    method.weight_step(task, hyper)
    assert frozen_gradients == [None] * len(response)
    assert len(task.carried) == 1 and task.carried[0] is task.predictions[0]
    assert seen[0] == ("elementary", [False] * len(elementary), [False] * len(response))
    assert seen[1] == ("response", [True] * len(elementary), [False] * len(response))
    assert all(moved(response, before[1]))
    assert [update.optimizer.param_groups[0]["lr"] for update in method.updates.values()][1:] == [0.1, 0.5]
    current, perturbed = task.drawn
    assert (current.h == 0).all() and current["rate"].shape == () and not current.h.requires_grad
    assert perturbed["rate"].shape == (BATCH,) and len(perturbed["rate"].unique()) == BATCH
    assert task.streams["train"].position == BATCH


def test_a_weight_step_by_the_equations():
    """Both updates again, by torch.func."""
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1, response_lr=0.5)
    state = {name: value.clone() for name, value in task.model.state_dict().items()}
    stream, model = task.streams["train"], MLP(7, 6, 4)
    x, y = (tensor[stream.order[:BATCH]] for tensor in stream.tensors)
    torch.manual_seed(1)
    method.weight_step(task, hyper)

    torch.manual_seed(1)
    elementary = [name for name in state if "response" not in name and "gate" not in name]

    def loss(parameters, x, h):
        return F.mse_loss(functional_call(model, parameters, (x, h)), y)

    dropped = dropout(x, hyper.current()["rate"])
    gradient = grad(loss)(state, dropped, torch.zeros(1, HYPER))
    for name in elementary:
        state[name] = state[name] - 0.1 * gradient[name]
    draw = hyper.perturbed(BATCH)
    dropped = dropout(x, draw["rate"])

    def linearized_loss(parameters):
        at = lambda h: functional_call(model, parameters, (dropped, h))  # noqa: E731
        value, tangent = jvp(at, (torch.zeros_like(draw.h),), (draw.h,))
        return F.mse_loss(value + tangent, y)

    gradient = grad(linearized_loss)(state)
    for name in state.keys() - set(elementary):
        state[name] = state[name] - 0.5 * gradient[name]
    assert_close(task.model.state_dict(), state)


def test_without_linearizing_the_response_learns_from_the_networks_own_prediction():
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1, linearize=False)
    seen = []
    method.updates["response"].watchers.append(lambda _: seen.append(copies(p.grad for p in method.response)))
    stream = task.streams["train"]
    x, y = (tensor[stream.order[:BATCH]] for tensor in stream.tensors)
    torch.manual_seed(1)
    method.weight_step(task, hyper)
    after = copies(method.response)

    torch.manual_seed(1)
    dropout(x, hyper.current()["rate"])
    draw = hyper.perturbed(BATCH)
    with torch.no_grad():
        for parameter, gradient in zip(method.response, seen[0], strict=True):
            parameter += 0.1 * gradient
    loss = F.mse_loss(task.model(dropout(x, draw["rate"]), draw.h), y)
    assert_close(list(torch.autograd.grad(loss, method.response)), seen[0])
    assert all(not torch.equal(one, other) for one, other in zip(after, method.response, strict=True))


def test_each_gradient_is_clipped_by_itself():
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1, clip=1e-3)
    norms = []
    for name in ("elementary", "response"):
        method.updates[name].watchers.append(
            lambda ps: norms.append(torch.cat([p.grad.flatten() for p in ps]).norm().item())
        )
    method.weight_step(task, hyper)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-4)


@pytest.mark.parametrize("part", ["elementary", "response"])
def test_a_gradient_that_is_not_finite_spoils_the_steps_health(part):
    """In one parameter's gradient alone, so that both losses are finite."""
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1)
    assert method.weight_step(task, hyper).health.isfinite()
    getattr(method, part)[0].register_hook(lambda gradient: gradient * math.inf)
    assert not method.weight_step(task, hyper).health.isfinite()


def test_the_responses_learning_rate_follows():
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1, response_lr=0.02)
    method.set_learning_rate(0.05)
    rates = {name: update.optimizer.param_groups[0]["lr"] for name, update in method.updates.items()}
    assert rates["elementary"] == 0.05 and rates["response"] == pytest.approx(0.01) and rates["hyper"] == 0.01


def test_a_response_that_diverges_is_seen():
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1)
    with torch.no_grad():
        task.model.layers[0].response_weight.fill_(1e200)  # at the centre it counts for nothing
    step = method.weight_step(task, hyper)
    assert step.data.isfinite() and not step.health.isfinite()


def test_the_hyperparameter_step_goes_through_the_network_at_the_centre():
    """Its gradient is that of the loss in h at 0; with scales tuned, at the perturbation, and the scales' too."""
    task, hyper = regression()
    method = DeltaSTN(task.model, hyper, lr=0.1)
    gradients = []
    method.updates["hyper"].watchers.append(lambda ps: gradients.append([p.grad for p in ps if p.grad is not None]))
    stream = task.streams["valid"]
    x, y = (tensor[stream.order[:BATCH]] for tensor in stream.tensors)
    method.hyper_step(task, hyper)
    loss = lambda h: F.mse_loss(task.model(x, h), y)  # noqa: E731
    assert_close(gradients[0], [grad(loss)(torch.zeros(1, HYPER))[0]])

    task, hyper = regression(scale=0.5)
    method = DeltaSTN(task.model, hyper, lr=0.1, tune_scales=True, entropy_weight=0.0)
    method.updates["hyper"].watchers.append(lambda ps: gradients.append([p.grad.clone() for p in ps]))
    stream = task.streams["valid"]
    x, y = (tensor[stream.order[:BATCH]] for tensor in stream.tensors)
    torch.manual_seed(1)
    noise = torch.randn(BATCH, HYPER)
    torch.manual_seed(1)
    raw_scale = hyper.raw_scale.detach().clone()
    method.hyper_step(task, hyper)

    def validation_loss(shift, raw_scale):
        return F.mse_loss(task.model(x, shift + F.softplus(raw_scale) * noise), y)

    assert_close(tuple(gradients[1]), grad(validation_loss, (0, 1))(torch.zeros(HYPER), raw_scale))


@pytest.mark.parametrize("hyper_optimizer", ["adam", "rmsprop"])
def test_the_exact_response_of_a_quadratic_is_found(hyper_optimizer):
    """Of the training loss |w − a − A tanh λ|² the best w is a + A tanh λ, whose Jacobian at the current λ is A times
    tanh's slopes: the response V' V that weight steps find at a fixed λ; and λ goes to where the best w meets b."""
    a, matrix = torch.randn(4), torch.randn(4, 2)
    best = torch.tensor([0.3, -0.4])
    b = a + matrix @ best.tanh()
    model = HyperLinear(1, 4, 2, bias=False)
    zero_gates(model)
    with torch.no_grad():
        model.response_weight.fill_(1.0)
    hyper = Hyperparameters(
        first=Tuned(0.0, scale=0.05, feed="centred", per_example=True), second=Tuned(0.0, scale=0.05, feed="centred")
    )

    class Quadratic(StreamTask):
        batch_size = 64

        def __init__(self):
            self.model = model
            self.streams = {split: Shuffled((torch.ones(64, 1),), 64) for split in ("train", "valid")}

        def predict(self, batch, draw):
            return model(batch[0], draw.h)

        def loss(self, prediction, batch, draw):  # noqa: ARG002
            values = torch.stack([draw["first"], draw["second"]], -1)
            target = a + values.tanh() @ matrix.T if model.training else b
            loss = (prediction - target).square().sum(-1).mean()
            return Loss(loss, loss.detach(), len(prediction))

        def evaluate(self, split, draw):
            raise NotImplementedError

    task = Quadratic()
    method = DeltaSTN(model, hyper, lr=0.2, response_lr=20.0, hyper_lr=0.01, hyper_optimizer=hyper_optimizer)
    assert type(method.updates["hyper"].optimizer).__name__.lower() == hyper_optimizer
    for _ in range(200):
        method.weight_step(task, hyper)
    assert_close(model.weight[:, 0], a, rtol=0, atol=1e-3)
    assert_close(model.response_weight * model.gate, matrix, rtol=0, atol=0.02)
    for _ in range(500):
        method.weight_step(task, hyper)
        method.hyper_step(task, hyper)
    assert_close(hyper.unconstrained.detach(), best, rtol=0, atol=0.03)


# What it needs of networks


def test_normalizations_statistics_are_held():
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False))
    model(torch.randn(4, 3))
    before = copies(model.buffers())
    with held_statistics(model):
        assert_close(model(torch.ones(4, 3) * torch.arange(4)[:, None]).mean(0), torch.zeros(3))
    assert moved(model.buffers(), before) == [False] * 3
    model(torch.randn(4, 3))
    assert moved(model.buffers(), before) == [True] * 3


def test_layers_that_do_not_train_are_left_alone():
    """InstanceNorm in evaluation takes its running statistics only where it keeps them."""
    norm = nn.InstanceNorm1d(3, track_running_stats=True)
    norm(torch.randn(4, 3, 5))
    x = torch.randn(4, 3, 5)
    expected = norm.eval()(x)
    with held_statistics(norm):
        assert_close(norm(x), expected)


def test_they_move_in_the_elementary_update():
    class Network(MLP):
        def __init__(self):
            super().__init__(7, 6, 4)
            self.norm = nn.BatchNorm1d(7)

        def forward(self, x, h):
            return super().forward(self.norm(x), h)

    task = Regression(Network(), torch.randn(20, 7), torch.randn(20, 4))
    method = DeltaSTN(task.model, hyperparameters(), lr=0.1)
    method.weight_step(task, hyperparameters())
    assert task.model.norm.num_batches_tracked == 1 and task.model.norm.track_running_stats


class WithoutForwardDerivative(nn.Module):
    def forward(self, x):
        return _Opaque.apply(x)


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return x * 2

    @staticmethod
    def backward(ctx, grad):  # noqa: ARG004
        return grad * 2


def test_a_module_without_forward_derivative_is_named():
    class Network(MLP):
        def __init__(self):
            super().__init__(7, 6, 4)
            self.opaque = nn.Sequential(nn.Sequential(), WithoutForwardDerivative())  # an empty one is false

        def forward(self, x, h):
            return self.opaque(super().forward(x, h))

    task = Regression(Network(), torch.randn(20, 7), torch.randn(20, 4))
    hyper = hyperparameters()
    method = DeltaSTN(task.model, hyper, lr=0.1)
    with pytest.raises(UserError, match=r"linearize opaque\.1 \(WithoutForwardDerivative\).*--no_linearize"):
        method.weight_step(task, hyper)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations_are_refused_in_a_line(use_reentrant):
    class Network(MLP):
        def forward(self, x, h):
            return checkpoint(super().forward, x.requires_grad_(), h, use_reentrant=use_reentrant)

    task = Regression(Network(7, 6, 4), torch.randn(20, 7), torch.randn(20, 4))
    with pytest.raises(UserError, match=r"cannot linearize .*--no_linearize"):
        DeltaSTN(task.model, hyperparameters(), lr=0.1).weight_step(task, hyperparameters())
    DeltaSTN(task.model, hyperparameters(), lr=0.1, linearize=False).weight_step(task, hyperparameters())


def test_elsewhere_forward_mode_is_pytorchs_own():
    """Around any h, and of x alone."""
    layer, x, tangent_x = HyperLinear(7, 4, HYPER), torch.randn(BATCH, 7), torch.randn(BATCH, 7)
    h, tangent_h = torch.randn(BATCH, HYPER), torch.randn(BATCH, HYPER)
    nn.init.normal_(layer.gate)
    for arguments, tangents in (((x, h), (tangent_x, tangent_h)), ((x, h), (tangent_x, torch.zeros_like(h)))):
        value, tangent = jvp(layer, arguments, tangents)
        step = 1e-6
        ahead, behind = (
            layer(*(a + side * step * t for a, t in zip(arguments, tangents, strict=True))) for side in (1, -1)
        )
        assert_close(value, layer(x, h))
        assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


def test_predictions_of_every_kind_are_linearized():
    @dataclass
    class Found:
        value: torch.Tensor
        name: str

    class Pair(NamedTuple):
        value: torch.Tensor
        rest: list

    class Output(OrderedDict):
        @property
        def first(self):
            return self["b"][0]

    direction = torch.randn(BATCH, HYPER)
    layer, x = HyperLinear(7, 4, HYPER), torch.randn(BATCH, 7)
    expected = linearized(lambda draw: layer(x, draw.h), draw_of(direction))

    def predict(draw):
        value = layer(x, draw.h)
        return Pair(value, [Found(value, "a"), Output(b=(value, 3))])

    found = linearized(predict, draw_of(direction))
    assert isinstance(found, Pair) and found.rest[0].name == "a" and found.rest[1]["b"][1] == 3
    for value in (found.value, found.rest[0].value, found.rest[1].first):
        assert_close(value, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"hyper_optimizer": "sgd"}, "adam, rmsprop"), ({"lr": 0.0, "response_lr": 0.1}, "above 0")],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DeltaSTN(MLP(7, 6, 4), hyperparameters(), **{"lr": 0.1, **settings})


def test_a_prediction_without_response_is_refused():
    task = Regression(MLP(7, 6, 4), torch.randn(20, 7), torch.randn(20, 4))
    task.model.forward = lambda x, _: x @ task.model.layers[0].weight.T[:, :4]
    with pytest.raises(ValueError, match="does not depend on the response"):
        DeltaSTN(task.model, hyperparameters(), lr=0.1).weight_step(task, hyperparameters())


def test_hyperparameters_that_are_not_centred_are_refused():
    model = MLP(7, 6, 4)
    feeds = {"rate": "centred", "other": "unconstrained", "third": "squashed"}
    hyper = Hyperparameters(**{name: Tuned(0.3, (0, 1), feed=feed) for name, feed in feeds.items()})
    with pytest.raises(ValueError, match='declare other without feed="unconstrained"'):
        DeltaSTN(model, hyper, lr=0.1)


def test_a_network_without_response_takes_elementary_updates_alone():
    model = nn.Linear(7, 4)
    task, hyper = Regression(model, torch.randn(20, 7), torch.randn(20, 4)), Hyperparameters(rate=Constant(0.3))
    model.forward = lambda x, _: F.linear(x, model.weight, model.bias)
    method = DeltaSTN(model, hyper, lr=0.1)
    before = copies(model.parameters())
    method.weight_step(task, hyper)
    assert all(moved(model.parameters(), before)) and method.updates.keys() == {"hyper", "elementary"}


def test_at_the_centre_a_network_is_its_plain_twin():
    ids, draw = torch.randint(11, (6, BATCH)), draw_of(torch.zeros(1, HYPER))
    model, plain = AWDLSTM(11, 6, 5, 2, HYPER), AWDLSTM(11, 6, 5, 2, 0)
    elementary = {name: value for name, value in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(elementary)
    assert_close(model.eval()(ids, None, draw)[0], plain.eval()(ids, None, draw)[0])
    zero_gates(model)
    moved_draw = draw_of(torch.randn(BATCH, HYPER))
    assert_close(model(ids, None, moved_draw)[0], plain(ids, None, moved_draw)[0])


def test_a_linearized_language_model():
    """Embedding, two LSTM layers and dropout between them, against PyTorch's forward mode through plain equations."""
    model, ids = AWDLSTM(11, 6, 5, 2, HYPER), torch.randint(11, (6, BATCH))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    rates = {"dropoute": 0.2, "dropouti": 0.3, "dropouth": 0.4, "dropouto": 0.5, "wdrop": 0.3}
    draw = Draw(torch.randn(BATCH, HYPER), torch.empty(BATCH, 0), {}, frozenset(), rates)
    targets = torch.randint(11, (6, BATCH))
    states = [(torch.randn(1, BATCH, size), torch.randn(1, BATCH, size)) for size in (5, 6)]
    elementary, response = split_parameters(model)
    model.train()
    torch.manual_seed(1)
    with frozen(elementary):
        dropped, raw, _ = linearized(lambda draw: model.encode(ids, states, draw), draw)
    loss = linear_cross_entropy(dropped, model.decoder.weight, model.decoder.bias, targets)
    loss = loss + activation_penalty(dropped, 0.7) + temporal_penalty(raw, 0.9)
    actual = torch.autograd.grad(loss, response)

    named = {name: value.detach() for name, value in model.named_parameters()}

    encoder = _Encoder(AWDLSTM(11, 6, 5, 2, HYPER))

    def features(parameters, h):
        parameters = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(encoder, parameters, (ids, states, replace(draw, h=h)))

    def linearized_loss(parameters):
        torch.manual_seed(1)
        values, tangents = jvp(partial(features, parameters), (torch.zeros_like(draw.h),), (draw.h,))
        dropped, raw = (value + tangent for value, tangent in zip(values, tangents, strict=True))
        logits = F.linear(dropped, parameters["embedding.weight"], parameters["decoder.bias"])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss + activation_penalty(dropped, 0.7) + temporal_penalty(raw, 0.9)

    expected = grad(linearized_loss)(named)
    names = [name for name, parameter in model.named_parameters() if any(parameter is r for r in response)]
    assert_close(list(actual), [expected[name] for name in names])


class _Encoder(nn.Module):
    """The model's features by the equations, step by step."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, states, draw):
        model = self.model
        table = F.linear(draw.h, model.embedding.gate)
        outputs = F.embedding(ids, model.embedding.weight) + table * F.embedding(ids, model.embedding.response_weight)
        outputs = embedding_dropout(outputs, ids, 11, draw["dropoute"])
        outputs = locked_dropout(outputs, draw["dropouti"])
        for number, (layer, (hidden, cell)) in enumerate(zip(model.layers, states, strict=True)):
            if number:
                outputs = locked_dropout(outputs, draw["dropouth"])
            (mask,) = drop_connect(draw["wdrop"], torch.ones_like(layer.weight_hh_l0))
            outputs, _ = step_by_step(layer, outputs, hidden, cell, draw.h, mask)
        return locked_dropout(outputs, draw["dropouto"]), outputs


def test_scripts_start_at_the_plain_network():
    model = MLP(7, 6, 4)
    made = methods.make("delta_stn", model, hyperparameters(), response_lr=0.3, linearize=False, lr=0.1)
    assert isinstance(made, DeltaSTN) and not made.linearize and made.response_ratio == pytest.approx(3)
    assert all((layer.gate == 0).all() and (layer.response_weight != 0).all() for layer in model.layers)
