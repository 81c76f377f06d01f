import cnn_runs
import pytest
import torch
from cnn_runs import layers_of, load_into, tuned
from torch.testing import assert_close

from cnn.hyperparameters import names_of
from cnn.models import MLP, MODELS, VGG16, AlexNet, SimpleCNN, SmallCNN, convnet, mlp
from stn.hyperparameters import Hyperparameters
from stn.schedules import Constant

BATCH, HIDDEN = 3, (24, 16)
COLOUR, GREY = (3, 32, 32), (1, 28, 28)
SHAPES = {"alexnet": COLOUR, "small": COLOUR, "mlp": GREY, "simple_cnn": GREY, "vgg16": COLOUR}
any_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(AlexNet, "FULLY_CONNECTED", (1024, *HIDDEN))
    monkeypatch.setattr(MLP, "SIZES", (784, *HIDDEN))
    monkeypatch.setattr(SimpleCNN, "FULLY_CONNECTED", (1568, HIDDEN[0]))
    monkeypatch.setattr(VGG16, "CHANNELS", (3, *cnn_runs.VGG16_CHANNELS))
    monkeypatch.setattr(VGG16, "FULLY_CONNECTED", (cnn_runs.VGG16_CHANNELS[-1], *HIDDEN))


@pytest.fixture
def rates(monkeypatch):
    """What is dropped, as the networks ask for it: (kind, shape of the input, rate)."""
    asked = []
    for module, kind in ((convnet, "channel_dropout"), (convnet, "dropout"), (mlp, "dropout")):
        monkeypatch.setattr(module, kind, lambda x, rate, kind=kind: asked.append((kind, x.shape, rate)) or x)
    return asked


def plain(name):
    return cnn_runs.plain(name, HIDDEN).eval()


def images(name, count=BATCH):
    return torch.randn(count, *SHAPES[name])


def constants(name, **values):
    return Hyperparameters(**{name: Constant(values.get(name, 0.0)) for name in cnn_runs.NAMES[name]}).current()


@torch.no_grad()
def with_large_gates(model):
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.normal_()
    return model


# Values


@any_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_untuned_network_is_the_plain_one(name, dtype):
    model = MODELS[name](0, dtype).eval().to(dtype)
    x = images(name).to(dtype)
    assert_close(model(x, constants(name)), load_into(plain(name).to(dtype), model)(x))


@any_model
def test_a_network_whose_gates_are_zero_is_the_plain_one(name):
    hyper = tuned(name)
    model = MODELS[name](hyper.num_tuned).eval()
    for layer in layers_of(model):
        if layer.num_hyper:
            layer.gate.data.zero_()
    x, twin = images(name), load_into(plain(name), model)
    for draw in (hyper.current(), hyper.perturbed(BATCH)):
        assert_close(model(x, draw), twin(x))


@any_model
def test_weights_of_a_plain_network_load_into_the_self_tuning_one(name):
    hyper = tuned(name)
    before, model = MODELS[name](0).eval(), MODELS[name](hyper.num_tuned).eval()
    model.load_state_dict(before.state_dict())
    x = images(name)
    assert not torch.equal(model(x, hyper.current()), before(x, hyper.current()))
    assert_close(load_into(plain(name), model)(x), before(x, hyper.current()))


@pytest.mark.usefixtures("double")
@any_model
@pytest.mark.parametrize("elementary_scale", [False, True])
def test_each_example_has_weights_of_its_own(name, elementary_scale):
    """With one row of h, all examples share one set of weights."""
    hyper = tuned(name)
    model, x = MODELS[name](hyper.num_tuned, elementary_scale=elementary_scale).eval(), images(name)
    with_large_gates(model)
    with torch.no_grad():
        for number, layer in enumerate(layers_of(model)):
            if layer.elementary_scale is not None:
                layer.elementary_scale += 0.1 * number + 0.2
    draw, current = hyper.perturbed(BATCH), hyper.current()
    logits = model(x, draw)
    expected = [load_into(plain(name), model, h)(image[None])[0] for h, image in zip(draw.h, x, strict=True)]
    assert_close(logits, torch.stack(expected), rtol=1e-9, atol=1e-9)
    shared = load_into(plain(name), model, current.h[0].detach())(x)
    assert_close(model(x, current), shared, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits, shared)


