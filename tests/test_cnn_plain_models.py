"""The plain image classifiers, beside networks written by hand, closed formulas and the papers' figures."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from cnn.models import PLAIN, VGG, DenseNet, LeNet, Perceptron, ResNet, WideResNet
from examples.resnet import resnet18

COLOUR, GREY = (3, 32, 32), (1, 28, 28)
TINY = {
    "lenet": {},
    "mlp": {"hidden": (8, 6)},
    "vgg": {"width": 2},
    "resnet": {"width": 2},
    "wide_resnet": {"depth": 10, "width": 1},
    "densenet": {"depth": 10, "growth": 2},
}
any_network = pytest.mark.parametrize("name", PLAIN)


def tiny(name, classes=10, shape=COLOUR):
    torch.manual_seed(1)
    return PLAIN[name](classes, shape, **TINY[name])


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@torch.no_grad()
def filled(twin, network):
    """The twin, with the network's numbers in the order in which the layers come."""
    theirs, ours = ([*module.parameters(), *module.buffers()] for module in (twin, network))
    for one, other in zip(theirs, ours, strict=True):
        assert one.shape == other.shape
        one.copy_(other)
    return twin


@torch.no_grad()
def with_statistics(network, shape=COLOUR):
    """After some mini-batches, so that what batch normalization keeps is not what it starts with."""
    for _ in range(3):
        network.train()(2 * torch.randn(4, *shape) + 1)
    for weight in network.parameters():
        weight += 0.1 * torch.randn_like(weight)
    return network


# Shapes


@any_network
@pytest.mark.parametrize(("classes", "shape"), [(10, COLOUR), (100, COLOUR), (10, GREY)])
def test_logits_of_each_data_set(name, classes, shape):
    model = tiny(name, classes, shape)
    for size in (1, 3):
        logits = model(torch.randn(size, *shape))
        assert logits.shape == (size, classes) and logits.isfinite().all()


@any_network
@pytest.mark.parametrize("shape", [COLOUR, GREY])
def test_an_example_alone_is_what_it_is_among_others(name, shape):
    model, images = tiny(name, shape=shape).eval(), torch.randn(3, *shape)
    for image, logits in zip(images, model(images), strict=True):
        assert_close(model(image[None])[0], logits)


@any_network
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 28, 28), (2, 3, 31, 32), (2, 32, 32, 3), (3072,), ()])
def test_images_of_another_shape_are_named(name, shape):
    model = tiny(name)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} takes images \(B, 3, 32, 32\): found \("):
        model(torch.zeros(shape))


@any_network
def test_pixels_as_they_are_stored_are_named(name):
    with pytest.raises(TypeError, match=r"images .*torch\.uint8"):
        tiny(name)(torch.zeros(2, *COLOUR, dtype=torch.uint8))


@any_network
@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 28, 32), (32, 32)])
def test_images_of_another_size_are_refused_when_the_network_is_made(name, shape):
    with pytest.raises(ValueError, match=r"takes a shape \(channels, 28, 28\) or \(channels, 32, 32\): found \("):
        tiny(name, shape=shape)


@pytest.mark.parametrize("network", [WideResNet, DenseNet])
@pytest.mark.parametrize("depth", [4, 27, 29])
def test_depths_that_are_no_whole_number_of_blocks_are_named(network, depth):
    with pytest.raises(ValueError, match=rf"depth of 6 n \+ 4, such as \d+: found {depth}$"):
        network(depth=depth)


@any_network
def test_networks_are_made_again_from_their_arguments(name):
    model = tiny(name, 100, GREY)
    again = type(model)(**model.arguments)
    again.load_state_dict(model.state_dict())
    assert model.arguments.items() >= {"classes": 100, "shape": GREY, **TINY[name]}.items()


# Numbers of parameters


def normalized_convolution(before, after, size=3):
    """Without a bias, and with batch normalization's scale and shift."""
    return size**2 * before * after + 2 * after


def residual_network(classes):
    weights, channels = normalized_convolution(3, 64), 64
    for width in (64, 128, 256, 512):
        weights += normalized_convolution(channels, width) + 3 * normalized_convolution(width, width)
        weights += normalized_convolution(channels, width, 1) if channels != width else 0
        channels = width
    return weights + (512 + 1) * classes


def wide_network(classes, depth, width):
    weights, channels = 27 * 16, 16
    for after in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            weights += 2 * channels + 9 * channels * after + 2 * after + 9 * after * after
            weights += channels * after if channels != after else 0
            channels = after
    return weights + 2 * channels + (channels + 1) * classes


