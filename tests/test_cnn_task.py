import copy
import math

import pytest
import torch
import torch.nn.functional as F
from cnn_runs import MLP_NAMES, layers_of, load_into, plain, same, tuned
from torch import nn
from torch.testing import assert_close

import cnn.task
from cnn.hyperparameters import CUTOUT, TABLE, names_of
from cnn.models import MLP, SmallCNN
from cnn.task import ImageClassification, augmented, normalized, scaled, unnormalized, whole
from stn.datasets.images import CIFAR10_NORMALIZATION, Images, ImageSets, Normalization
from stn.datasets.mnist import MNIST_NORMALIZATION
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import frozen
from stn.schedules import Constant

NAMES = names_of("small")


def numbered(count):
    """Random images with a number of their own as label."""
    return Images(torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count))


def image_sets(train=10, valid=7, test=6):
    """Labelled with classes, in no order."""
    splits = [Images(numbered(count).pixels, torch.randint(10, (count,))) for count in (train, valid, test)]
    return ImageSets(*splits, tuple("abcdefghij"), "")


def classification(sets=None, batch_size=4, num_hyper=0):
    return ImageClassification(SmallCNN(num_hyper).eval(), sets or image_sets(), batch_size)


def constant(**values):
    return Hyperparameters(**{name: Constant(values.get(name, 0.0)) for name in NAMES})


@pytest.fixture
def seen(monkeypatch):
    """What the loss is computed of, mini-batch by mini-batch: (images, labels, draw)."""
    batches, inputs = [], []
    forward, loss = SmallCNN.forward, ImageClassification.loss

    def seeing_images(model, *args):
        inputs.append(args)
        return forward(model, *args)

    def seeing_labels(task, prediction, batch, draw):
        images, used = inputs.pop()
        batches.append((images, batch.labels, used))
        return loss(task, prediction, batch, draw)

    monkeypatch.setattr(SmallCNN, "forward", seeing_images)
    monkeypatch.setattr(ImageClassification, "loss", seeing_labels)
    return batches


def step(task, split, draw):
    """The loss of the next mini-batch."""
    batch = task.batch(split)
    prediction = task.predict(batch, draw)
    loss = task.loss(prediction, batch, draw)
    task.carry(batch, prediction)
    return loss


# Mini-batches


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_every_image_is_read_once_a_pass_in_a_new_order(seen, split, batch_size):
    sets = ImageSets(*(Images(numbered(10).pixels, torch.arange(10)) for _ in range(3)), tuple("abcdefghij"), "")
    task = classification(sets, batch_size)
    orders = []
    for _ in range(3):
        sizes = [min(batch_size, 10 - start) for start in range(0, 10, batch_size)]
        losses = [step(task, split, constant().current()) for _ in sizes]
        assert [loss.targets for loss in losses] == sizes
        orders.append(torch.cat([labels for _, labels, _ in seen]).tolist())
        images = torch.cat([images for images, *_ in seen])
        assert torch.equal(images, normalized(scaled(getattr(sets, split).pixels[orders[-1]])))
        seen.clear()
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in [*orders, range(10)]}) == 4
    other = task.streams["valid" if split == "train" else "train"]
    assert (other.epochs, other.position) == (0, 0)


def test_position_counts_mini_batches():
    task = classification(image_sets(train=10), batch_size=4)
    for epoch in range(2):
        for number in range(3):
            assert (task.epochs, task.position) == (epoch, (number, 3))
            step(task, "train", constant().current())
    assert task.epochs == 2


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("rows", ["one", "each"])
def test_the_draw_is_cut_to_a_last_batch_that_is_smaller(seen, split, rows):
    hyper = tuned()
    task = classification(image_sets(train=7, valid=7), 4, hyper.num_tuned)
    draw = hyper.current() if rows == "one" else hyper.perturbed(4)
    for count in (4, 3, 4):
        step(task, split, draw)
        images, labels, used = seen.pop()
        assert len(images) == len(labels) == count
        assert torch.equal(used.h, draw.h[:count]) and torch.equal(used.tuned_values, draw.tuned_values[:count])


