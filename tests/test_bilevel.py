import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from lstm.model import AWDLSTM, HYPERPARAMETERS
from lstm.task import LanguageModeling
from stn.bilevel import Loss, Score, evaluate, frozen, hyper_step, weight_step
from stn.datasets.text import Corpus
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear
from stn.schedules import Constant

BATCH, BPTT, TYPES = 3, 4, 6


def language_model(val_penalties=False, tuned=("alpha", "beta", "dropouto", "wdrop")):
    """A tiny task with gates large enough for a clear response, and its hyperparameters."""
    hyper = Hyperparameters(
        **{
            name: Tuned(0.3, range=spec.range, per_example=spec.per_example) if name in tuned else Constant(0.3)
            for name, spec in HYPERPARAMETERS.items()
        }
    )
    model = AWDLSTM(TYPES, 5, 4, nlayers=2, num_hyper=hyper.num_tuned)
    for name, weight in model.named_parameters():
        if "gate" in name:
            nn.init.normal_(weight)
    texts = {split: torch.randint(TYPES, (60,)) for split in ("train", "valid", "test")}
    corpus = Corpus(**texts, vocabulary=tuple("abcdef"), checksum="")
    return LanguageModeling(model, corpus, BATCH, BPTT, val_penalties), hyper


def step_hyper(task, hyper, entropy_weight=None, lr=0.0):
    return hyper_step(task, hyper, SGD(hyper.parameters(), lr), entropy_weight)


def step_weights(task, hyper, lr=1.0, clip=math.inf):
    return weight_step(task, hyper, SGD(task.model.parameters(), lr), clip)


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def unchanged(module, before):
    return all(torch.equal(now, then) for now, then in zip(module.parameters(), before, strict=True))


