import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cnn.models import SmallCNN
from lstm.model import AWDLSTM
from stn import HyperConv2d, HyperEmbedding, HyperLinear, HyperLSTM, Hyperparameters, Tuned
from stn.layers import HyperLayer, split_parameters

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


# The learned scalar on elementary outputs

SCALED = {
    "linear": lambda n, **flags: HyperLinear(7, 4, n, **flags),
    "linear-without-bias": lambda n, **flags: HyperLinear(7, 4, n, bias=False, **flags),
    "convolution": lambda n, **flags: HyperConv2d(3, 4, 3, n, stride=2, padding=1, **flags),
    "convolution-without-bias": lambda n, **flags: HyperConv2d(3, 4, 2, n, bias=False, **flags),
}
any_scaled = pytest.mark.parametrize("name", SCALED)


def scaled_layer(name, num_hyper, scale=1.7):
    layer = with_large_gates(SCALED[name](num_hyper, elementary_scale=True))
    with torch.no_grad():
        layer.elementary_scale.fill_(scale)
    return layer


def written_out(layer, x, h):
    """s (W x + b) + (V h) ⊙ (W' x) + (C h) ⊙ b'"""

    def product(weight, bias):
        if isinstance(layer, HyperLinear):
            return nn.functional.linear(x, weight, bias)
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)

    y = layer.elementary_scale * product(layer.weight, layer.bias)
    if not layer.num_hyper:
        return y
    gates = (h @ layer.gate.T).chunk(1 if layer.bias is None else 2, 1)
    v, *c = (gate.reshape(*gate.shape, *[1] * (x.dim() - 2)) for gate in gates)
    y = y + v * product(layer.response_weight, None)
    return y + c[0] * layer.response_bias.reshape(-1, *[1] * (x.dim() - 2)) if c else y


@pytest.mark.usefixtures("double")
@any_scaled
@pytest.mark.parametrize(("num_hyper", "rows"), [(0, 1), (HYPER, 1), (HYPER, BATCH)])
def test_elementary_scale_is_as_written_out(name, num_hyper, rows):
    layer, x = scaled_layer(name, num_hyper), KINDS[name].inputs().requires_grad_()
    h = torch.randn(rows, num_hyper)
    actual, expected = layer(x, h), written_out(layer, x, h)
    assert_close(actual, expected)
    found, sought = gradients(actual, layer, x), gradients(expected, layer, x)
    assert "elementary_scale" in found and found["elementary_scale"].abs() > 0
    assert_close(found, sought)


@any_scaled
def test_elementary_scale_off_leaves_no_trace(name):
    """And on, at 1, it changes no number that the layer draws or computes."""
    x, h = KINDS[name].inputs(), torch.randn(BATCH, HYPER)
    layers, states = [], []
    for flags in ({}, {"elementary_scale": False}, {"elementary_scale": True}):
        torch.manual_seed(1)
        layers.append(SCALED[name](HYPER, **flags))
        states.append(torch.get_rng_state())
    plain, off, on = layers
    assert all(torch.equal(state, states[0]) for state in states)
    assert list(plain.state_dict()) == list(off.state_dict())
    assert on.state_dict().keys() - off.state_dict().keys() == {"elementary_scale"}
    assert on.elementary_scale.shape == () and on.elementary_scale == 1
    outputs = [layer(x, h) for layer in layers]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    expected, *found = (gradients(y, layer) for y, layer in zip(outputs, layers, strict=True))
    for one in found:
        one.pop("elementary_scale", None)
        assert_close(one, expected, rtol=0, atol=0)


@any_scaled
@pytest.mark.parametrize("rows", [1, BATCH])
def test_in_bfloat16_the_elementary_scale_is_not_rounded(name, rows):
    """Halfway between two numbers of bfloat16: rounded, it would scale all outputs by 0.26 % too little or too much."""
    layer, x = scaled_layer(name, HYPER, 1.5 + 2.0**-8), KINDS[name].inputs().repeat_interleave(100, 0)
    x = (x + torch.randn_like(x)).bfloat16()
    h = torch.zeros(1 if rows == 1 else len(x), HYPER)
    y, exact = layer(x, h), written_out(layer, x.float(), h)
    assert y.dtype == torch.bfloat16
    assert abs((y * exact).sum() / exact.square().sum() - 1) < 1e-3
    found, sought = gradients(y.float(), layer), gradients(exact, layer)
    for name in ("weight", "elementary_scale"):
        assert found[name].dtype == torch.float32
        assert (found[name] - sought[name]).norm() < 0.02 * sought[name].norm()