def test_seeds_give_orders():
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(classification(image_sets(train=50)).streams["train"].order.tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_a_restored_task_goes_on_where_it_was(steps):
    sets = image_sets()
    task = classification(sets)
    for _ in range(steps):
        step(task, "train", constant().current())
        step(task, "valid", constant().current())
    state, random = task.state_dict(), torch.get_rng_state()
    twin = classification(sets)
    twin.model.load_state_dict(task.model.state_dict())
    twin.load_state_dict(state)
    losses = []
    for goer in (task, twin):
        torch.set_rng_state(random)
        losses.append([step(goer, split, constant().current()).data for split in ("train", "valid") * 5])
    assert losses[0] == losses[1]
    assert (task.epochs, task.position) == (twin.epochs, twin.position)


# The parts of a step


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("training", [True, False])
def test_a_second_pass_on_a_batch_finds_all_as_the_first_did(split, training):
    hyper = tuned()
    task = classification(num_hyper=hyper.num_tuned)
    task.model.train(training)
    draw, batch = hyper.perturbed(4), task.batch(split)
    batch_before, before = copy.deepcopy((tuple(batch), (task.state_dict(), task.model.state_dict())))
    passes, random = [], torch.get_rng_state()
    for _ in range(2):
        torch.set_rng_state(random)
        prediction = task.predict(batch, draw)
        passes.append((prediction, tuple(task.loss(prediction, batch, draw))))
    assert same(*passes)
    assert same(tuple(batch), batch_before) and same((task.state_dict(), task.model.state_dict()), before)
    if training:  # the random numbers are what differs otherwise
        assert not torch.equal(task.predict(batch, draw), passes[0][0])


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_batch_moves_its_stream_on_and_nothing_else(split):
    """At the end of a pass the next one's order is drawn, too; nothing is carried from batch to batch."""
    task = classification(image_sets(train=10, valid=10), batch_size=4)
    stream, other = task.streams[split], task.streams["valid" if split == "train" else "train"]
    before, random = copy.deepcopy((task.model.state_dict(), other.state_dict())), torch.get_rng_state()
    order = stream.order.clone()
    for start in (0, 4, 8):
        assert (stream.epochs, stream.position) == (0, start) and torch.equal(torch.get_rng_state(), random)
        batch = task.batch(split)
        chosen = order[start : start + 4]
        assert torch.equal(batch.pixels, stream.tensors[0][chosen])
        assert torch.equal(batch.labels, stream.tensors[1][chosen])
        after = copy.deepcopy(task.state_dict())
        task.carry(batch, task.predict(batch, constant().current()))
        assert same(task.state_dict(), after)
    assert (stream.epochs, stream.position) == (1, 0)
    assert same((task.model.state_dict(), other.state_dict()), before)


# Losses


def test_a_steps_loss_and_accuracy_are_those_of_its_images(seen):
    task = classification()
    for split in ("train", "valid"):
        loss = step(task, split, constant().current())
        images, labels, _ = seen.pop()
        logits = load_into(plain("small"), task.model)(images)
        assert_close(loss.objective, F.cross_entropy(logits, labels))
        assert_close(loss.data, loss.objective) and not loss.data.requires_grad
        assert loss.accuracy.item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_evaluation_is_a_mean_over_all_images(monkeypatch, batch):
    monkeypatch.setattr(cnn.task, "EVALUATION_BATCH", batch)
    sets = image_sets(valid=9, test=6)
    task = classification(sets)
    twin = load_into(plain("small"), task.model)
    for split, images in (("valid", sets.valid), ("test", sets.test)):
        means, deviations = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
        x = (images.pixels - means[:, None, None]) / deviations[:, None, None]
        logits = twin(x)
        images.labels[:4] = logits.argmax(1)[:4]  # so that some are right
        right = sum(int(logits[i].argmax()) == images.labels[i].item() for i in range(len(images)))
        score = task.evaluate(split, constant(hue=0.4, cutholes=3.0, cutlength=20.0).current())
        assert score.loss == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)
        assert score.accuracy == right / len(images) > 0
    assert [stream.position for stream in task.streams.values()] == [0, 0]


