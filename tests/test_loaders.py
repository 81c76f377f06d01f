"""Tasks made of loaders: what a mini-batch is taken for, passes, resuming, augmentation, evaluation."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import stn
from stn.errors import UserError
from stn.loaders import LoaderTask, inputs_and_target, moved
from stn.streams import LoaderStream

pytestmark = pytest.mark.filterwarnings("ignore:training does not read")  # which is not what these test


@pytest.fixture
def hyper():
    torch.manual_seed(0)
    return stn.Hyperparameters(rate=stn.Tuned(0.2, range=(0, 1), feed="unconstrained"))


def data(count=10, width=3):
    return TensorDataset(
        torch.arange(count * width, dtype=torch.float32).reshape(count, width), torch.arange(count) % 2
    )


def made(hyper, loader=None, **options):
    net = stn.convert(nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 2)), hyper, dropout="rate")
    loader = loader or DataLoader(data(), batch_size=4, shuffle=True)
    return LoaderTask(net, F.cross_entropy, {"train": loader, "valid": loader}, **options)


def seen(stream, count):
    return [stream.next()[0][:, 0].tolist() for _ in range(count)]


def test_passes_end_with_their_last_mini_batch():
    stream = LoaderStream("train", DataLoader(data(), batch_size=4))
    found = []
    for _ in range(7):
        batch = stream.next()
        found.append((len(batch[0]), stream.epochs, stream.steps))
    assert found == [
        *((4, 0, (1, 3)), (4, 0, (2, 3)), (2, 1, (0, 3))),
        *((4, 1, (1, 3)), (4, 1, (2, 3)), (2, 2, (0, 3)), (4, 2, (1, 3))),
    ]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_a_stream_goes_on_where_it_was(steps):
    torch.manual_seed(3)
    stream = LoaderStream("train", DataLoader(data(), batch_size=4, shuffle=True))
    seen(stream, steps)
    torch.rand(5)  # others draw random numbers too
    state, random = stream.state_dict(), torch.get_rng_state()
    expected = seen(stream, 8)
    torch.manual_seed(99)
    again = LoaderStream("train", DataLoader(data(), batch_size=4, shuffle=True))
    again.load_state_dict(state)
    torch.set_rng_state(random)
    assert again.steps == (steps % 3, 3) and seen(again, 8) == expected


def test_loaders_that_cannot_be_passes_are_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(3), 1

    with pytest.raises(UserError, match="the train loader has no length: give batches="):
        LoaderStream("train", DataLoader(Endless(), batch_size=4))
    stream = LoaderStream("train", DataLoader(Endless(), batch_size=4), batches=2)
    for _ in range(3):
        stream.next()
    assert stream.epochs == 1 and stream.steps == (1, 2)
    with pytest.raises(UserError, match="the valid loader has no mini-batch"):
        LoaderStream("valid", DataLoader(data(3), batch_size=4, drop_last=True))
    spent = LoaderStream("train", Spent())
    with pytest.raises(UserError, match="ended after 2 mini-batches, not 3: give one that can be gone through again"):
        seen(spent, 3)
    with pytest.raises(ValueError, match="the loader has 3"):
        LoaderStream("train", DataLoader(data(), 4)).load_state_dict({"epochs": 0, "done": 3, "began": None})


class Spent:
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([data()[:4], data()[4:8]])


def test_what_a_mini_batch_is_taken_for():
    x, y, z = torch.zeros(2, 3), torch.zeros(2), torch.ones(2)
    assert inputs_and_target((x, y)) == ((x,), {}, y)
    assert inputs_and_target([x, z, y]) == ([x, z], {}, y)
    assert inputs_and_target({"ids": x, "mask": z, "labels": y}) == ((), {"ids": x, "mask": z}, y)
    with pytest.raises(TypeError, match="has ids, mask, none of target, "):
        inputs_and_target({"ids": x, "mask": z})
    with pytest.raises(TypeError, match="a mini-batch is a Tensor, neither"):
        inputs_and_target(x)


def test_prediction_and_loss_are_the_networks_own(hyper):
    task = made(hyper, accuracy=lambda output, target: (output.argmax(1) == target).float().mean())
    assert task.batch_size == 4
    task.model.eval()
    for _ in range(3):  # the last one has two examples
        batch = task.batch("train")
        draw = hyper.perturbed(task.batch_size)
        loss = task.loss(task.predict(batch, draw), batch, draw)
        x, y = batch.content
        output = task.model(x, draw=draw.first(len(x)))
        assert_close(loss.data, F.cross_entropy(output, y))
        assert loss.objective is not loss.data and loss.targets == len(x)
        assert_close(loss.accuracy, (output.argmax(1) == y).float().mean())


def test_evaluation_is_the_mean_over_examples(hyper):
    task = made(hyper)
    score = stn.bilevel.evaluate(task, hyper, "valid")
    with torch.no_grad():
        expected = F.cross_entropy(task.model(data()[:][0], draw=hyper.current()), data()[:][1])
    assert score.loss == pytest.approx(expected.item(), rel=1e-5) and score.accuracy is None


def test_augmentation_and_weight_decay_act_in_training_alone(hyper):
    given = []

    def augment(batch, draw):
        given.append(draw)
        return batch[0] + 1, 1 - batch[1]

    decay = stn.WeightDecay(made(hyper).model, "rate")
    task = made(hyper, augment=augment, weight_decay=lambda draw: decay(draw))
    batch, draw = task.batch("train"), hyper.perturbed(4)
    task.model.eval()
    plain = task.loss(task.predict(batch, draw), batch, draw)
    assert not given
    assert_close(plain.objective, plain.data)
    task.model.train()
    prediction = task.predict(batch, draw)
    loss = task.loss(prediction, batch, draw)
    assert len(given[0].h) == 4 and torch.equal(prediction.target, 1 - batch.content[1])
    assert_close(loss.objective - loss.data, decay(draw))


def test_dictionaries_and_a_batch_elsewhere(hyper):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 2)

        def forward(self, *, words, scale=1.0):
            return scale * self.out(words).mean(0)

    loader = [{"words": torch.randn(5, 4, 3), "label": torch.tensor([0, 1, 1, 0])}] * 2
    net = stn.convert(Tagger(), hyper, batch_axis=1)
    task = LoaderTask(net, F.cross_entropy, {"train": loader, "valid": loader}, batch_axis=1)
    assert task.batch_size == 4
    draw, batch = hyper.perturbed(4), task.batch("train")
    assert task.loss(task.predict(batch, draw), batch, draw).targets == 4


def test_larger_mini_batches_than_the_first_are_refused(hyper):
    whole = data()[:]
    loader = [tuple(part[:2] for part in whole), tuple(part[:5] for part in whole)]
    task = made(hyper, loader)
    task.batch("train")
    with pytest.raises(UserError, match="a mini-batch has 5 examples along axis 0, more than the 2 of its"):
        task.predict(task.batch("train"), hyper.perturbed(task.batch_size))


def test_making_a_task_draws_no_random_numbers(hyper):
    loader = DataLoader(data(), sampler=torch.utils.data.BatchSampler(range(10), 4, drop_last=False), batch_size=None)
    before = torch.get_rng_state()
    stream = LoaderStream("train", loader)
    assert torch.equal(torch.get_rng_state(), before)
    task = made(hyper, loader)
    assert task.batch_size == 4 and stream.length == 3


@pytest.mark.parametrize("steps", [0, 3, 4, 7, 9])
def test_a_stream_of_given_length_goes_on_from_pass_to_pass(steps):
    torch.manual_seed(3)
    stream = LoaderStream("train", DataLoader(data(24), batch_size=4, shuffle=True), batches=4)
    first = seen(stream, 6)
    assert len({number for batch in first for number in batch}) == 24 and stream.epochs == 1
    seen(stream, steps)
    state, random = stream.state_dict(), torch.get_rng_state()
    expected = seen(stream, 9)
    again = LoaderStream("train", DataLoader(data(24), batch_size=4, shuffle=True), batches=4)
    again.load_state_dict(state)
    torch.set_rng_state(random)
    assert seen(again, 9) == expected and again.epochs == stream.epochs


def test_a_loaders_own_generator_goes_on():
    def made_stream():
        own = torch.Generator().manual_seed(7)
        return LoaderStream("train", DataLoader(data(), batch_size=4, shuffle=True, generator=own))

    stream = made_stream()
    seen(stream, 4)
    state = stream.state_dict()
    expected = seen(stream, 6)
    again = made_stream()
    again.load_state_dict(state)
    assert seen(again, 6) == expected


def test_evaluation_of_an_endless_loader_takes_as_many_mini_batches_as_told(hyper):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(3), 1

    loader = DataLoader(Endless(), batch_size=4)
    net = stn.convert(nn.Linear(3, 2), hyper)
    task = LoaderTask(
        *(net, F.cross_entropy, {"train": loader, "valid": loader}), batches={"train": 2, "valid": 3}, likelihood=True
    )
    assert task.evaluate("valid", hyper.current()).loss > 0


def test_draws_are_as_large_as_the_larger_mini_batches_of_training_and_validation(hyper):
    net = stn.convert(nn.Linear(3, 2), hyper)
    loaders = {"train": DataLoader(data(), 2), "valid": DataLoader(data(), 5), "test": DataLoader(data(), 9)}
    assert LoaderTask(net, F.cross_entropy, loaders).batch_size == 5


def test_losses_are_not_rounded_to_autocasts_type(hyper):
    net = stn.convert(nn.Linear(3, 2), hyper)
    loader = DataLoader(data(), 10)
    kinds = []

    def loss(output, target):
        kinds.append(output.dtype)
        return -output.log_softmax(1).gather(1, target[:, None]).mean()

    task = LoaderTask(net, loss, {"train": loader, "valid": loader}, autocast=torch.bfloat16)
    batch = task.batch("train")
    value = task.loss(task.predict(batch, hyper.current()), batch, hyper.current()).data
    assert kinds == [torch.float32] and value.dtype == torch.float32


def test_mini_batches_keep_their_kinds_on_the_way_to_the_device():
    class Pair(NamedTuple):
        x: torch.Tensor
        y: list

    class Read(dict):
        """A dictionary that is read as attributes too, as Hugging Face's."""

        def __getattr__(self, name):
            return self[name]

        def update(self, *_):
            raise NotImplementedError

    batch = Pair(torch.ones(2), [Read(a=torch.zeros(1)), "word"])
    found = moved(batch, torch.device("meta"))
    assert type(found) is Pair and type(found.y[0]) is Read
    assert found.x.is_meta and found.y[0].a.is_meta and found.y[1] == "word" and not batch.y[0].a.is_meta