@any_scaled
def test_checkpoints_hold_the_elementary_scale(name):
    plain, hyper = scaled_layer(name, 0), SCALED[name](HYPER, elementary_scale=True)
    hyper.load_state_dict(plain.state_dict())
    assert torch.equal(hyper.elementary_scale, plain.elementary_scale)
    with pytest.raises(RuntimeError, match=r"Missing key.*elementary_scale"):
        hyper.load_state_dict(SCALED[name](HYPER).state_dict())


# Which parameters are a response


def names_of(module):
    """The names of the elementary parameters and of the response parameters."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return tuple([names[parameter] for parameter in part] for part in split_parameters(module))


@pytest.mark.parametrize(
    "model",
    [lambda: AWDLSTM(11, 6, 8, 2, HYPER), lambda: SmallCNN(HYPER, elementary_scale=True)],
    ids=["language model", "small network"],
)
def test_parameters_split_by_layers_and_names(model):
    model = model()
    names = [name for name, _ in model.named_parameters()]
    response = [name for name in names if name.rsplit(".", 1)[1].startswith(("gate", "response"))]
    assert names_of(model) == ([name for name in names if name not in response], response)
    assert len(response) == {AWDLSTM: 2 + 2 * 6, SmallCNN: 3 * 3}[type(model)]


def test_parameters_of_other_modules_are_elementary():
    class Plain(nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.gate, self.response_weight, self.tied = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), tied

    layer, outer = HyperLinear(3, 2, HYPER, bias=False), HyperLayer(HYPER)
    outer.gates = nn.Linear(2, 2, bias=False)
    module = nn.Sequential(Plain(layer.weight), layer, Plain(layer.gate), outer)
    assert names_of(module) == (
        ["0.gate", "0.response_weight", "0.tied", "2.gate", "2.response_weight", "3.gates.weight"],
        ["1.response_weight", "1.gate"],
    )
    assert names_of(HyperLinear(3, 2, 0)) == (["weight", "bias"], [])


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


# What a layer is given

STEPS = 4
LAYERS = {
    "linear": (lambda n: HyperLinear(7, 6, n), lambda: torch.randn(STEPS, BATCH, 7)),
    "convolution": (lambda n: HyperConv2d(2, 6, 3, n, padding=1), lambda: torch.randn(BATCH, 2, 8, 8)),
    "embedding": (lambda n: HyperEmbedding(11, 6, n), lambda: torch.randint(11, (STEPS, BATCH))),
    "lstm": (lambda n: HyperLSTM(7, 6, n), lambda: torch.randn(STEPS, BATCH, 7)),
}
any_layer = pytest.mark.parametrize("name", LAYERS)


@any_layer
@pytest.mark.parametrize(
    "shape",
    [(HYPER,), (1,), (), (BATCH, HYPER + 1), (BATCH, 1), (STEPS, HYPER), (BATCH - 1, HYPER), (2, HYPER), (0, HYPER),
     (STEPS, BATCH, HYPER), (1, 1, HYPER), (HYPER, BATCH)],
)  # fmt: skip
def test_h_that_is_no_row_for_each_example_is_named(name, shape):
    make, inputs = LAYERS[name]
    layer, x = make(HYPER), inputs()
    with pytest.raises(ValueError) as error:
        run(layer, x, torch.randn(shape))
    assert type(layer).__name__ in str(error.value) and f"{HYPER})" in str(error.value)
    assert str(error.value).endswith(f"found {tuple(shape)}") or str(error.value).endswith(f"with h {tuple(shape)}")
    assert "\n" not in str(error.value)


@any_layer
@pytest.mark.parametrize("found", [1, 2])
def test_h_of_more_rows_than_there_are_examples_is_named(name, found):
    """A batch of 1 would broadcast to all rows."""
    make, inputs = LAYERS[name]
    x = inputs()
    few = x[:found] if name == "convolution" else x[:, :found]
    for rows in {2, 3, BATCH} - {found}:
        with pytest.raises(ValueError, match=rf"\(B, {HYPER}\) or \(1, {HYPER}\)"):
            run(make(HYPER), few, torch.randn(rows, HYPER))
    assert run(make(HYPER), few, torch.randn(found, HYPER)).shape[few.dim() > 1 and name != "convolution"] == found


@any_layer
def test_a_missing_h_is_asked_for(name):
    make, inputs = LAYERS[name]
    with pytest.raises(TypeError, match=r"responds to 3 .* h \(B, 3\) or \(1, 3\), such as hyper.perturbed\(B\).h"):
        run(make(3), inputs())
    with pytest.raises(TypeError, match="responds to 1 hyperparameter and"):
        run(make(1), inputs())


@any_layer
def test_a_draw_in_place_of_its_h_is_named(name):
    make, inputs = LAYERS[name]
    with pytest.raises(TypeError, match=r"tensor h .*: found Draw"):
        run(make(1), inputs(), Hyperparameters(x=Tuned(0.0, feed="unconstrained")).current())


@any_layer
def test_a_batch_first_input_is_named(name):
    """Unless it has as many steps as examples, which no shape can tell."""
    make, inputs = LAYERS[name]
    x = inputs().movedim(1, -1) if name == "convolution" else inputs().transpose(0, 1)
    with pytest.raises(ValueError, match=r"takes (x|ids) "):
        run(make(HYPER), x, torch.randn(BATCH, HYPER))


@any_layer
@pytest.mark.parametrize("num_hyper", [0, HYPER])
def test_inputs_of_another_number_type_are_named(name, num_hyper):
    """Weights in the type of x would all be rounded to 0."""
    make, inputs = LAYERS[name]
    x = inputs()
    wrong = [torch.float32, torch.bool, torch.uint8] if name == "embedding" else [torch.int64, torch.bool]
    for dtype in wrong:
        with pytest.raises(TypeError, match=str(dtype)):
            run(make(num_hyper), x.to(dtype), torch.randn(BATCH, num_hyper))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", (7,)), ("linear", (BATCH, 8)), ("linear", (BATCH, 1)), ("linear", ()),
        ("convolution", (2, 8, 8)), ("convolution", (BATCH, 3, 8, 8)), ("convolution", (BATCH, 1, 8, 8)),
        ("convolution", (1, BATCH, 2, 8, 8)), ("embedding", ()),
        ("lstm", (STEPS, 7)), ("lstm", (2, STEPS, BATCH, 7)), ("lstm", (STEPS, BATCH, 8)), ("lstm", (0, BATCH, 7)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, BATCH])
def test_inputs_of_another_shape_are_named(name, shape, rows):
    make, _ = LAYERS[name]
    x = torch.zeros(shape, dtype=torch.long) if name == "embedding" else torch.zeros(shape)
    found = f"({shape[0]},)" if len(shape) == 1 else str(shape)
    with pytest.raises(ValueError, match=f"found (x )?{re.escape(found)}$"):
        run(make(HYPER), x, torch.randn(rows, HYPER))


def test_plain_layers_take_what_torch_takes():
    assert HyperLinear(7, 6, 0)(torch.randn(7)).shape == (6,)
    assert HyperEmbedding(11, 6, 0)(torch.tensor(3)).shape == (6,)
    with pytest.raises(ValueError, match=re.escape("HyperLinear takes x (…, 7): found (5, 8)")):
        HyperLinear(7, 6, 0)(torch.randn(5, 8))


@any_layer
def test_wrong_inputs_are_found_without_a_value_being_read(name):
    """On the meta device there are none."""
    make, inputs = LAYERS[name]
    layer, x = make(HYPER).to("meta"), inputs().to("meta")
    assert run(layer, x, torch.empty(BATCH, HYPER, device="meta")).is_meta
    with pytest.raises(ValueError, match="found"):
        run(layer, x, torch.empty(BATCH + 1, HYPER, device="meta"))


# What a layer says that it is


@pytest.mark.parametrize(
    "text",
    [
        "HyperLinear(in_features=20, out_features=64, num_hyper=2, bias=True)",
        "HyperLinear(in_features=20, out_features=64, num_hyper=0, bias=False, elementary_scale=True)",
        "HyperConv2d(in_channels=3, out_channels=8, kernel_size=5, stride=2, padding=1, num_hyper=2, bias=False)",
        "HyperEmbedding(num_embeddings=11, embedding_dim=6, num_hyper=2)",
        "HyperLSTM(input_size=5, hidden_size=6, num_hyper=3)",
        "HyperLSTM(input_size=5, hidden_size=6, num_hyper=0, cuda_graphs=False)",
        "HyperLSTM(input_size=5, hidden_size=6, num_hyper=0, checkpoint_activations=True)",
    ],
)
def test_a_layer_shows_how_it_was_made(text):
    layer = eval(text)
    assert repr(layer) == text
    assert repr(nn.Sequential(layer)) == f"Sequential(\n  (0): {text}\n)"
