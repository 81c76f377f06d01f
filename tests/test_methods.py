import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.bilevel import Loss, Score, evaluate
from stn.datasets.text import Corpus
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear
from stn.methods import STN, Update, frozen
from stn.schedules import Constant

BATCH, BPTT, TYPES = 3, 4, 6


def language_model(val_penalties=False, tuned=("alpha", "beta", "dropouto", "wdrop"), feed="unconstrained"):
    """A tiny task with gates large enough for a clear response, and its hyperparameters."""
    hyper = Hyperparameters(
        **{
            name: Tuned(0.3, declared.range, per_example=declared.per_example, feed=feed)
            if name in tuned
            else Constant(0.3)
            for name, declared in TABLE.items()
        }
    )
    model = AWDLSTM(TYPES, 5, 4, nlayers=2, num_hyper=hyper.num_tuned)
    for name, weight in model.named_parameters():
        if "gate" in name:
            nn.init.normal_(weight)
    texts = {split: torch.randint(TYPES, (60,)) for split in ("train", "valid", "test")}
    corpus = Corpus(**texts, vocabulary=tuple("abcdef"), checksum="")
    return LanguageModeling(model, corpus, BATCH, BPTT, val_penalties), hyper


def step_weights(task, hyper, lr=1.0, clip=math.inf):
    return STN(task.model, hyper, lr=lr, clip=clip).weight_step(task, hyper)


def step_hyper(task, hyper, lr=0.0, **settings):
    return STN(task.model, hyper, lr=1.0, hyper_lr=lr, scale_lr=lr, **settings).hyper_step(task, hyper)


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
    data = task.streams["valid"].data
    inputs, targets = data[:BPTT], data[1 : BPTT + 1]
    task.model.eval()
    outputs, _, _ = task.model.encode(inputs, None, draw)
    return outputs, F.cross_entropy(task.model.decoder(outputs).flatten(0, 1), targets.flatten())


# Who moves, who gets gradients


@pytest.mark.parametrize("tune_scales", [False, True])
def test_a_hyperparameter_step_leaves_the_weights_alone(tune_scales):
    task, hyper = language_model()
    weights, unconstrained = copies(task.model), hyper.unconstrained.detach().clone()
    step_hyper(task, hyper, lr=1.0, tune_scales=tune_scales)
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
    step_hyper(task, hyper, lr=1.0)
    assert torch.equal(hyper.scale, before) and hyper.raw_scale.grad is None
    step_hyper(task, hyper, lr=1.0, tune_scales=True, entropy_weight=0.0)
    assert (hyper.scale != before).all()


def test_no_noise_is_drawn_where_scales_are_not_tuned():
    task, hyper = language_model()
    before = torch.get_rng_state()
    step_hyper(task, hyper)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_tells_elementary_from_response_parameters():
    task, hyper = language_model()
    method = STN(task.model, hyper, lr=1.0)
    names = {parameter: name.rpartition(".")[2] for name, parameter in task.model.named_parameters()}
    assert all(names[parameter].startswith(("response_", "gate")) for parameter in method.response)
    assert {names[parameter] for parameter in method.elementary} == {"weight", "bias"} | {
        f"{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")
    }
    assert len(method.elementary) + len(method.response) == len(names)


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


def responding(hyper, moves):
    """The current draw as the response sees it where λ is moved so, and what it is centred on is not."""
    return replace(hyper.current(), h=hyper.current().h + moves)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("feed", ["unconstrained", "centred"])
def test_gradient_in_the_hyperparameters_is_that_of_the_plain_cross_entropy(feed):
    task, hyper = language_model(feed=feed)
    step = step_hyper(task, hyper)
    moves = torch.zeros(hyper.num_tuned)
    expected = central_differences(lambda: outputs_and_cross_entropy(task, responding(hyper, moves))[1], moves)
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
    draws, predict, loss = [], task.predict, task.loss
    monkeypatch.setattr(task, "predict", lambda batch, draw: draws.append(draw) or predict(batch, draw))
    monkeypatch.setattr(task, "loss", lambda *inputs: draws.append(inputs[-1]) or loss(*inputs))
    current = hyper.current()
    step_hyper(task, hyper, tune_scales=True)
    assert len(draws) == 2
    for draw in draws:
        assert draw.h.shape == (BATCH, hyper.num_tuned)
        assert not torch.equal(draw.h[:1], current.h)
        assert all(draw[name] == current[name] for name in hyper.names)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("feed", ["unconstrained", "centred"])
