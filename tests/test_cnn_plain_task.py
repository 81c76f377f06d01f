"""Plain networks as a task: what they are given, what they return, and that a step can be taken twice."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from cnn_runs import same
from torch import nn
from torch.testing import assert_close

import cnn.datasets
import cnn.task
from cnn.augmentation import cropped, flipped
from cnn.models import PLAIN
from cnn.task import PlainClassification, normalized, plain_network, scaled
from stn.datasets import builtin_images, images, mnist
from stn.datasets.images import CIFAR10_NORMALIZATION, Images, ImageSets, Normalization
from stn.datasets.mnist import MNIST_NORMALIZATION
from stn.hyperparameters import Hyperparameters

NOTHING = Hyperparameters().current()
COLOUR, GREY = (3, 32, 32), (1, 28, 28)
TINY = {
    "lenet": {},
    "mlp": {"hidden": (8, 6)},
    "vgg": {"width": 4},
    "resnet": {"width": 4},
    "wide_resnet": {"depth": 10, "width": 1},
    "densenet": {"depth": 10, "growth": 4},
}
any_network = pytest.mark.parametrize("name", PLAIN)
PLACES = [*itertools.product(range(9), repeat=2)]
OTHER = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def image_sets(shape=COLOUR, classes=10, counts=(10, 7, 6), normalization=None):
    splits = [
        Images(torch.randint(256, (count, *shape), dtype=torch.uint8), torch.randint(classes, (count,)))
        for count in counts
    ]
    own = CIFAR10_NORMALIZATION if shape == COLOUR else MNIST_NORMALIZATION
    return ImageSets(*splits, tuple(map(str, range(classes))), "", normalization or own)


def classification(name="lenet", shape=COLOUR, dtype=torch.float32, **options):
    torch.manual_seed(3)
    sets = image_sets(shape, **options)
    return PlainClassification(plain_network(name, sets, **TINY[name]), sets, 4, dtype=dtype)


@pytest.fixture
def given(monkeypatch):
    """What the networks are given."""
    inputs = []
    forward = PLAIN["lenet"].forward
    monkeypatch.setattr(PLAIN["lenet"], "forward", lambda model, x: inputs.append(x) or forward(model, x))
    return inputs


# Networks


@any_network
@pytest.mark.parametrize(("shape", "classes"), [(COLOUR, 10), (COLOUR, 100), (GREY, 10)])
def test_networks_are_made_for_the_classes_and_shape_of_the_images(name, shape, classes):
    task = classification(name, shape, classes=classes)
    assert type(task.model) is PLAIN[name]
    assert task.model.arguments.items() >= {"classes": classes, "shape": shape, **TINY[name]}.items()
    assert task.predict(task.batch("train"), NOTHING).shape == (4, classes)


# What they are given


@pytest.mark.parametrize(
    ("shape", "by"), [(COLOUR, CIFAR10_NORMALIZATION), (COLOUR, OTHER), (GREY, MNIST_NORMALIZATION)]
)
def test_images_are_normalized_as_the_sets_say(given, shape, by):
    task = classification(shape=shape, normalization=by)
    task.model.eval()
    batch, random = task.batch("train"), torch.get_rng_state()
    task.predict(batch, NOTHING)
    (found,) = given
    for channel, (mean, deviation) in enumerate(zip(by.mean, by.deviation, strict=True)):
        expected = (batch.pixels[:, channel].double() / 255 * by.white - mean) / deviation
        assert_close(found[:, channel].double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), random)


def test_training_images_in_colour_are_cropped_from_a_black_margin_and_flipped(given):
    """Each of a number of its own, in one of the 81 places, either way round."""
    task = classification(counts=(64, 7, 6), normalization=OTHER)
    task.model.train()
    pixels = torch.randint(1, 256, (64, *COLOUR), dtype=torch.uint8)
    task.predict(cnn.task.Batch(pixels, torch.zeros(64, dtype=torch.int64)), NOTHING)
    (found,), margin = given, F.pad(normalized(scaled(pixels), OTHER), (4,) * 4)
    black = normalized(torch.zeros(1, *COLOUR), OTHER)
    margin = torch.where(F.pad(torch.ones(1, 1, 32, 32), (4,) * 4) == 1, margin, black[:, :, :1, :1])
    seen = set()
    for image, own in zip(found, margin, strict=True):
        windows = {(row, column): own[:, row : row + 32, column : column + 32] for row, column in PLACES}
        fits = [
            (*place, turned)
            for place, window in windows.items()
            for turned in (False, True)
            if torch.equal(window.flip(2) if turned else window, image)
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) > 30 and {turned for *_, turned in seen} == {False, True}


@pytest.mark.parametrize(("shape", "training"), [(GREY, True), (GREY, False), (COLOUR, False)])
def test_grey_images_and_those_that_validate_are_not_augmented(given, shape, training):
    task = classification(shape=shape)
    task.model.train(training)
    batch, random = task.batch("valid"), torch.get_rng_state()
    task.predict(batch, NOTHING)
    assert torch.equal(given[0], normalized(scaled(batch.pixels), task.normalization))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("augment", [cropped, flipped])
def test_a_seed_gives_one_augmentation(augment):
    pixels, found = torch.randint(256, (16, *COLOUR), dtype=torch.uint8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augment(pixels))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].dtype == torch.uint8 and found[0].is_contiguous()


@pytest.mark.parametrize("plain", [False, True])
def test_normalization_of_the_plain_networks_is_as_published(monkeypatch, plain):
    colour, grey = (Images(torch.zeros(4, *shape, dtype=torch.uint8), torch.arange(4)) for shape in (COLOUR, GREY))
    monkeypatch.setattr(images, "load_cifar10", lambda _: (colour, colour))
    monkeypatch.setattr(mnist, "load_mnist", lambda _: (grey, grey))
    monkeypatch.setattr(builtin_images, "builtin_images", lambda: (colour, colour))
    own = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)) if plain else CIFAR10_NORMALIZATION
    for name, data, expected in (
        ("cifar10", ".", own),
        ("cifar10", "builtin", CIFAR10_NORMALIZATION),
        ("mnist", ".", Normalization((0.1307,), (0.3081,))),
    ):
        assert cnn.datasets.load(name, data, 0.5, plain=plain).normalization == expected


# A step


@any_network
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_second_pass_on_a_batch_finds_all_as_the_first_did(name, training, dtype):
    task = classification(name, dtype=dtype)
    task.model.train(training)
    batch = task.batch("train")
    before = copy.deepcopy((tuple(batch), task.state_dict()))
    passes, random = [], torch.get_rng_state()
    for _ in range(2):
        torch.set_rng_state(random)
        prediction = task.predict(batch, NOTHING)
        passes.append((prediction, tuple(task.loss(prediction, batch, NOTHING))))
    assert same(*passes) and same((tuple(batch), task.state_dict()), before)
    assert torch.equal(task.predict(batch, NOTHING), prediction) == (not training)


@any_network
def test_losses_and_evaluation_are_those_of_the_network(name, monkeypatch):
    monkeypatch.setattr(cnn.task, "EVALUATION_BATCH", 4)
    task = classification(name, classes=100)
    task.model.eval()
    batch = task.batch("train")
    prediction = task.predict(batch, NOTHING)
    logits = task.model((batch.pixels / 255 - _column(CIFAR10_NORMALIZATION.mean)) / _column((63.0, 62.1, 66.7)))
    assert_close(prediction, logits)
    loss = task.loss(prediction, batch, NOTHING)
    assert_close(loss.objective, F.cross_entropy(logits, batch.labels))
    for split in ("valid", "test"):
        held = task.evaluation[split]
        logits = task.model(normalized(scaled(held.pixels)))
        held.labels[:2] = logits.argmax(1)[:2]  # so that some are right
        score = task.evaluate(split, NOTHING)
        assert score.loss == pytest.approx(F.cross_entropy(logits, held.labels).item(), rel=1e-5)
        assert score.accuracy == pytest.approx((logits.argmax(1) == held.labels).double().mean().item())


def _column(channels):
    return torch.tensor(channels)[:, None, None] / 255


# Types of numbers


@pytest.mark.usefixtures("double")
@any_network
def test_a_network_in_float64_stays_there(name):
    task = classification(name, dtype=torch.float64)
    assert task.predict(task.batch("train"), NOTHING).dtype == torch.float64


@any_network
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_close_to_float32(name, training):
    """In products alone: weights, logits and loss are float32."""
    exact, rounded = classification(name), classification(name, dtype=torch.bfloat16)
    products = []
    for layer in rounded.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda *args: products.append(args[2].dtype))
    found = []
    for task in (exact, rounded):
        task.model.train(training)
        torch.manual_seed(5)
        batch = task.batch("train")
        found.append(task.predict(batch, NOTHING))
        weights = [*task.model.parameters()]
        gradients = torch.autograd.grad(task.loss(found[-1], batch, NOTHING).objective, weights, create_graph=True)
        products_of_hessian = torch.autograd.grad(gradients, weights, [torch.ones_like(weight) for weight in weights])
        assert {part.dtype for part in (*weights, *gradients, *products_of_hessian, found[-1])} == {torch.float32}
        assert all(part.isfinite().all() for part in products_of_hessian)
    logits, expected = found[1], found[0]
    assert {*products} == {torch.bfloat16}
    assert 0 < (logits - expected).norm() < 0.05 * expected.norm()
    assert rounded.evaluate("test", NOTHING).loss == pytest.approx(exact.evaluate("test", NOTHING).loss, rel=0.02)
