"""What is computed again gives the same numbers, to the last bit, and keeps less."""

from collections import Counter
from functools import partial
from threading import Thread

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.testing import assert_close

from cnn.hyperparameters import TABLE as IMAGE_TABLE
from cnn.hyperparameters import names_of
from cnn.models import MODELS
from cnn.task import ImageClassification
from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn import Constant, HyperLinear, Hyperparameters, Tuned
from stn.datasets.images import Images, ImageSets
from stn.datasets.text import Corpus
from stn.delta_stn import DeltaSTN, linearized
from stn.kernels.recompute import recomputed
from stn.layers import split_parameters
from stn.methods import STN, frozen

pytestmark = pytest.mark.usefixtures("double")
METHODS = {"stn": STN, "delta_stn": DeltaSTN, "plain": STN}
exactly = partial(assert_close, rtol=0, atol=0)


class Network(nn.Module):
    """Two layers, which are computed again; `calls` says how often each was."""

    def __init__(self, enabled=True):
        super().__init__()
        torch.manual_seed(1)
        self.layers, self.enabled, self.calls = (
            nn.ModuleList(HyperLinear(4, 4, 2) for _ in range(2)),
            enabled,
            Counter(),
        )

    def forward(self, x, h):
        for layer in self.layers:
            x, _ = recomputed(self.part, layer, x, h, enabled=self.enabled)
        return x

    def part(self, layer, x, h):
        self.calls[layer] += 1
        return layer(x, h).tanh(), None


def prediction_of(model, linearize):
    torch.manual_seed(2)
    x, hyper = torch.randn(5, 4), Hyperparameters(**{name: Tuned(0.5, range=(0, 1)) for name in "ab"})
    draw = hyper.perturbed(5)
    return linearized(lambda draw: model(x, draw.h), draw) if linearize else model(x, draw.h)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("linearize", [False, True])
def test_values_and_gradients_are_the_same(linearize):
    found = []
    for enabled in (False, True):
        model = Network(enabled)
        prediction = prediction_of(model, linearize)
        prediction.square().sum().backward()
        found.append((prediction, gradients(model)))
        assert [*model.calls.values()] == [1 + enabled] * 2
    exactly(*found)


def test_a_gradient_can_be_differentiated_and_asked_for_twice():
    found = []
    for enabled in (False, True):
        model = Network(enabled)
        loss = prediction_of(model, False).square().sum()
        (gradient,) = torch.autograd.grad(loss, model.layers[0].weight, create_graph=True)
        loss.backward(retain_graph=True)
        gradient.square().sum().backward()
        found.append((gradient, gradients(model)))
    exactly(*found)


def test_the_backward_pass_may_run_in_another_thread():
    """As it does on a GPU: what is `at_centre` in the forward pass is so in the second one."""
    found = []
    for enabled in (False, True):
        model = Network(enabled)
        thread = Thread(target=prediction_of(model, True).square().sum().backward)
        thread.start()
        thread.join()
        found.append(gradients(model))
    exactly(*found)


def test_without_gradients_nothing_is_kept():
    model = Network()
    with torch.no_grad():
        prediction_of(model, False)
        assert not prediction_of(model, True).requires_grad
    assert [*model.calls.values()] == [2, 2]


def test_tangents_of_pytorchs_own_forward_mode():
    x, tangent = torch.randn(2, 3, requires_grad=True), torch.randn(3)
    with forward_ad.dual_level():
        y = recomputed(torch.sin, forward_ad.make_dual(x, tangent.expand(2, 3)))
        value, derivative = forward_ad.unpack_dual(y)
    exactly(value, x.sin())
    exactly(derivative, x.cos() * tangent)
    exactly(torch.autograd.grad(derivative.sum(), x)[0], -x.sin() * tangent)


def test_buffers_change_once():
    layer, once = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = torch.randn(5, 3, requires_grad=True)
    once(x)
    recomputed(lambda x: layer(x).exp(), x, buffers=[*layer.buffers()]).sum().backward()
    exactly(layer.state_dict(), once.state_dict())


