import pytest
import torch
from reference import step_by_step
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


@rows_of_h
@pytest.mark.parametrize("wrong", ["hidden state", "cell"])
@pytest.mark.parametrize(
    "shape",
    [(BATCH, HIDDEN), (1, 1, HIDDEN), (BATCH, 1, HIDDEN), (2, BATCH, HIDDEN), (1, BATCH, HIDDEN + 1), (1, BATCH, 1),
     (1, STEPS, HIDDEN), (HIDDEN,)],
)  # fmt: skip
def test_a_state_of_another_shape_is_named(rows, wrong, shape):
    layer, (x, h0, c0, h) = random_layer(), random_inputs(rows)
    state = (torch.randn(shape), c0) if wrong == "hidden state" else (h0, torch.randn(shape))
    with pytest.raises(ValueError, match=rf"{wrong} \(1, {BATCH}, {HIDDEN}\): found \({shape[0]}"):
        layer(x, state, h)


def test_a_state_is_two_tensors():
    layer, (x, h0, c0, h) = random_layer(), random_inputs()
    for state in (h0, (h0,), (h0, c0, c0), torch.stack([h0, c0])):
        with pytest.raises(TypeError, match="two tensors"):
            layer(x, state, h)
    with pytest.raises(TypeError, match=r"cell .*: found NoneType"):
        layer(x, (h0, None), h)
    assert_close(flat(layer(x, [h0, c0], h)), flat(layer(x, (h0, c0), h)))


@pytest.mark.parametrize("width", [BATCH, HIDDEN])
def test_rates_of_each_example_cannot_drop_shared_weights(width):
    layer, (x, h0, c0, h) = random_layer(), random_inputs()
    with pytest.raises(ValueError, match=rf"one rate .*found \({width},\).*per_example=False"):
        layer(x, (h0, c0), h, torch.full((width,), 0.5))


# bfloat16: products in it, all else in the parameters' type

ROUNDING = 2.0**-9  # bfloat16's largest relative rounding error, of 8 significant bits


def run_in(dtype):
    """Outputs and gradients of a layer wide enough for errors to average, with its inputs in this type."""
    torch.manual_seed(0)
    layer = HyperLSTM(48, 64, HYPER)
    x = torch.randn(30, BATCH, 48).to(dtype).requires_grad_()
    h = torch.randn(BATCH, HYPER, requires_grad=True)
    torch.manual_seed(1)
    output, (hidden, cell) = layer(x, None, h, 0.3)
    weights = torch.cos(torch.arange(output.numel())).reshape(output.shape)
    objective = (output.to(weights.dtype) * weights).sum()
    tensors = {"x": x, "h": h, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(objective, [*tensors.values()])
    return {"output": output, "hidden": hidden, "cell": cell}, dict(zip(tensors, gradients, strict=True))


def test_bfloat16_errs_by_its_rounding():
    """Along a path through a step lie some ten roundings: of input, hidden state, two weights, their two products and
    their gradients. To first order they add up to ten times one rounding at the most; steps further back count less
    and less."""
    exact, exact_gradients = run_in(torch.float64)
    rounded, rounded_gradients = run_in(torch.bfloat16)
    for names, pair in ((exact, (exact, rounded)), (exact_gradients, (exact_gradients, rounded_gradients))):
        for name in names:
            expected, actual = (part[name].detach().double() for part in pair)
            error = ((actual - expected).norm() / expected.norm()).item()
            assert 0 < error < 10 * ROUNDING, (name, error)


def test_in_bfloat16_parameters_and_states_keep_their_type():
    outputs, gradients = run_in(torch.bfloat16)
    assert outputs["output"].dtype == gradients["x"].dtype == torch.bfloat16
    assert {outputs["hidden"].dtype, outputs["cell"].dtype} == {torch.float64}
    assert {gradient.dtype for name, gradient in gradients.items() if name != "x"} == {torch.float64}


def test_the_cell_state_is_not_rounded():
    """With an open forget gate and closed others it stays as it is for ever."""
    layer = HyperLSTM(2, 3, 0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[:] = torch.tensor([-1e4, 1e4, 0.0, 0.0]).repeat_interleave(3)
    start = torch.full((1, 1, 3), 1 + 2.0**-20)
    _, (_, cell) = layer(torch.zeros(5, 1, 2, dtype=torch.bfloat16), (torch.zeros(1, 1, 3), start), None)
    assert (cell == start).all()
