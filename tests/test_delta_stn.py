"""The Δ-STN against golden numbers, finite differences and the double-backward trick, in float64."""

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

from cnn.models import AlexNet, SmallCNN
from lstm.model import AWDLSTM
from stn import HyperConv2d, HyperEmbedding, HyperLinear, HyperLSTM, Hyperparameters, Tuned, frozen
from stn.bilevel import Loss, StreamTask
from stn.delta_stn import DeltaSTN, held_statistics, linearized
from stn.dropout import drop_connect, dropout
from stn.hyperparameters import Draw
from stn.layers import split_parameters, zero_gates
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
    with forward_ad.dual_level():
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
    with torch.no_grad(), forward_ad.dual_level():
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
    with frozen(layer), forward_ad.dual_level():
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
        self.drawn = []

    def predict(self, batch, draw):
        x, _ = batch
        self.drawn.append(draw)
        if self.model.training:
            x = dropout(x, draw["rate"])
        return self.model(x, draw.h)

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
    before, seen = (copies(elementary), copies(response)), []
    for name in ("elementary", "response"):
        method.updates[name].watchers.append(
            lambda _, name=name: seen.append((name, moved(elementary, before[0]), moved(response, before[1])))
        )
    method.weight_step(task, hyper)
    assert seen[0] == ("elementary", [False] * len(elementary), [False] * len(response))
    assert seen[1] == ("response", [True] * len(elementary), [False] * len(response))
    assert all(moved(response, before[1]))
    assert [update.optimizer.param_groups[0]["lr"] for update in method.updates.values()][1:] == [0.1, 0.5]
    current, perturbed = task.drawn
    assert (current.h == 0).all() and current["rate"].shape == () and not current.h.requires_grad
    tangent_free = perturbed["rate"]
    assert tangent_free.shape == (BATCH,) and len(tangent_free.unique()) == BATCH
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