def dense_network(classes, depth, growth):
    channels = 2 * growth
    weights = 27 * channels
    for block in range(3):
        for _ in range((depth - 4) // 6):
            weights += 2 * channels + 4 * channels * growth + 8 * growth + 36 * growth**2
            channels += growth
        if block < 2:
            weights += 2 * channels + channels * (channels // 2)
            channels //= 2
    return weights + 2 * channels + (channels + 1) * classes


@pytest.mark.parametrize("classes", [10, 100])
def test_numbers_of_parameters_are_those_of_closed_formulas(classes):
    vgg = sum(normalized_convolution(*sizes) for sizes in pairwise((3, 64, 128, 256, 256, 512, 512, 512, 512)))
    lenet = 6 * (3 * 25 + 1) + 16 * (6 * 25 + 1) + 120 * (400 + 1) + 84 * (120 + 1) + classes * (84 + 1)
    perceptron = 512 * (3072 + 1) + 256 * (512 + 1) + classes * (256 + 1)
    with torch.device("meta"):
        assert count(LeNet(classes)) == lenet
        assert count(Perceptron(classes)) == perceptron
        assert count(VGG(classes)) == vgg + (512 + 1) * classes
        assert count(ResNet(classes)) == residual_network(classes)
        assert count(WideResNet(classes)) == wide_network(classes, 28, 10)
        assert count(WideResNet(classes, depth=40, width=4)) == wide_network(classes, 40, 4)
        assert count(DenseNet(classes)) == dense_network(classes, 100, 12)


@pytest.mark.parametrize(
    ("network", "arguments", "millions", "digits"),
    [
        (ResNet, {}, 11.17, 2),
        (WideResNet, {}, 36.5, 1),  # Zagoruyko & Komodakis 2016, table 4
        (WideResNet, {"depth": 40, "width": 4}, 8.9, 1),
        (WideResNet, {"depth": 16, "width": 8}, 11.0, 1),
        (DenseNet, {}, 0.8, 1),  # Huang et al. 2017, table 2
        (DenseNet, {"depth": 250, "growth": 24}, 15.3, 1),
        (DenseNet, {"depth": 190, "growth": 40}, 25.6, 1),
        (LeNet, {"shape": GREY}, 0.061706, 6),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(network, arguments, millions, digits):
    with torch.device("meta"):
        assert round(count(network(**arguments)) / 1e6, digits) == millions


@any_network
def test_default_networks_take_each_data_set(name):
    with torch.device("meta"):
        for classes, shape in ((10, COLOUR), (100, COLOUR), (10, GREY)):
            assert PLAIN[name](classes, shape)(torch.empty(2, *shape)).shape == (2, classes)


# Values


def lenet_by_hand(channels, padding):
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def perceptron_by_hand(features):
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    )


def vgg_by_hand(channels):
    def layer(before, after):
        return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()

    def pool():
        return nn.MaxPool2d(2, ceil_mode=True)

    return nn.Sequential(
        *(*layer(channels, 2), pool(), *layer(2, 4), pool(), *layer(4, 8), *layer(8, 8), pool()),
        *(*layer(8, 16), *layer(16, 16), pool(), *layer(16, 16), *layer(16, 16), pool()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("network", "twin", "shape"),
    [
        (LeNet(10, GREY), lenet_by_hand(1, 2), GREY),
        (LeNet(), lenet_by_hand(3, 0), COLOUR),
        (Perceptron(10, GREY), perceptron_by_hand(784), GREY),
        (VGG(width=2), vgg_by_hand(3), COLOUR),
        (VGG(10, GREY, width=2), vgg_by_hand(1), GREY),
        (ResNet(width=2), resnet18(2), COLOUR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_same_layers_by_hand(network, twin, shape, training):
    with_statistics(network, shape)
    filled(twin, network).train(training)
    images = torch.randn(4, *shape)
    assert_close(network.train(training)(images), twin(images))


def layers_of(network):
    """Yields the convolutions, batch normalizations and the linear layer as functions, in their order."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            size, stride = layer.kernel_size[0], layer.stride[0]
            yield lambda x, w=layer.weight, size=size, stride=stride: F.conv2d(x, w, None, stride, size // 2)
        elif isinstance(layer, nn.BatchNorm2d):
            kept = layer.running_mean, layer.running_var, layer.weight, layer.bias
            yield lambda x, kept=kept: F.batch_norm(x, *kept).relu()
        elif isinstance(layer, nn.Linear):
            yield layer


def test_a_wide_network_by_hand():
    """WRN-16-2: each stage's first block projects its activated input, the second one keeps it."""
    network = with_statistics(WideResNet(depth=16, width=2)).eval()
    images, layer = torch.randn(2, *COLOUR), layers_of(network)
    x = next(layer)(images)
    for _ in range(3):
        for block in range(2):
            activate, first, between, second = (next(layer) for _ in range(4))
            active = activate(x)
            shortcut = x if block else next(layer)(active)
            x = shortcut + second(between(first(active)))
    x = next(layer)(x).mean((2, 3))
    assert x.shape == (2, 128)
    assert_close(network(images), next(layer)(x))
    assert [*layer] == []


def test_a_dense_network_by_hand():
    network = with_statistics(DenseNet(depth=16, growth=3)).eval()
    images, layer = torch.randn(2, *COLOUR), layers_of(network)
    x = next(layer)(images)
    for block in range(3):
        if block:
            activate, narrow = next(layer), next(layer)
            x = F.avg_pool2d(narrow(activate(x)), 2)
        for _ in range(2):
            first, narrow, between, last = (next(layer) for _ in range(4))
            x = torch.cat((x, last(between(narrow(first(x))))), 1)
    x = next(layer)(x).mean((2, 3))
    assert_close(network(images), next(layer)(x))
    assert [*layer] == []


# Second derivatives


@pytest.mark.usefixtures("double")
@any_network
@pytest.mark.parametrize("shape", [COLOUR, GREY])
def test_double_backward_is_the_finite_difference_of_gradients(name, shape):
    """The Hessian of a training loss times a direction, with the mini-batch's own statistics."""
    model = tiny(name, shape=shape).train()
    images, labels = torch.randn(3, *shape), torch.tensor([1, 7, 4])
    weights = [*model.parameters()]
    direction = [torch.randn_like(weight) for weight in weights]

    def gradient(graph=False):
        return torch.autograd.grad(F.cross_entropy(model(images), labels), weights, create_graph=graph)

    product = torch.autograd.grad(gradient(graph=True), weights, direction)
    start, ends, step = [weight.detach().clone() for weight in weights], [], 1e-7
    for side in (step, -step):
        for weight, origin, way in zip(weights, start, direction, strict=True):
            weight.data = origin + side * way
        ends.append(gradient())
    found = torch.cat([part.flatten() for part in product])
    expected = torch.cat([((one - other) / (2 * step)).flatten() for one, other in zip(*ends, strict=True)])
    assert expected.norm() > 1e-2
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.norm().item())