# Augmentation


AUGMENTED = {
    "hue": 0.4, "contrast": 0.9, "sat": 0.9, "bright": 0.9, "indropout": 0.5, "inscale": 0.2,
    "cutlength": 20.0, "cutholes": 3.0,
}  # fmt: skip


def test_training_images_are_augmented_and_validation_images_never(seen):
    task = classification()
    task.model.train()
    draw = constant(**AUGMENTED).current()
    assert sorted(AUGMENTED) == sorted(name for name in NAMES if "dropout" not in name or name == "indropout")
    train, valid = task.streams["train"], task.streams["valid"]
    order = train.order[:4]
    step(task, "train", draw)
    assert not torch.equal(seen.pop()[0], normalized(scaled(train.tensors[0][order])))
    order, before = valid.order[:4], torch.get_rng_state()
    task.model.eval()
    step(task, "valid", draw)
    assert torch.equal(seen.pop()[0], normalized(scaled(valid.tensors[0][order])))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*AUGMENTED, "none"])
def test_each_hyperparameter_acts_by_itself(name):
    """The others at zero; and cutout needs both of its own."""
    values = {name: AUGMENTED[name]} if name in AUGMENTED else {}
    if name in CUTOUT:
        values = {**{own: TABLE[own].initial for own in CUTOUT}, **values}
    pixels = numbered(4).pixels
    same = torch.equal(augmented(pixels, constant(**values).current()), normalized(scaled(pixels)))
    assert same == (not values)


@pytest.mark.parametrize(
    ("name", "column"), [("indropout", 0.9), ("inscale", 0.25), ("cutholes", 3), ("bright", 0.9), ("hue", 0.45)]
)
def test_each_example_is_augmented_by_its_own_value(name, column):
    """All but the second example's are near zero: it alone changes by much."""
    start = {**dict.fromkeys(NAMES, 1e-6), "cutlength": 20, "cutholes": 0, name: column}
    hyper = Hyperparameters(
        **{n: Tuned(start[n], TABLE[n].range, discrete=TABLE[n].discrete, feed="unconstrained") for n in NAMES}
    )
    noise = torch.zeros(3, hyper.num_tuned)
    noise[[0, 2], hyper.columns[name]] = -40.0
    pixels = numbered(3).pixels
    change = (augmented(pixels, hyper.perturbed(3, noise)) - normalized(scaled(pixels))).abs().amax((1, 2, 3))
    assert change[1] > 0.01 and (change[[0, 2]] < 1e-3).all()


def test_holes_are_zero_after_normalization():
    """The mean colour, not black."""
    images = augmented(numbered(8).pixels, constant(cutlength=16.0, cutholes=1.0).current())
    dark = normalized(torch.zeros(1, 3, 32, 32)).max()
    assert (images == 0).any() and images.min() >= normalized(torch.zeros(1, 3, 32, 32)).min() and dark < 0


@pytest.mark.parametrize(("value", "floored"), [(0.99, 0), (1.0, 1), (4.5, 4), (24.999, 24)])
def test_what_is_replayed_is_rounded_down(value, floored, monkeypatch):
    asked = []
    monkeypatch.setattr(cnn.task, "cutout", lambda images, *rest: asked.append(rest[:2]) or images)
    augmented(numbered(2).pixels, constant(cutlength=value, cutholes=min(value, 3.5)).current())
    assert asked == [(min(floored, 3), floored)]
    assert whole(torch.tensor([value])).item() == floored


@pytest.mark.parametrize("holes", [3, 4, 9])
def test_a_fixed_number_of_holes_may_be_larger_than_a_tuned_one(holes):
    """Holes of one pixel each, some of which coincide or lie outside."""
    images = augmented(numbered(32).pixels.fill_(255), constant(cutlength=1.0, cutholes=float(holes)).current())
    assert (images == 0).all(1).sum((1, 2)).max() == holes