@pytest.mark.usefixtures("double")
@any_model
def test_gradients_of_the_hyperparameters_are_finite_differences(name):
    hyper = tuned(name)
    model, x = with_large_gates(MODELS[name](hyper.num_tuned).eval()), images(name, 2)
    direction = torch.randn(2, 10)

    def value():
        return (model(x, hyper.current()) * direction).sum()

    (gradient,) = torch.autograd.grad(value(), hyper.unconstrained)
    start, step = hyper.unconstrained.detach().clone(), 1e-6
    for column in range(0, hyper.num_tuned, 5 if hyper.num_tuned > 5 else 1):
        ends = []
        for side in (step, -step):
            hyper.unconstrained.data = start.clone()
            hyper.unconstrained.data[column] += side
            ends.append(value().item())
        assert gradient[column].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)
        assert gradient[column] != 0


@any_model
@pytest.mark.parametrize("kind", ["plain", "shared", "per example"])
def test_bfloat16_is_close_to_float32(name, kind):
    hyper = tuned(name)
    draw = hyper.perturbed(BATCH) if kind == "per example" else hyper.current()
    size = 0 if kind == "plain" else hyper.num_tuned
    exact, rounded = MODELS[name](size).eval(), MODELS[name](size, torch.bfloat16).eval()
    rounded.load_state_dict(exact.state_dict())
    x = images(name)
    inputs = []
    for layer in layers_of(rounded):
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].dtype))
    logits, expected = rounded(x, draw), exact(x, draw)
    assert logits.dtype == torch.float32 and {weight.dtype for weight in rounded.parameters()} == {torch.float32}
    assert set(inputs) == {torch.bfloat16}
    assert 0 < (logits - expected).norm() < 0.02 * expected.norm()
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in rounded.parameters())


# Shapes


def test_shapes_of_alexnet(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        model = AlexNet(15)
        seen = []
        for layer in layers_of(model):
            layer.register_forward_hook(lambda _, args, y: seen.append((*args[0].shape[1:], "->", *y.shape[1:])))
        model.eval()(torch.empty(2, 3, 32, 32), tuned("alexnet").perturbed(2))
    assert seen == [
        (3, 32, 32, "->", 64, 16, 16),
        (64, 8, 8, "->", 192, 8, 8),
        (192, 4, 4, "->", 384, 4, 4),
        (384, 4, 4, "->", 256, 4, 4),
        (256, 4, 4, "->", 256, 4, 4),
        (1024, "->", 4096),
        (4096, "->", 4096),
        (4096, "->", 10),
    ]
    shapes = [(layer.stride, layer.padding, *layer.weight.shape) for layer in model.convolutions]
    assert shapes == [
        (2, 1, 64, 3, 3, 3),
        (1, 1, 192, 64, 3, 3),
        (1, 1, 384, 192, 3, 3),
        (1, 1, 256, 384, 3, 3),
        (1, 1, 256, 256, 3, 3),
    ]
    elementary = sum(weight.numel() for weight in cnn_runs.plain("alexnet").to("meta").parameters())
    gates = 2 * 15 * (64 + 192 + 384 + 256 + 256 + 4096 + 4096 + 10)
    assert sum(weight.numel() for weight in model.parameters()) == 2 * elementary + gates


def test_shapes_of_the_small_network():
    model = SmallCNN(11)
    assert [tuple(layer.weight.shape) for layer in model.convolutions] == [
        (10, 3, 3, 3),
        (20, 10, 3, 3),
        (40, 20, 3, 3),
    ]
    assert [(layer.stride, layer.padding, layer.num_hyper) for layer in model.convolutions] == [(1, 1, 11)] * 3
    assert model.classifier.weight.shape == (10, 640) and model.classifier.num_hyper == 0
    assert {name for name, _ in model.classifier.named_parameters()} == {"weight", "bias"}


def test_shapes_of_the_perceptron(monkeypatch):
    monkeypatch.undo()
    model = MLP(3)
    shapes = [(layer.num_hyper, *layer.weight.shape) for layer in layers_of(model)]
    assert shapes == [(3, 1200, 784), (3, 1200, 1200), (3, 10, 1200)]
    elementary = sum(weight.numel() for weight in cnn_runs.plain("mlp", (1200, 1200)).parameters())
    gates = 2 * 3 * (1200 + 1200 + 10)
    assert sum(weight.numel() for weight in model.parameters()) == 2 * elementary + gates


def seen_shapes(model, shape, hyper):
    """The shapes of what each layer with weights takes and gives, without the batch."""
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda _, args, y: seen.append((*args[0].shape[1:], "->", *y.shape[1:])))
    model.eval()(torch.empty(2, *shape), hyper.perturbed(2))
    return seen