def grad_norm(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()


def central_differences(function, parameter, step=1e-5):
    """The gradient of function() in a vector that it reads."""
    slopes = []
    for i in range(len(parameter)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[i] += sign * step
                values.append(function().item())
                parameter[i] -= sign * step
        slopes.append((values[0] - values[1]) / (2 * step))
    return torch.tensor(slopes)


def outputs_and_cross_entropy(task, draw):
    """The model's outputs on the first validation chunk, and their loss, by PyTorch's own functions."""
    inputs, targets = task.valid.data[:BPTT], task.valid.data[1 : BPTT + 1]
    task.model.eval()
    outputs, _, _ = task.model.encode(inputs, None, draw)
    return outputs, F.cross_entropy(task.model.decoder(outputs).flatten(0, 1), targets.flatten())


# Who moves, who gets gradients


@pytest.mark.parametrize("entropy_weight", [None, 0.1])
def test_a_hyperparameter_step_leaves_the_weights_alone(entropy_weight):
    task, hyper = language_model()
    weights, unconstrained = copies(task.model), hyper.unconstrained.detach().clone()
    step_hyper(task, hyper, entropy_weight, lr=1.0)
    assert unchanged(task.model, weights)
    assert all(weight.grad is None and weight.requires_grad for weight in task.model.parameters())
    assert (hyper.unconstrained != unconstrained).all()


def test_a_weight_step_leaves_the_hyperparameters_alone():
    task, hyper = language_model()
    before, weights = copies(hyper), copies(task.model)
    step_weights(task, hyper)
    assert unchanged(hyper, before)
    assert hyper.unconstrained.grad is None and hyper.raw_scale.grad is None
    assert not any(torch.equal(now, then) for now, then in zip(task.model.parameters(), weights, strict=True))


def test_scales_move_only_where_they_are_tuned():
    task, hyper = language_model()
    before = hyper.scale.detach().clone()
    step_hyper(task, hyper, entropy_weight=None, lr=1.0)
    assert torch.equal(hyper.scale, before)
    step_hyper(task, hyper, entropy_weight=0.0, lr=1.0)
    assert (hyper.scale != before).all()


def test_no_noise_is_drawn_where_scales_are_not_tuned():
    task, hyper = language_model()
    before = torch.get_rng_state()
    step_hyper(task, hyper)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_take_gradients_again_after_an_error():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not model.weight.requires_grad
        raise ZeroDivisionError
    assert model.weight.requires_grad and not model.bias.requires_grad


def test_gates_and_responses_learn_from_the_first_step():
    hyper = language_model()[1]
    task = language_model()[0]
    task.model = AWDLSTM(TYPES, 5, 4, nlayers=2, num_hyper=hyper.num_tuned)
    step_weights(task, hyper)
    responses = {name: weight for name, weight in task.model.named_parameters() if "gate" in name or "response" in name}
    assert len(responses) == 3 + 2 * 6 - 1  # the embedding's two, each LSTM layer's six
    assert all(weight.grad.abs().max() > 0 for weight in responses.values())


# What is minimized


@pytest.mark.usefixtures("double")
def test_gradient_in_the_hyperparameters_is_that_of_the_plain_cross_entropy():
    task, hyper = language_model()
    step = step_hyper(task, hyper)
    expected = central_differences(lambda: outputs_and_cross_entropy(task, hyper.current())[1], hyper.unconstrained)
    assert expected.abs().min() > 1e-5
    torch.testing.assert_close(hyper.unconstrained.grad, expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(step.data, outputs_and_cross_entropy(task, hyper.current())[1])


@pytest.mark.usefixtures("double")
def test_val_penalties_are_added_with_coefficients_held_constant():
    task, hyper = language_model(val_penalties=True)
    step = step_hyper(task, hyper)
    alpha, beta = (hyper.current()[name].item() for name in ("alpha", "beta"))

    def objective():
        outputs, data = outputs_and_cross_entropy(task, hyper.current())
        return data + alpha * outputs.square().mean() + beta * outputs.diff(dim=0).square().mean()

    expected = central_differences(objective, hyper.unconstrained)
    torch.testing.assert_close(hyper.unconstrained.grad, expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(step.data, outputs_and_cross_entropy(task, hyper.current())[1])


def test_where_scales_are_tuned_the_response_is_perturbed_and_the_values_are_current(monkeypatch):
    task, hyper = language_model()
    draws = []
    validation_loss = task.validation_loss
    monkeypatch.setattr(task, "validation_loss", lambda draw: draws.append(draw) or validation_loss(draw))
    current = hyper.current()
    step_hyper(task, hyper, entropy_weight=0.1)
    assert draws[0].h.shape == (BATCH, hyper.num_tuned)
    assert not torch.equal(draws[0].h[:1], current.h)
    assert all(draws[0][name] == current[name] for name in hyper.names)


@pytest.mark.usefixtures("double")
def test_gradient_in_the_scales_has_the_loss_and_the_entropy():
    task, hyper = language_model()
    torch.manual_seed(1)
    step_hyper(task, hyper, entropy_weight=0.05)
    torch.manual_seed(1)
    noise = torch.randn(BATCH, hyper.num_tuned)

    def objective():
        data = outputs_and_cross_entropy(task, hyper.perturbed(BATCH, noise))[1]
        return data - 0.05 * (F.softplus(hyper.raw_scale) * math.sqrt(2 * math.pi * math.e)).log().sum()

    for parameter in (hyper.unconstrained, hyper.raw_scale):
        expected = central_differences(objective, parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("double")
def test_a_weight_step_descends_the_perturbed_training_loss():
    task, hyper = language_model()
    twin = copy.deepcopy(task)
    torch.manual_seed(1)
    step = step_weights(task, hyper, lr=0.5)

    torch.manual_seed(1)
    loss = twin.training_loss(hyper.perturbed(BATCH, torch.randn(BATCH, hyper.num_tuned)))
    weights = list(twin.model.parameters())
    gradients = torch.autograd.grad(loss.objective, weights)
    expected = [weight - 0.5 * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    torch.testing.assert_close(list(task.model.parameters()), expected)
    assert step.data == loss.data != loss.objective
    assert step.targets == BATCH * BPTT


def test_a_long_gradient_is_clipped_and_a_short_one_is_not():
    norms = []
    for clip in (math.inf, 0.01, 1000):
        torch.manual_seed(0)
        task, hyper = language_model()
        step_weights(task, hyper, lr=0.0, clip=clip)
        norms.append(grad_norm(task.model).item())
    assert norms[0] > 0.02
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
    assert norms[2] == norms[0]


def test_only_weight_steps_drop_out(monkeypatch):
    task, hyper = language_model()
    modes, encode = [], task.model.encode
    monkeypatch.setattr(task.model, "encode", lambda *inputs: modes.append(task.model.training) or encode(*inputs))
    step_weights(task, hyper)
    step_hyper(task, hyper)
    step_weights(task, hyper)
    evaluate(task, hyper, "valid")
    assert modes == [True, False, True, False]


@pytest.mark.parametrize("who", ["weights", "hyperparameters"])
def test_health_tells_a_gradient_that_is_not_finite(who):
    model, hyper = nn.Linear(1, 1), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))

    def loss(draw):
        bad = (model.weight if who == "weights" else draw.h).sum()
        return Loss((bad * 0).sqrt(), torch.tensor(1.0), 1)  # 0, with a gradient of 0·∞

    task = SimpleNamespace(model=model, batch_size=1, training_loss=loss, validation_loss=loss)
    step = step_weights(task, hyper) if who == "weights" else step_hyper(task, hyper)
    assert step.data.isfinite() and not step.health.isfinite()


# Does it tune?


class NoisyRegression:
    """A linear regression from few examples, each seen ten times in a batch, with a tuned dropout of its inputs."""

    batch_size = 300

    def __init__(self):
        inputs = torch.randn(1030, 20)
        outputs = inputs @ torch.randn(20) / 20**0.5 + torch.randn(1030)
        self.seen = inputs[:30].repeat(10, 1), outputs[:30].repeat(10)
        self.held_out = inputs[30:], outputs[30:]
        self.model = HyperLinear(20, 1, num_hyper=1)

    def training_loss(self, draw):
        inputs, outputs = self.seen
        keep = 1 - draw["rate"][:, None]
        return self._loss(inputs * (torch.rand_like(inputs) < keep) / keep, outputs, draw)

    def validation_loss(self, draw):
        return self._loss(*self.held_out, draw)

    def evaluate(self, _, draw):
        return Score(self.validation_loss(draw).data.item())

    def _loss(self, inputs, outputs, draw):
        loss = (self.model(inputs, draw.h)[:, 0] - outputs).square().mean()
        return Loss(loss, loss.detach(), len(outputs))


def train(task, hyper, steps):
    for _ in range(steps):
        step_weights(task, hyper, lr=0.05, clip=1.0)


@pytest.mark.parametrize(("start", "direction"), [(0.05, 1), (0.9, -1)])
def test_the_hypergradient_points_where_training_on_lowers_the_validation_loss(start, direction):
    task, hyper = NoisyRegression(), Hyperparameters(rate=Tuned(start, range=(0, 1), scale=0.5))
    train(task, hyper, 300)
    step_hyper(task, hyper)

    losses = {}
    for shift in (-1, 1):
        torch.manual_seed(1)
        twin, shifted = copy.deepcopy((task, hyper))
        with torch.no_grad():
            shifted.unconstrained += shift
        train(twin, shifted, 200)
        losses[shift] = evaluate(twin, shifted, "valid").loss
    assert losses[direction] < losses[-direction] - 0.02
    assert -direction * hyper.unconstrained.grad.item() > 0.001
