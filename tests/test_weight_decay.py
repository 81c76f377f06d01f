"""The penalty against copies of the weights for each example; ridge regression's best coefficient, found by tuning."""

import math

import pytest
import torch
from architectures import ARCHITECTURES, BATCH
from torch import nn
from torch.testing import assert_close

import stn
from stn.bilevel import Loss, StreamTask
from stn.layers import HyperLinear, gates
from stn.methods import STN
from stn.twins.draws import Twin
from stn.weight_decay import WeightDecay

pytestmark = [pytest.mark.usefixtures("double"), pytest.mark.filterwarnings("ignore:enable_nested_tensor")]


@pytest.fixture
def hyper():
    torch.manual_seed(0)
    return stn.Hyperparameters(
        decay=stn.Tuned(0.2, range=(0, 9), feed="unconstrained"),
        other=stn.Tuned(0.3, range=(0, 1), scale=0.5, feed="unconstrained"),
    )


def row(draw, place):
    return stn.Draw(draw.h[place : place + 1], draw.tuned_values[place : place + 1], draw.columns, draw.shared, {})


def squares_at(net, h, wanted=lambda _: True):
    """½ the sum of squares of all weights of a collapsed network; each weight once."""
    total, seen = 0.0, set()
    for name, layer in net.module.named_modules():
        folded = layer.folded(h) if isinstance(layer, Twin) and layer.num_hyper else {}
        for key, value in layer.named_parameters(recurse=False):
            if value in seen or value.dim() < 2 or not wanted(name) or not value.requires_grad or "response" in key:
                continue
            if "weight" in key and "gate" not in key:
                seen.add(value)
                total = total + folded.get(key, value).square().sum() / 2
    return total


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"weight norm"}))
def test_it_is_that_of_a_copy_for_each_example(name, hyper):
    make, *_, options = ARCHITECTURES[name]
    net = stn.convert(make(), hyper, **options)
    for gate in gates(net):
        nn.init.normal_(gate)
    draw = hyper.perturbed(BATCH)
    expected = torch.stack(
        [draw["decay"][place] * squares_at(net, draw.h[place : place + 1]) for place in range(BATCH)]
    )
    penalty = WeightDecay(net, "decay")(draw)
    assert_close(penalty, expected.mean())
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    found, wanted = (gradients(value, trained) for value in (penalty, expected.mean()))
    assert_close(found, wanted)
    assert any(gradient.abs().sum() > 0 for gradient in found)


def gradients(value, parameters):
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if gradient is None else gradient for p, gradient in zip(parameters, found, strict=True)
    ]


def test_hand_written_layers_are_penalized_alike(hyper):
    model = nn.ModuleDict({"linear": HyperLinear(3, 4, 2), "plain": nn.Linear(4, 2), "norm": nn.LayerNorm(2)})
    for gate in gates(model):
        nn.init.normal_(gate)
    draw, layer = hyper.perturbed(BATCH), model["linear"]
    gate = draw.h @ layer.gate[:4].T
    copies = layer.weight + gate[..., None] * layer.response_weight
    each = copies.square().sum((1, 2)) + model["plain"].weight.square().sum()
    assert_close(WeightDecay(model, "decay")(draw), (draw["decay"] * each).mean() / 2)


def test_what_two_layers_share_counts_once_and_parametrized_weights_count(hyper):
    twins = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)])
    twins[1].in_proj_weight = twins[0].in_proj_weight
    expected = (twins[0].in_proj_weight.square().sum() + sum(p.out_proj.weight.square().sum() for p in twins)) / 2
    draw = hyper.current()
    for network in (twins, stn.convert(twins, hyper)):
        assert_close(WeightDecay(network, "decay")(draw), draw["decay"] * expected)
    norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    for network in (norm, stn.convert(norm, hyper)):
        assert_close(WeightDecay(network, "decay")(draw), draw["decay"] * norm.weight.square().sum() / 2)
    with stn.frozen(norm):
        assert torch.equal(WeightDecay(nn.Linear(3, 4), "decay")(draw) * 0, torch.zeros(()))


def test_groups_have_coefficients_of_their_own(hyper):
    net = stn.convert(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)), hyper)
    draw = hyper.perturbed(BATCH)
    penalty = WeightDecay(net, {"0": "decay", "2": "other"})(draw)
    expected = draw["decay"].mean() * squares_at(net, draw.h[:1], lambda name: name == "0")
    assert_close(penalty, expected + draw["other"].mean() * squares_at(net, draw.h[:1], lambda name: name == "2"))
    with pytest.raises(ValueError, match="weight_decay: 'nowhere' is the name of no layer"):
        WeightDecay(net, {"nowhere": "decay", "*": "other"})
    with pytest.raises(ValueError, match="has no weight"):
        WeightDecay(nn.ReLU(), "decay")


def test_what_is_frozen_for_an_update_is_penalized_through_its_response(hyper):
    """The Δ-STN trains the response with the elementary weights held, and these with the response held."""
    net = stn.convert(nn.Linear(3, 4), hyper)
    nn.init.normal_(net.module.gate)
    decay, draw = WeightDecay(net, "decay"), hyper.perturbed(BATCH)
    elementary, response = stn.split_parameters(net)
    for held, trained in ((elementary, response), (response, elementary)):
        with stn.frozen(held):
            assert any(gradient.abs().sum() > 0 for gradient in gradients(decay(draw), trained))


class Ridge(StreamTask):
    """Linear regression on all of the data at once, with a tuned coefficient of the weights' squares."""

    batch_size = 60

    def __init__(self):
        torch.manual_seed(1)
        truth = torch.randn(30, 1)
        self.data = {}
        for split in ("train", "valid"):
            inputs = torch.randn(60, 30)
            self.data[split] = inputs, inputs @ truth + 6 * torch.randn(60, 1)
        self.model = HyperLinear(30, 1, 1, bias=False)
        stn.zero_gates(self.model)
        self.decay = WeightDecay(self.model, "decay")

    def batch(self, split):
        return self.data[split]

    def predict(self, batch, draw):
        return self.model(batch[0], draw.h)

    def loss(self, prediction, batch, draw):
        data = (prediction - batch[1]).square().mean()
        return Loss(data + self.decay(draw) if self.model.training else data, data.detach(), 60)

    def best_coefficient(self):
        """By the closed form, on a grid."""
        x, y = self.data["train"]
        grid = torch.logspace(-2, 1, 1000)
        weights = [torch.linalg.solve(2 / 60 * x.T @ x + value * torch.eye(30), 2 / 60 * x.T @ y) for value in grid]
        losses = [(self.data["valid"][0] @ weight - self.data["valid"][1]).square().mean() for weight in weights]
        best = int(torch.stack(losses).argmin())
        assert 0 < best < 999
        return grid[best].item()


@pytest.mark.parametrize(("method", "initial"), [(STN, 6.0), (stn.DeltaSTN, 0.3)])
def test_ridge_regressions_best_coefficient_is_found(method, initial):
    """Up to what smoothing by the perturbation makes of it."""
    task = Ridge()
    tuned = stn.Tuned(initial, range=(0, math.inf), scale=1.0, per_example=False, feed="centred")
    hyper = stn.Hyperparameters(decay=tuned)
    way = method(task.model, hyper, lr=0.1, hyper_lr=0.01)
    for _ in range(1500):
        way.weight_step(task, hyper)
        way.hyper_step(task, hyper)
    assert hyper.current()["decay"].item() == pytest.approx(task.best_coefficient(), rel=0.15)