def test_gradient_in_the_scales_has_the_loss_and_the_entropy(feed):
    task, hyper = language_model(feed=feed)
    torch.manual_seed(1)
    step_hyper(task, hyper, tune_scales=True, entropy_weight=0.05)
    torch.manual_seed(1)
    noise = torch.randn(BATCH, hyper.num_tuned)

    def objective():
        data = outputs_and_cross_entropy(task, hyper.perturbed(BATCH, noise))[1]
        return data - 0.05 * (F.softplus(hyper.raw_scale) * math.sqrt(2 * math.pi * math.e)).log().sum()

    parameters = [hyper.raw_scale, *([hyper.unconstrained] if feed == "unconstrained" else [])]
    for parameter in parameters:  # what a centred λ is centred on moves with it
        expected = central_differences(objective, parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("double")
def test_a_weight_step_descends_the_perturbed_training_loss():
    task, hyper = language_model()
    twin = copy.deepcopy(task)
    torch.manual_seed(1)
    step = step_weights(task, hyper, lr=0.5)

    torch.manual_seed(1)
    draw, batch = hyper.perturbed(BATCH, torch.randn(BATCH, hyper.num_tuned)), twin.batch("train")
    loss = twin.loss(twin.predict(batch, draw), batch, draw)
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


@pytest.mark.parametrize(("clip", "momentum", "weight_decay"), [(math.inf, 0.0, 0.0), (0.1, 0.5, 0.01)])
def test_weights_take_sgds_steps(clip, momentum, weight_decay):
    """Every parameter, the responses and gates among them; the velocity is that of the clipped gradients."""
    torch.manual_seed(2)
    task, hyper = NoisyRegression(), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    nn.init.normal_(task.model.gate)
    method = STN(task.model, hyper, lr=9.0, momentum=momentum, weight_decay=weight_decay, clip=clip)
    names = [name for name, _ in task.model.named_parameters()]
    assert names == ["weight", "bias", "response_weight", "response_bias", "gate"]
    expected = copies(task.model)
    velocity = [torch.zeros_like(weight) for weight in expected]
    for lr in (0.1, 0.2):  # the learning rate set last is the step's, not the one at the start
        twin, state = copy.deepcopy(task), torch.get_rng_state()
        method.set_learning_rate(lr)
        method.weight_step(task, hyper)
        torch.set_rng_state(state)
        draw = hyper.perturbed(task.batch_size)
        loss = twin.loss(twin.predict(twin.seen, draw), twin.seen, draw).objective
        gradients = torch.autograd.grad(loss, list(twin.model.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert norm > 0.1
        for i, gradient in enumerate(gradients):
            slope = gradient * min(1, clip / norm) + weight_decay * expected[i]
            velocity[i] = momentum * velocity[i] + slope
            expected[i] = expected[i] - lr * velocity[i]
        torch.testing.assert_close(list(task.model.parameters()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tune_scales", [False, True])
def test_hyperparameters_take_adams_steps(tune_scales):
    """λ and, where they are tuned, the scales, each at its own rate; their gradients are never clipped."""
    task, hyper = language_model()
    weights = copies(task.model)
    settings = {"hyper_lr": 0.3, "scale_lr": 0.05, "tune_scales": tune_scales, "entropy_weight": 0.02}
    method = STN(task.model, hyper, lr=1.0, clip=1e-6, **settings)
    twin = [nn.Parameter(parameter.detach().clone()) for parameter in (hyper.unconstrained, hyper.raw_scale)]
    adam = Adam([{"params": [twin[0]], "lr": 0.3}, {"params": [twin[1]], "lr": 0.05}])
    for _ in range(3):
        method.hyper_step(task, hyper)
        assert hyper.unconstrained.grad.norm() > 1e-4
        twin[0].grad = hyper.unconstrained.grad.clone()
        twin[1].grad = hyper.raw_scale.grad.clone() if tune_scales else None
        adam.step()
    torch.testing.assert_close([hyper.unconstrained, hyper.raw_scale], twin)
    assert unchanged(task.model, weights)


def test_a_restored_method_steps_as_the_first():
    """Momentum and Adam's moments are in its state."""
    task, hyper = language_model()
    settings = {"lr": 0.5, "momentum": 0.9, "hyper_lr": 0.1, "tune_scales": True}
    method = STN(task.model, hyper, **settings)

    def go_on(method, task, hyper):
        method.weight_step(task, hyper)
        method.hyper_step(task, hyper)

    go_on(method, task, hyper)
    other_task, other_hyper = copy.deepcopy((task, hyper))
    restored, state = STN(other_task.model, other_hyper, **settings), torch.get_rng_state()
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    go_on(method, task, hyper)
    torch.set_rng_state(state)
    go_on(restored, other_task, other_hyper)
    assert unchanged(task.model, copies(other_task.model)) and unchanged(hyper, copies(other_hyper))


# One update


def linear(**optimizer):
    """w = (0, 0), whose gradient by w·(3, 4) has norm 5."""
    weight = nn.Parameter(torch.zeros(2))
    return weight, (weight * torch.tensor([3.0, 4.0])).sum(), SGD([weight], **{"lr": 1.0, **optimizer})


@pytest.mark.parametrize(("clip", "gradient"), [(math.inf, [3.0, 4.0]), (5.0, [3.0, 4.0]), (2.5, [1.5, 2.0])])
def test_watchers_see_the_clipped_gradients_before_the_update(clip, gradient):
    weight, objective, optimizer = linear()
    update, seen = Update(optimizer, clip), []
    for name in ("first", "second"):
        update.watchers.append(
            lambda parameters, name=name: seen.append((name, [(p, p.grad.tolist(), p.tolist()) for p in parameters]))
        )
    norm = update(objective)
    assert norm.item() == pytest.approx(5.0)  # before clipping
    assert [name for name, _ in seen] == ["first", "second"]
    for _, ((parameter, its_gradient, its_value),) in seen:
        assert parameter is weight and its_value == [0.0, 0.0]
        assert its_gradient == pytest.approx(gradient, rel=1e-6)
    assert weight.tolist() == pytest.approx([-entry for entry in gradient], rel=1e-6)


def test_gradients_do_not_add_up_from_update_to_update():
    weight, objective, optimizer = linear()
    update = Update(optimizer)
    weight.grad = torch.tensor([100.0, 100.0])
    update(objective)
    assert weight.tolist() == [-3.0, -4.0]
    update((weight * torch.tensor([1.0, 0.0])).sum())
    assert weight.tolist() == [-4.0, -4.0]


def test_a_parameter_without_a_gradient_counts_nothing():
    _, objective, optimizer = linear()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    update = Update(optimizer)
    assert update(objective).item() == pytest.approx(5.0)
    assert [len(parameter) for parameter in update.parameters] == [2, 3]


@pytest.mark.parametrize("kind", ["weights", "hyper"])
def test_a_method_is_watched_step_by_step(kind):
    """The weights' watchers by weight steps alone, the hyperparameters' by theirs alone."""
    task, hyper = language_model()
    method = STN(task.model, hyper, lr=1.0, clip=0.01)
    update, seen = method.updates[kind], []
    update.watchers.append(lambda parameters: seen.append([p.grad for p in parameters]))
    method.weight_step(task, hyper)
    assert len(seen) == (kind == "weights")
    method.hyper_step(task, hyper)
    assert len(seen) == 1
    if kind == "weights":
        assert len(seen[0]) == len(list(task.model.parameters()))
        assert torch.cat([gradient.flatten() for gradient in seen[0]]).norm().item() == pytest.approx(0.01, rel=1e-3)
    else:
        assert seen[0][0] is not None and seen[0][1] is None  # λ's, and that of scales which are not tuned


# Training mode


def test_only_weight_steps_drop_out(monkeypatch):
    task, hyper = language_model()
    modes, encode = [], task.model.encode
    monkeypatch.setattr(task.model, "encode", lambda *inputs: modes.append(task.model.training) or encode(*inputs))
    step_weights(task, hyper)
    step_hyper(task, hyper)
    step_weights(task, hyper)
    evaluate(task, hyper, "valid")
    assert modes == [True, False, True, False]


class Spoilt:
    """A task with a loss of 0 and a gradient of 0·∞, in the weights or the hyperparameters."""

    batch_size = 1

    def __init__(self, who):
        self.model, self.who = nn.Linear(1, 1), who

    def batch(self, split):
        pass

    def predict(self, _, draw):
        return (self.model.weight if self.who == "weights" else draw.h).sum()

    def loss(self, prediction, *_):
        return Loss((prediction * 0).sqrt(), torch.tensor(1.0), 1)

    def carry(self, batch, prediction):
        pass


@pytest.mark.parametrize("who", ["weights", "hyperparameters"])
@pytest.mark.parametrize("clip", [0.1, math.inf])
def test_health_tells_a_gradient_that_is_not_finite(who, clip):
    task, hyper = Spoilt(who), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    step = step_weights(task, hyper, clip=clip) if who == "weights" else step_hyper(task, hyper)
    assert step.data.isfinite() and step.penalty.isfinite() and not step.health.isfinite()


@pytest.mark.parametrize("kind", ["weights", "hyperparameters"])
def test_a_step_tells_its_loss_penalty_targets_and_accuracy(kind):
    class Graded(Spoilt):
        def loss(self, prediction, *_):
            return Loss(prediction * 0 + 5.0, torch.tensor(2.0), 7, torch.tensor(0.25))

    task, hyper = Graded(kind), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    step = step_weights(task, hyper) if kind == "weights" else step_hyper(task, hyper)
    assert (step.data, step.penalty, step.targets, step.accuracy) == (2.0, 3.0, 7, 0.25)
    assert step.health.isfinite() and not any(part.requires_grad for part in step[:3])


# What a step asks of its task


@pytest.mark.parametrize("kind", ["train", "valid"])
def test_a_step_asks_once_for_each_part_in_order(monkeypatch, kind):
    """Each on what the part before returned, and on one draw."""
    task, hyper = language_model()
    calls = []

    def traced(name):
        function = getattr(task, name)

        def call(*inputs):
            calls.append((name, inputs, function(*inputs)))
            return calls[-1][2]

        return call

    for name in ("batch", "predict", "loss", "carry"):
        monkeypatch.setattr(task, name, traced(name))
    method = STN(task.model, hyper, lr=1.0)
    step = (method.weight_step if kind == "train" else method.hyper_step)(task, hyper)
    assert [name for name, *_ in calls] == ["batch", "predict", "loss", "carry"]
    (_, split, batch), (_, predicted, prediction), (_, lost, loss), (_, carried, _) = calls
    draw = predicted[1]
    assert split == (kind,) and predicted[0] is batch
    assert lost[0] is prediction and lost[1] is batch and lost[2] is draw
    assert carried[0] is batch and carried[1] is prediction
    assert step.data == loss.data and step.targets == loss.targets


@pytest.mark.parametrize("kind", ["train", "valid"])
def test_a_step_moves_one_stream_by_one_mini_batch(kind):
    task, hyper = language_model()
    method = STN(task.model, hyper, lr=0.0, hyper_lr=0.0)
    (method.weight_step if kind == "train" else method.hyper_step)(task, hyper)
    own, other = task.streams[kind], task.streams["valid" if kind == "train" else "train"]
    assert (own.position, other.position) == (BPTT, 0)
    assert own.state is not None and other.state is None


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

    def batch(self, split):
        return self.seen if split == "train" else self.held_out

    def predict(self, batch, draw):
        inputs, _ = batch
        if self.model.training:
            keep = 1 - draw["rate"][:, None]
            inputs = inputs * (torch.rand_like(inputs) < keep) / keep
        return self.model(inputs, draw.h)[:, 0]

    def loss(self, prediction, batch, _):
        loss = (prediction - batch[1]).square().mean()
        return Loss(loss, loss.detach(), len(prediction))

    def carry(self, batch, prediction):
        pass

    def evaluate(self, split, draw):
        batch = self.batch(split)
        return Score(self.loss(self.predict(batch, draw), batch, draw).data.item())


def train(task, hyper, steps):
    method = STN(task.model, hyper, lr=0.05, clip=1.0)
    for _ in range(steps):
        method.weight_step(task, hyper)


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