def test_shapes_of_the_simple_network(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        model = SimpleCNN(6)
        seen = seen_shapes(model, GREY, tuned("simple_cnn"))
    assert seen == [(1, 28, 28, "->", 16, 28, 28), (16, 14, 14, "->", 32, 14, 14), (1568, "->", 1568), (1568, "->", 10)]
    assert [(layer.kernel_size, layer.stride, layer.padding) for layer in model.convolutions] == [(5, 1, 2)] * 2
    elementary = (16 * 25 + 16) + (32 * 16 * 25 + 32) + (1568 * 1568 + 1568) + (1568 * 10 + 10)
    gates = 2 * 6 * (16 + 32 + 1568 + 10)
    assert sum(weight.numel() for weight in model.parameters()) == 2 * elementary + gates == 4_997_772


def test_shapes_of_vgg16(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        model = VGG16(26)
        seen = seen_shapes(model, COLOUR, tuned("vgg16"))
        normalized = VGG16(0, batch_norm=True)
    channels = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    expected = [
        (before, side, side, "->", after, side, side)
        for before, after, side in zip([3, *channels], channels, sides, strict=False)
    ]
    assert seen == [*expected, (512, "->", 512), (512, "->", 512), (512, "->", 10)]
    kernels = sum(9 * before * after for before, after in zip([3, *channels], channels, strict=False))
    elementary = kernels + sum(channels) + 2 * (512 * 512 + 512) + 512 * 10 + 10
    assert elementary == 15_245_130  # of which 14,714,688 are the convolutions'
    gates = 2 * 26 * (sum(channels) + 512 + 512 + 10)
    assert sum(weight.numel() for weight in model.parameters()) == 2 * elementary + gates
    assert sum(weight.numel() for weight in normalized.parameters()) == elementary + 2 * sum(channels)


def test_vgg16_starts_as_published(monkeypatch):
    """Convolutions alone: N(0, 2/(9·out)) for both kinds of weights, biases 0 and 0.001."""
    monkeypatch.undo()
    model = VGG16(2, width=0.25)
    for layer in model.convolutions:
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        assert torch.equal(layer.response_bias, torch.full_like(layer.bias, 0.001))
        for weight in (layer.weight, layer.response_weight):
            numbers = (weight.detach() * (9 * layer.out_channels / 2) ** 0.5).flatten()
            noise = 5 / len(numbers) ** 0.5
            assert numbers.mean().abs() < noise and numbers.std().item() == pytest.approx(1, abs=noise)
            assert (numbers.abs() < 1).double().mean().item() == pytest.approx(0.683, abs=noise)
    assert not torch.equal(model.convolutions[0].weight, model.convolutions[0].response_weight)
    assert model.hidden[0].bias.abs().max() > 0 and model.convolutions[0].gate.abs().max() > 0
    assert VGG16(0).convolutions[0].response_weight is None


@pytest.mark.parametrize(("name", "sizes"), [
    ("alexnet", (16, 48, 96, 64, 64, 256, 1024, 1024)),
    ("vgg16", (16, 16, 32, 32, 64, 64, 64, *[128] * 6, 128, 128, 128)),
    ("simple_cnn", (4, 8, 392, 392)),
    ("small", (2, 5, 10, 160)),
    ("mlp", (300, 300)),
])  # fmt: skip
def test_the_width_scales_every_layer(monkeypatch, name, sizes):
    """Channels of the convolutions, and inputs of the fully connected layers."""
    monkeypatch.undo()
    with torch.device("meta"):
        model = MODELS[name](0, width=0.25)
        found = [layer.out_channels for layer in getattr(model, "convolutions", [])]
        found += [layer.in_features for layer in (*model.hidden, model.classifier)]
        assert tuple(found[-len(sizes) :]) == sizes and model.classifier.out_features == 10
        again = type(model)(**model.arguments)
    assert [weight.shape for weight in again.parameters()] == [weight.shape for weight in model.parameters()]
    assert all(size >= 1 for size in convnet.scaled((1, 64), 0.001))


@any_model
def test_a_width_of_1_is_the_network_as_it_was(name):
    models = []
    for arguments in ({}, {"width": 1.0}):
        torch.manual_seed(1)
        models.append(MODELS[name](3, **arguments).state_dict())
    assert cnn_runs.same(*models)


def test_batch_normalization_is_torchs():
    """The plain twin with torch's own between convolution and rectifier, in training and in evaluation."""
    model, twin = VGG16(0, batch_norm=True), load_into(plain("vgg16"), VGG16(0))
    layers, normalizations = [], []
    for layer in twin:
        layers.append(layer)
        if isinstance(layer, torch.nn.Conv2d):
            normalizations.append(torch.nn.BatchNorm2d(layer.out_channels))
            layers.append(normalizations[-1])
    load_into(torch.nn.Sequential(*(layer for layer in twin if hasattr(layer, "weight"))), model)
    twin, x = torch.nn.Sequential(*layers), images("vgg16", 8)
    for mode in (True, False):
        assert_close(model.train(mode)(x, Hyperparameters().current()), twin.train(mode)(x))
    for own, other in zip(model.normalizations, normalizations, strict=True):
        assert_close(own.running_mean, other.running_mean) and own.num_batches_tracked == 1
    assert model.arguments["batch_norm"] and not VGG16(0).normalizations


@any_model
def test_layers_with_a_response_have_the_elementary_scale(name):
    size = tuned(name).num_tuned
    for layer in layers_of(MODELS[name](size)):
        assert layer.elementary_scale is None
    for layer in layers_of(MODELS[name](size, elementary_scale=True)):
        assert (layer.elementary_scale is not None) == (layer.num_hyper > 0)


# Dropout


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_rates_of_alexnet_are_the_draws(rates, shared):
    hyper = tuned("alexnet", shared)
    draw = hyper.perturbed(BATCH)
    AlexNet(hyper.num_tuned).train()(images("alexnet"), draw)
    shapes = [(64, 8, 8), (192, 4, 4), (384, 4, 4), (256, 4, 4), (256, 2, 2), (1024,), HIDDEN[:1]]
    names = ["dropout"] * 5 if shared else [f"dropout{layer}" for layer in range(5)]
    names += ["fcdropout0", "fcdropout1"]
    kinds = ["channel_dropout"] * 5 + ["dropout"] * 2
    assert [(kind, tuple(shape)) for kind, shape, _ in rates] == [
        (kind, (BATCH, *shape)) for kind, shape in zip(kinds, shapes, strict=True)
    ]
    for name, (_, _, rate) in zip(names, rates, strict=True):
        assert torch.equal(rate, draw[name]) and rate.shape == (BATCH,)
    assert shared or len({tuple(rate.tolist()) for *_, rate in rates}) == 7


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_rates_of_the_small_network_are_the_draws(rates, shared):
    names = ["dropout"] if shared else ["dropout0", "dropout1", "dropout2"]
    draw = Hyperparameters(**{name: Constant(0.1 + number) for number, name in enumerate(names)}).current()
    SmallCNN(0).train()(images("small"), draw)
    shapes = [(BATCH, 10, 16, 16), (BATCH, 20, 8, 8), (BATCH, 40, 4, 4)]
    expected = [0.1] * 3 if shared else [0.1, 1.1, 2.1]
    assert rates == [("channel_dropout", shape, rate) for shape, rate in zip(shapes, expected, strict=True)]


@pytest.mark.parametrize(("name", "recipe"), [("simple_cnn", None), ("vgg16", None), ("alexnet", "delta_stn")])
def test_dropout_rates_of_the_delta_stns_networks_are_the_draws(rates, name, recipe):
    """Channels of the input and of what each convolution gives, pooled; single outputs of the hidden layers."""
    names = names_of(name, recipe=recipe)
    draw = tuned(name, recipe=recipe).perturbed(BATCH)
    model = MODELS[name](len(names)).train()
    model(images(name), draw)
    convolutions = [name for name in names if name.startswith("dropout")]
    asked = ["indropout2d", *convolutions, *(name for name in names if name.startswith("fcdropout"))]
    kinds = ["channel_dropout"] * (1 + len(convolutions)) + ["dropout"] * len(model.hidden)
    assert [kind for kind, *_ in rates] == kinds
    for name, (_, _, rate) in zip(asked, rates, strict=True):
        assert torch.equal(rate, draw[name]) and rate.shape == (BATCH,)
    sides = {2: (28, 14, 7), 13: (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1), 5: (32, 8, 4, 4, 4, 2)}
    assert tuple(shape[-1] for kind, shape, _ in rates if kind == "channel_dropout") == sides[len(convolutions)]
    assert [shape[1] for kind, shape, _ in rates if kind == "dropout"] == [layer.out_features for layer in model.hidden]


def test_dropout_rates_of_the_perceptron_are_the_draws(rates):
    """Of the input and of both hidden layers, each example its own."""
    hyper = tuned("mlp")
    draw = hyper.perturbed(BATCH)
    MLP(hyper.num_tuned).train()(images("mlp"), draw)
    assert [(kind, tuple(shape)) for kind, shape, _ in rates] == [("dropout", (BATCH, size)) for size in (784, *HIDDEN)]
    for name, (_, _, rate) in zip(cnn_runs.MLP_NAMES, rates, strict=True):
        assert torch.equal(rate, draw[name]) and rate.shape == (BATCH,)
    assert len({tuple(rate.tolist()) for *_, rate in rates}) == 3


def test_what_the_perceptron_drops_is_what_its_layers_see(monkeypatch):
    """With expectations in place of random masks, in plain layers."""
    monkeypatch.setattr(mlp, "dropout", lambda x, rate: x * (1 - rate[:, None]))
    hyper = tuned("mlp")
    model, draw, x = MLP(hyper.num_tuned).train(), hyper.perturbed(BATCH), images("mlp")
    expected = []
    for example, h in enumerate(draw.h):
        y = x[example].flatten()
        for rate, layer in zip(cnn_runs.MLP_NAMES, layers_of(load_into(plain("mlp"), model, h)), strict=True):
            y = layer((1 - draw[rate][example]) * (y if rate == "fcdropout0" else y.relu()))
        expected.append(y)
    assert_close(model(x, draw), torch.stack(expected))


@any_model
def test_evaluation_has_no_dropout(name, rates):
    hyper = tuned(name)
    model = MODELS[name](hyper.num_tuned).eval()
    x, before = images(name), torch.get_rng_state()
    first, second = (model(x, hyper.current()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second) and rates == []


# What the networks are given


@any_model
@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (28, 28), (BATCH, 32, 32, 3), (BATCH, 1, 32, 32), (BATCH, 3, 31, 32), (BATCH, 784), ()]
)
def test_images_of_another_shape_are_named(name, shape):
    model, wanted = MODELS[name](0).eval(), ", ".join(map(str, SHAPES[name]))
    with pytest.raises(ValueError, match=rf"{type(model).__name__} takes images \(B, {wanted}\): found \("):
        model(torch.zeros(shape), constants(name))


@any_model
def test_pixels_as_they_are_stored_are_named(name):
    with pytest.raises(TypeError, match=r"images .*torch\.uint8"):
        MODELS[name](0).eval()(torch.zeros(BATCH, *SHAPES[name], dtype=torch.uint8), constants(name))


@any_model
def test_networks_show_their_layers(name):
    shown = repr(MODELS[name](2))
    channels = SHAPES[name][0]
    first = "HyperLinear(in_features=784, out" if name == "mlp" else f"HyperConv2d(in_channels={channels}, out"
    assert f"(0): {first}_" in shown and "num_hyper=2" in shown
    assert "(classifier): HyperLinear(in_features=" in shown