def test_normalization_is_as_published():
    pixels = numbered(2).pixels
    expected = torch.stack(
        [(pixels[:, c].double() - m) / d for c, (m, d) in enumerate([(125.3, 63.0), (123.0, 62.1), (113.9, 66.7)])], 1
    )
    assert_close(normalized(scaled(pixels)).double(), expected, rtol=0, atol=1e-5)
    assert scaled(pixels).max() <= 1


# Grey images


@pytest.fixture
def digits(monkeypatch):
    """A task on grey images with a narrow perceptron that drops nothing."""
    monkeypatch.setattr(MLP, "SIZES", (784, 24, 16))
    splits = [
        Images(torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (n,))) for n in (10, 7, 6)
    ]
    sets = ImageSets(*splits, tuple("0123456789"), "", MNIST_NORMALIZATION)
    return ImageClassification(MLP(0), sets, 4)


NOTHING = Hyperparameters(**dict.fromkeys(MLP_NAMES, Constant(0.0))).current()


@pytest.mark.parametrize("training", [True, False])
def test_grey_images_are_normalized_by_their_own_numbers_and_never_augmented(digits, training):
    digits.model.train(training)
    batch, random = digits.batch("train"), torch.get_rng_state()
    prediction = digits.predict(batch, NOTHING)
    assert torch.equal(torch.get_rng_state(), random)
    x = (batch.pixels.double() / 255 - 0.1307) / 0.3081
    twin = load_into(plain("mlp", (24, 16)).double(), digits.model.double())
    assert_close(prediction.double(), twin(x), rtol=1e-4, atol=1e-5)


def test_evaluation_of_grey_images(digits):
    digits.model.eval()
    images = digits.evaluation["valid"]
    logits = load_into(plain("mlp", (24, 16)), digits.model)((images.pixels / 255 - 0.1307) / 0.3081)
    score = digits.evaluate("valid", NOTHING)
    assert score.loss == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(1) == images.labels).double().mean().item())


@pytest.mark.parametrize("by", [CIFAR10_NORMALIZATION, MNIST_NORMALIZATION, Normalization((1.0, 3.0), (2.0, 0.5), 4.0)])
def test_normalization_is_by_channel_and_undone(by):
    images = torch.rand(2, len(by.mean), 5, 4)
    found = normalized(images, by)
    for channel, (mean, deviation) in enumerate(zip(by.mean, by.deviation, strict=True)):
        assert_close(found[:, channel], (images[:, channel] * by.white - mean) / deviation, rtol=1e-4, atol=1e-5)
    assert_close(unnormalized(found, by), images)


# Discrete hyperparameters


def spaces():
    hyper = tuned()
    return hyper, [hyper.columns["cutlength"], hyper.columns["cutholes"]]


def test_discrete_values_are_whole_numbers_of_their_ranges():
    hyper, columns = spaces()
    for unconstrained in (torch.linspace(-50, 50, 2001), torch.linspace(-5, 5, 20_001)):
        values = hyper.values(unconstrained[:, None].expand(-1, hyper.num_tuned))[:, columns]
        for found, count in zip(values.T, (24, 4), strict=True):
            assert set(found.tolist()) == set(map(float, range(count)))


@pytest.mark.parametrize(("name", "end"), [("cutlength", 24), ("cutholes", 4)])
def test_a_start_of_n_is_n(name, end):
    for number in range(end):
        declared = TABLE[name]
        hyper = Hyperparameters(x=Tuned(float(number), declared.range, discrete=declared.discrete))
        assert hyper.current()["x"].item() == number
        assert hyper.constrain(hyper.unconstrained).item() == pytest.approx(number + 0.5)


def test_perturbed_discrete_values_are_distributed_as_their_floor():
    """P(value ≤ n) is that of a normal λ below the λ of n + 1."""
    hyper, columns = spaces()
    count = 20_000
    draw = hyper.perturbed(count)
    for name, column, end in (("cutlength", columns[0], 24), ("cutholes", columns[1], 4)):
        values = draw[name]
        assert values.shape == (count,) and torch.equal(values, values.floor())
        centre = hyper.unconstrained[column].item()
        for number in range(end - 1):
            below = math.log((number + 1) / (end - number - 1))
            expected = 0.5 * (1 + math.erf((below - centre) / 0.5 / math.sqrt(2)))
            found = (values <= number).double().mean().item()
            assert found == pytest.approx(expected, abs=5 * math.sqrt(0.25 / count))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scales", [False, True])
