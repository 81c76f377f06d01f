import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from stn import HyperConv2d, HyperEmbedding, HyperLinear, HyperLSTM

BATCH, HYPER = 5, 3


class Kind(NamedTuple):
    hyper: Callable[[int], nn.Module]
    plain: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


KINDS = {
    "linear": Kind(lambda n: HyperLinear(7, 4, n), lambda: nn.Linear(7, 4), lambda: torch.randn(BATCH, 7)),
    "linear-without-bias": Kind(
        lambda n: HyperLinear(7, 4, n, bias=False),
        lambda: nn.Linear(7, 4, bias=False),
        lambda: torch.randn(BATCH, 7),
    ),
    "linear-of-sequences": Kind(
        lambda n: HyperLinear(7, 4, n), lambda: nn.Linear(7, 4), lambda: torch.randn(2, 3, BATCH, 7)
    ),
    "convolution": Kind(
        lambda n: HyperConv2d(3, 4, 3, n, stride=2, padding=1),
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
        lambda: torch.randn(BATCH, 3, 7, 6),
    ),
    "convolution-without-bias": Kind(
        lambda n: HyperConv2d(3, 4, 2, n, bias=False),
        lambda: nn.Conv2d(3, 4, 2, bias=False),
        lambda: torch.randn(BATCH, 3, 5, 5),
    ),
    "embedding": Kind(
        lambda n: HyperEmbedding(11, 6, n), lambda: nn.Embedding(11, 6), lambda: torch.randint(11, (9, BATCH))
    ),
    "lstm": Kind(lambda n: HyperLSTM(7, 4, n), lambda: nn.LSTM(7, 4), lambda: torch.randn(6, BATCH, 7)),
}
any_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def run(layer, x, h=None):
    if isinstance(layer, HyperLSTM):
        return layer(x, h=h)[0]
    if isinstance(layer, nn.LSTM):
        return layer(x)[0]
    return layer(x, h) if hasattr(layer, "num_hyper") else layer(x)


def with_large_gates(layer):
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("gate"):
                parameter.normal_()
    return layer


def gradients(output, layer, *inputs):
    """By name, of a weighted sum of the output."""
    weights = torch.cos(torch.arange(output.numel(), dtype=output.dtype)).reshape(output.shape)
    tensors = {**dict(layer.named_parameters()), **{f"input {i}": x for i, x in enumerate(inputs) if x.requires_grad}}
    return dict(zip(tensors, torch.autograd.grad((output * weights).sum(), list(tensors.values())), strict=True))


