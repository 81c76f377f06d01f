import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.testing import assert_close

from stn import HyperLSTM
from stn.dropout import drop_connect

STEPS, BATCH, INPUTS, HIDDEN, HYPER = 6, 5, 7, 4, 3

pytestmark = pytest.mark.usefixtures("double")
rows_of_h = pytest.mark.parametrize("rows", [1, BATCH], ids=["one-row", "row-per-example"])
NAMES = ("output", "hidden", "cell")


def random_layer(num_hyper=HYPER, inputs=INPUTS, hidden=HIDDEN):
    layer = HyperLSTM(inputs, hidden, num_hyper)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def random_inputs(rows=BATCH, num_hyper=HYPER, steps=STEPS):
    """x, h0, c0, h"""
    shapes = (steps, BATCH, INPUTS), (1, BATCH, HIDDEN), (1, BATCH, HIDDEN), (rows, num_hyper)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def step_by_step(layer, x, h0, c0, h, mask=1.0):
    def product(part, inputs, mask=1.0):
        weight, bias, response_weight, response_bias, gate = (
            getattr(layer, f"{name}_{part}_l0")
            for name in ("weight", "bias", "response_weight", "response_bias", "gate")
        )
        v, c = (h @ gate.T).chunk(2, dim=-1)
        return inputs @ (weight * mask).T + bias + v * (inputs @ (response_weight * mask).T) + c * response_bias

    hidden, cell, outputs = h0[0], c0[0], []
    for x_t in x:
        i, f, g, o = (product("ih", x_t) + product("hh", hidden, mask)).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs), (hidden[None], cell[None])


def flat(result):
    output, (hidden, cell) = result
    return output, hidden, cell


def gradients(result, tensors):
    """Of a sum of all outputs and both states, each entry weighted differently."""
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    objective = sum((y * torch.cos(torch.arange(y.numel()) + 1.0).reshape(y.shape)).sum() for y in flat(result))
    return torch.autograd.grad(objective, tensors)