def test_the_gradient_of_discrete_ones_is_through_the_response(scales):
    """In a hyperparameter step: λ moves too little to change a whole number, yet the loss follows."""
    hyper, columns = spaces()
    model = SmallCNN(hyper.num_tuned).eval()
    for layer in layers_of(model):
        if layer.num_hyper:
            nn.init.normal_(layer.gate)
    task = ImageClassification(model, image_sets(valid=4), 4)
    state, noise = task.state_dict(), torch.randn(4, hyper.num_tuned)

    def loss():
        task.load_state_dict(state)
        draw = hyper.perturbed(4, noise, differentiable=True) if scales else hyper.current()
        return step(task, "valid", draw).objective

    with frozen(model):
        wanted = [hyper.unconstrained, hyper.raw_scale] if scales else [hyper.unconstrained]
        for parameter, gradient in zip(wanted, torch.autograd.grad(loss(), wanted), strict=True):
            for column in columns:
                start, ends = parameter[column].item(), []
                for side in (1e-6, -1e-6):
                    parameter.data[column] = start + side
                    assert hyper.current()["cutlength"] == 4 and hyper.current()["cutholes"] == 1
                    ends.append(loss().item())
                parameter.data[column] = start
                assert gradient[column].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
                assert abs(gradient[column].item()) > 1e-6
    assert all(weight.grad is None for weight in model.parameters())


# The Δ-STN's experiments


def test_the_order_of_augmentation(monkeypatch):
    """Affine, jitter, normalization, cutout; each gets what the one before it has made."""
    asked = []
    for name in ("affine", "jitter", "normalized", "cutout"):

        def recording(images, *rest, name=name):
            asked.append((name, images.mean().item(), rest))
            return images + 1

        monkeypatch.setattr(cnn.task, name, recording)
    values = {"degrees": 9.0, "translation": 0.1, "zoom": 0.2, "shear": 8.0, "bright": 0.3, "contrast": 0.4, "sat": 0.5}
    values |= {"hue": 0.25, "cutholes": 2.0, "cutlength": 7.0}
    draw = Hyperparameters(**{name: Constant(value) for name, value in values.items()}).current()
    augmented(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), draw, MNIST_NORMALIZATION)
    assert asked == [
        ("affine", 0.0, (9.0, 0.1, 0.2, 8.0)),
        ("jitter", 1.0, (0.3, 0.4, 0.5, 0.25)),
        ("normalized", 2.0, (MNIST_NORMALIZATION,)),
        ("cutout", 3.0, (2.0, 7.0, 4)),
    ]


def test_grey_images_are_cut_and_moved_without_jitter():
    """By the hyperparameters that the draw has; pixels that are not normalized go from 0 to 1."""
    pixels = torch.randint(1, 256, (6, 1, 28, 28), dtype=torch.uint8)
    as_they_are = Normalization((0.0,), (1.0,))
    cut = Hyperparameters(cutholes=Constant(1.0), cutlength=Constant(6.0)).current()
    images = augmented(pixels, cut, as_they_are)
    holes = images == 0
    assert torch.equal(images[~holes], (pixels / 255)[~holes])
    assert all(9 <= count <= 36 for count in holes.sum((1, 2, 3)))
    moved = augmented(pixels, Hyperparameters(degrees=Constant(45.0)).current(), as_they_are)
    assert not torch.equal(moved, pixels / 255) and {*moved.unique().tolist()} <= {0, *(pixels / 255).unique().tolist()}