# The networks


def language_model(method, **options):
    """Method, task and hyperparameters; all rates, and the penalties, are above 0."""
    torch.manual_seed(0)
    text = torch.randint(12, (4 * 29,))
    corpus = Corpus(text, text, text, tuple(map(str, range(12))), "")
    tuned = {name: Tuned(0.2, own.range, per_example=own.per_example) for name, own in TABLE.items()}
    hyper = Hyperparameters(**(dict.fromkeys(TABLE, Constant(0.2)) if method == "plain" else tuned))
    model = AWDLSTM(12, 6, 5, 3, hyper.num_tuned, **options)
    task = LanguageModeling(model, corpus, 4, 8)
    return METHODS[method](model, hyper, lr=0.5, clip=0.25), task, hyper


def classifier(method, name, **options):
    torch.manual_seed(0)
    images = Images(torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8), torch.arange(12) % 10)
    sets = ImageSets(images, images, images, tuple(map(str, range(10))), "")
    table = {own: IMAGE_TABLE[own] for own in names_of(name)}
    feed = "centred" if method == "delta_stn" else "unconstrained"
    tuned = {own: Tuned(a.initial, a.range, discrete=a.discrete, feed=feed) for own, a in table.items()}
    plain = {own: Constant(a.initial) for own, a in table.items()}
    hyper = Hyperparameters(**(plain if method == "plain" else tuned))
    model = MODELS[name](hyper.num_tuned, width=1 / 32, **options)
    task = ImageClassification(model, sets, 6)
    return METHODS[method](model, hyper, lr=0.05, momentum=0.9), task, hyper


NETWORKS = {
    "lstm": language_model,
    "alexnet": partial(classifier, name="alexnet"),
    "vgg16": partial(classifier, name="vgg16", batch_norm=True),
}
any_network = pytest.mark.parametrize("network", NETWORKS)
any_method = pytest.mark.parametrize("method", METHODS)


def trained(network, method, **options):
    """Losses, and gradients, weights and statistics after two steps of either kind."""
    learner, task, hyper = NETWORKS[network](method, **options)
    steps = []
    for _ in range(2):
        steps.append(learner.weight_step(task, hyper))
        if hyper.num_tuned:
            steps.append(learner.hyper_step(task, hyper))
    return steps, gradients(task.model), gradients(hyper), task.model.state_dict(), hyper.state_dict()


@any_method
@any_network
def test_training_is_the_same_to_the_last_bit(monkeypatch, network, method):
    """Also where masks come from a generator that nothing sets back."""
    generator, rand = torch.Generator(), torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **options: rand(*size, **{**options, "generator": generator}))
    found = []
    for checkpointed in (False, True):
        generator.manual_seed(0)
        found.append(trained(network, method, checkpoint_activations=checkpointed))
    exactly(*found)


def kept_bytes(network, method, **options):
    """Of what the prediction keeps for the backward pass, parameters apart."""
    _, task, hyper = NETWORKS[network](method, **options)
    kept = {}

    def pack(tensor):
        if not tensor._is_zerotensor():  # which has no memory
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held = split_parameters(task.model)[0] if method == "delta_stn" else ()
    draw, predict = hyper.perturbed(task.batch_size), partial(task.predict, task.batch("train"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), frozen(held):
        prediction = linearized(predict, draw) if method == "delta_stn" else predict(draw)
    del prediction  # not before: memory that is free is used again
    return sum(kept[place] for place in kept.keys() - {own.data_ptr() for own in task.model.parameters()})


@any_method
@any_network
def test_less_is_kept_for_the_backward_pass(network, method):
    checkpointed, all_of_it = (kept_bytes(network, method, checkpoint_activations=flag) for flag in (True, False))
    assert checkpointed < 0.75 * all_of_it