@rows_of_h
@pytest.mark.parametrize("weight_drop", [0.0, 0.4])
def test_equals_the_equations_step_by_step(rows, weight_drop):
    layer, inputs = random_layer(), random_inputs(rows)
    x, h0, c0, h = inputs
    torch.manual_seed(1)
    actual = layer(x, (h0, c0), h, weight_drop)
    torch.manual_seed(1)
    (mask,) = drop_connect(weight_drop, torch.ones(4 * HIDDEN, HIDDEN))
    expected = step_by_step(layer, *inputs, mask)
    assert weight_drop == 0 or (mask == 0).any()
    assert_close(flat(actual), flat(expected))
    tensors = [*inputs, *layer.parameters()]
    assert_close(gradients(actual, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("weight_drop", [0.0, 0.5])
def test_gradcheck(rows, weight_drop):
    layer = random_layer(num_hyper=2, inputs=3, hidden=2)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def function(x, h0, c0, h, *values):
        torch.manual_seed(1)
        return flat(functional_call(layer, dict(zip(names, values, strict=True)), (x, (h0, c0), h, weight_drop)))

    shapes = (3, 2, 3), (1, 2, 2), (1, 2, 2), (rows, 2)
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    assert gradcheck(function, (*inputs, *parameters))


@pytest.mark.parametrize("num_hyper", [0, HYPER])
@rows_of_h
def test_equals_plain_lstm(num_hyper, rows):
    plain, layer, inputs = nn.LSTM(INPUTS, HIDDEN), random_layer(num_hyper), random_inputs(rows, num_hyper)
    layer.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("gate"):
                parameter.zero_()
    x, h0, c0, h = inputs
    actual, expected = layer(x, (h0, c0), h), plain(x, (h0, c0))
    assert_close(flat(actual), flat(expected))
    shared = plain.state_dict()
    assert_close(
        gradients(actual, [x, h0, c0, *(layer.get_parameter(name) for name in shared)]),
        gradients(expected, [x, h0, c0, *(plain.get_parameter(name) for name in shared)]),
    )


@rows_of_h
def test_without_a_state_it_starts_from_zeros(rows):
    layer, (x, h0, c0, h) = random_layer(), random_inputs(rows)
    assert_close(flat(layer(x, h=h)), flat(layer(x, (torch.zeros_like(h0), torch.zeros_like(c0)), h)))


@rows_of_h
@pytest.mark.parametrize("first", [1, 2, STEPS - 1])
def test_two_parts_with_the_state_carried_equal_the_whole(rows, first):
    layer, inputs = random_layer(), random_inputs(rows)
    x, h0, c0, h = inputs
    whole = layer(x, (h0, c0), h)
    start, state = layer(x[:first], (h0, c0), h)
    end, state = layer(x[first:], state, h)
    parts = torch.cat([start, end]), state
    assert_close(flat(parts), flat(whole))
    tensors = [*inputs, *layer.parameters()]
    assert_close(gradients(parts, tensors), gradients(whole, tensors))


@rows_of_h
def test_one_step(rows):
    layer, inputs = random_layer(), random_inputs(rows, steps=1)
    x, h0, c0, h = inputs
    actual, expected = layer(x, (h0, c0), h), step_by_step(layer, *inputs)
    assert_close(flat(actual), flat(expected))
    tensors = [*inputs, *layer.parameters()]
    assert_close(gradients(actual, tensors), gradients(expected, tensors))


@rows_of_h
def test_one_example(rows):
    layer, inputs = random_layer(), random_inputs(rows)
    x, h0, c0, h = (tensor[:, :1] if tensor.dim() == 3 else tensor[:1] for tensor in inputs)
    assert_close(flat(layer(x, (h0, c0), h)), flat(step_by_step(layer, x, h0, c0, h)))


@rows_of_h
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_one_result_alone(rows, name):
    layer, inputs = random_layer(), random_inputs(rows)
    x, h0, c0, h = inputs
    tensors = [*inputs, *layer.parameters()]
    actual, expected = (
        torch.autograd.grad(flat(result)[NAMES.index(name)].square().sum(), tensors)
        for result in (layer(x, (h0, c0), h), step_by_step(layer, *inputs))
    )
    assert_close(actual, expected)


@rows_of_h
@pytest.mark.parametrize("weight_drop", [0.0, 0.4])
def test_frozen_weights_change_no_value_and_no_other_gradient(rows, weight_drop):
    layer, inputs = random_layer(), random_inputs(rows)
    x, h0, c0, h = inputs

    def result():
        torch.manual_seed(1)
        return layer(x, (h0, c0), h, weight_drop)

    expected = result()
    expected_gradients = gradients(expected, inputs)
    layer.requires_grad_(False)
    actual = result()
    assert_close(flat(actual), flat(expected))
    assert_close(gradients(actual, inputs), expected_gradients)
    assert all(parameter.grad is None for parameter in layer.parameters())


@rows_of_h
@pytest.mark.parametrize("upstream", ["constant", "differentiable"])
def test_double_backward_is_refused(rows, upstream):
    layer, (x, _, _, h) = random_layer(), random_inputs(rows)
    with pytest.raises(RuntimeError):
        output, _ = layer(x, h=h)
        objective = output.square() if upstream == "differentiable" else output
        (gradient,) = torch.autograd.grad(objective.sum(), h, create_graph=True)
        (gradient.square().sum() + h.sum()).backward()


def test_backward_twice_gives_the_same_gradients():
    layer, inputs = random_layer(), random_inputs()
    x, h0, c0, h = inputs
    loss = layer(x, (h0, c0), h)[0].square().sum()
    tensors = [*inputs, *layer.parameters()]
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    assert_close(torch.autograd.grad(loss, tensors), first, rtol=0, atol=0)


@rows_of_h
def test_inputs_are_left_alone(rows):
    layer, inputs = random_layer(), random_inputs(rows)
    tensors = [*inputs, *layer.parameters()]
    before = [tensor.detach().clone() for tensor in tensors]
    x, h0, c0, h = inputs
    gradients(layer(x, (h0, c0), h, 0.5), tensors)
    assert_close([tensor.detach() for tensor in tensors], before, rtol=0, atol=0)


def test_as_many_rows_of_h_as_examples():
    layer, (x, h0, c0, _) = random_layer(), random_inputs()
    with pytest.raises(RuntimeError):
        layer(x, (h0, c0), torch.randn(BATCH + 1, HYPER))