def test_an_image_is_flipped_alike_in_every_pass(seen):
    """In training alone, with probability one half."""
    sets = image_sets(train=64, valid=64)
    task = ImageClassification(SmallCNN(0).train(), sets, 64, flip=True)
    order, off = task.streams["train"].order, constant().current()
    batch = task.batch("train")
    for _ in range(2):
        task.loss(task.predict(batch, off), batch, off)
    (first, *_), (second, *_) = seen
    assert torch.equal(first, second)
    expected = normalized(scaled(sets.train.pixels[order]))
    flips = [torch.equal(image, other.flip(2)) for image, other in zip(first, expected, strict=True)]
    kept = [torch.equal(image, other) for image, other in zip(first, expected, strict=True)]
    assert all(one != other for one, other in zip(flips, kept, strict=True)) and 20 < sum(flips) < 44
    order = task.streams["valid"].order
    assert torch.equal(task.batch("valid").pixels, sets.valid.pixels[order])


def decayed(**others):
    """A narrow perceptron that responds to weight decay and a dropout rate, its task, and its hyperparameters."""
    images = Images(torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8), torch.arange(4))
    sets = ImageSets(images, images, images, tuple("abcdefghij"), "", MNIST_NORMALIZATION)
    hyper = Hyperparameters(
        wdecay=Tuned(0.25, TABLE["wdecay"].range, **others), fcdropout1=Tuned(0.1, range=(0, 1), **others)
    )
    return ImageClassification(MLP(2, width=0.005), sets, 4), hyper


@pytest.mark.usefixtures("double")
def test_weight_decay_is_of_the_weights_as_each_example_has_them():
    """Half its coefficient times their squared norms, in the mean over examples; biases are left out."""
    task, hyper = decayed(feed="unconstrained")
    task.model.train()
    draw, batch = hyper.perturbed(4), task.batch("train")
    loss = task.loss(task.predict(batch, draw), batch, draw)
    expected = torch.zeros(())
    for h, coefficient in zip(draw.h, draw["wdecay"], strict=True):
        for layer in layers_of(task.model):
            gate = (layer.gate @ h)[: len(layer.weight), None]
            expected = expected + coefficient / 2 * (layer.weight + gate * layer.response_weight).square().sum() / 4
    assert_close(loss.objective - loss.data, expected)
    parameters = [*task.model.parameters()]
    found = torch.autograd.grad(task.decay(draw), parameters, allow_unused=True)
    for own, other in zip(found, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_the_hypergradient_of_weight_decay_is_that_of_the_response():
    """The validation loss, unpenalized, through W + g(λ) ⊙ W' of every layer, by autograd of plain products."""
    task, hyper = decayed(feed="unconstrained")
    with torch.no_grad():
        for layer in layers_of(task.model):
            layer.gate.normal_()
    draw, batch = hyper.current(), task.batch("valid")
    task.model.eval()
    loss = task.loss(task.predict(batch, draw), batch, draw)
    assert torch.equal(loss.objective, loss.data)
    (found,) = torch.autograd.grad(loss.objective, hyper.unconstrained)
    rates = hyper.unconstrained.detach().clone().requires_grad_()
    x = normalized(scaled(batch.pixels), MNIST_NORMALIZATION).flatten(1).double()
    layers = layers_of(task.model)
    for number, layer in enumerate(layers):
        gate, bias_gate = (layer.gate.detach() @ rates).chunk(2)
        weight = layer.weight.detach() + gate[:, None] * layer.response_weight.detach()
        x = x @ weight.T + layer.bias.detach() + bias_gate * layer.response_bias.detach()
        x = x.relu() if number < len(layers) - 1 else x
    (expected,) = torch.autograd.grad(F.cross_entropy(x, batch.labels), rates)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert found[0] != 0


def test_a_constant_weight_decay_is_that_of_sgd():
    task, _ = decayed()
    task.model = MLP(0, width=0.005).train()
    off, on = (Hyperparameters(**own).current() for own in ({}, {"wdecay": Constant(0.5)}))
    batch = task.batch("train")
    for name, weight in task.model.named_parameters():
        without, penalized = (
            torch.autograd.grad(task.loss(task.predict(batch, draw), batch, draw).objective, weight)[0]
            for draw in (off, on)
        )
        decay = 0.5 * weight if name.endswith("weight") else 0 * weight
        assert_close(penalized, without + decay)