def golden_layer(layer, numbers):
    """With the golden parameters, and with the golden gradients that they should get."""
    layer.load_state_dict({name: numbers[name] for name in layer.state_dict()})
    return layer, {name: numbers[f"grad_{name}"].clone() for name in layer.state_dict()}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("group", "make"),
    [
        ("linear", lambda: HyperLinear(7, 4, 3)),
        ("conv2d", lambda: HyperConv2d(3, 5, 3, 3, stride=2, padding=1)),
    ],
)
def test_golden_linear_and_convolution(golden, group, make):
    numbers = golden(group)
    layer, expected = golden_layer(make(), numbers)
    x, h = numbers["x"].requires_grad_(), numbers["h"].requires_grad_()
    y = layer(x, h)
    y.backward(numbers["cotangent"])
    assert_close(y, numbers["y"], rtol=0, atol=1e-10)
    assert_close(x.grad, numbers["grad_x"], rtol=0, atol=1e-10)
    assert_close(h.grad, numbers["grad_h"], rtol=0, atol=1e-10)
    assert_close({name: p.grad for name, p in layer.named_parameters()}, expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
def test_golden_embedding(golden):
    numbers = golden("embedding")
    layer, expected = golden_layer(HyperEmbedding(13, 6, 3), numbers)
    ids, cotangent, h = numbers["ids"], numbers["cotangent"], numbers["h"].requires_grad_()
    # The reference looked words up with padding_idx = -1, which drops the last type's share of these two gradients.
    last = (ids == 12)[..., None] * cotangent
    assert not expected["weight"][12].any()
    expected["weight"][12] += last.sum((0, 1))
    expected["response_weight"][12] += (last * (h.detach() @ numbers["gate"].T)).sum((0, 1))
    y = layer(ids, h)
    y.backward(cotangent)
    assert_close(y, numbers["y"], rtol=0, atol=1e-10)
    assert_close(h.grad, numbers["grad_h"], rtol=0, atol=1e-10)
    assert_close({name: p.grad for name, p in layer.named_parameters()}, expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
@any_kind
def test_zero_gate_equals_the_plain_layer(kind):
    plain, hyper, x = kind.plain(), kind.hyper(HYPER), kind.inputs()
    hyper.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name, parameter in hyper.named_parameters():
            if name.startswith("gate"):
                parameter.zero_()
    for rows in (1, BATCH):
        assert_close(run(hyper, x, torch.randn(rows, HYPER)), run(plain, x))


@pytest.mark.usefixtures("double")
@any_kind
def test_without_hyperparameters_it_is_the_plain_layer(kind):
    plain, hyper, x = kind.plain(), kind.hyper(0), kind.inputs()
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in hyper.state_dict().items()} == shapes
    assert {name for name, _ in hyper.named_parameters()} == set(shapes)
    hyper.load_state_dict(plain.state_dict())
    for h in (None, torch.randn(1, 0), torch.randn(BATCH, 0)):
        output, expected = run(hyper, x, h), run(plain, x)
        assert_close(output, expected)
        assert_close(gradients(output, hyper), gradients(expected, plain))


@any_kind
def test_plain_checkpoint_loads_strictly_and_keeps_the_response(kind):
    plain, hyper = kind.plain().state_dict(), kind.hyper(HYPER)
    before = {name: tensor.clone() for name, tensor in hyper.state_dict().items()}
    hyper.load_state_dict(plain)
    after = hyper.state_dict()
    assert after.keys() > plain.keys()
    for name in after:
        assert torch.equal(after[name], plain[name] if name in plain else before[name])


@any_kind
def test_plain_checkpoint_loads_inside_a_network(kind):
    plain, hyper = nn.Sequential(kind.plain(), kind.plain()), nn.Sequential(kind.hyper(HYPER), kind.hyper(HYPER))
    hyper.load_state_dict(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(hyper.state_dict()[name], tensor)


@any_kind
def test_own_checkpoint_round_trip(kind):
    layer, other = kind.hyper(HYPER), kind.hyper(HYPER)
    other.load_state_dict(layer.state_dict())
    assert_close(dict(other.state_dict()), dict(layer.state_dict()), rtol=0, atol=0)


@any_kind
def test_an_incomplete_checkpoint_is_an_error(kind):
    complete = kind.hyper(HYPER).state_dict()
    for name in complete:
        part = {other: tensor for other, tensor in complete.items() if other != name}
        with pytest.raises(RuntimeError, match="Missing key"):
            kind.hyper(HYPER).load_state_dict(part)


@any_kind
def test_a_response_does_not_load_into_the_plain_layer(kind):
    with pytest.raises(RuntimeError, match="Unexpected key"):
        kind.hyper(0).load_state_dict(kind.hyper(HYPER).state_dict())


@pytest.mark.usefixtures("double")
@any_kind
def test_one_row_of_h_equals_it_repeated(kind):
    layer, x, h = with_large_gates(kind.hyper(HYPER)), kind.inputs(), torch.randn(1, HYPER, requires_grad=True)
    if x.is_floating_point():
        x.requires_grad_()
    folded, stacked = run(layer, x, h), run(layer, x, h.expand(BATCH, -1))
    assert_close(folded, stacked)
    assert_close(gradients(folded, layer, x, h), gradients(stacked, layer, x, h))


@pytest.mark.usefixtures("double")
@any_kind
def test_each_example_answers_its_own_h(kind):
    layer, x, h = with_large_gates(kind.hyper(HYPER)), kind.inputs(), torch.randn(BATCH, HYPER)
    example_dim = list(x.shape).index(BATCH)
    before = run(layer, x, h)
    h[2] += 1
    changed = (run(layer, x, h) != before).movedim(example_dim, 0).flatten(1)
    assert changed.any(1).tolist() == [example == 2 for example in range(BATCH)]


@pytest.mark.usefixtures("double")
def test_equals_linear_of_each_examples_own_weights():
    layer, x, h = with_large_gates(HyperLinear(7, 4, HYPER)), torch.randn(BATCH, 7), torch.randn(BATCH, HYPER)
    y = layer(x, h)
    for example in range(BATCH):
        v, c = (layer.gate @ h[example]).chunk(2)
        weight = layer.weight + v[:, None] * layer.response_weight
        bias = layer.bias + c * layer.response_bias
        assert_close(y[example], weight @ x[example] + bias)


@pytest.mark.parametrize(
    ("layer", "bounds"),
    [
        (lambda: HyperLinear(100, 80, 7), {"weight": 0.1, "bias": 0.1}),
        (lambda: HyperEmbedding(200, 100, 7), {"weight": 0.1}),
        (
            lambda: HyperLSTM(100, 64, 7),
            {"weight_ih_l0": 0.1, "bias_ih_l0": 0.1, "weight_hh_l0": 0.125, "bias_hh_l0": 0.125},
        ),
    ],
    ids=["linear", "embedding", "lstm"],
)
def test_initial_parameters(layer, bounds):
    parameters = dict(layer().named_parameters())
    gates = {name for name in parameters if name.startswith("gate")}
    assert gates
    assert parameters.keys() == bounds.keys() | {f"response_{name}" for name in bounds} | gates
    for name, parameter in parameters.items():
        assert (parameter != 0).all()
        if name in gates:
            assert_close(parameter.std().item(), 0.01, rtol=0.1, atol=0)
            assert parameter.mean().abs() < 0.001
        else:
            bound = bounds[name.removeprefix("response_")]
            assert 0.9 * bound < parameter.abs().max() <= bound
            assert_close(parameter.std().item(), bound / math.sqrt(3), rtol=0.15, atol=0)
    for name in bounds:
        assert not torch.equal(parameters[name], parameters[f"response_{name}"])


@any_kind
@pytest.mark.parametrize("rows", [1, BATCH])
def test_every_parameter_learns_from_the_first_step(kind, rows):
    layer = kind.hyper(HYPER)
    for name, gradient in gradients(run(layer, kind.inputs(), torch.randn(rows, HYPER)), layer).items():
        assert gradient.abs().max() > 0, name
