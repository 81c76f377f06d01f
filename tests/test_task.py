import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm import task as lstm_task
from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.text import Corpus
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.schedules import Constant

TYPES, EMSIZE, NHID = 6, 5, 4
HYPER = Hyperparameters(**dict.fromkeys(TABLE, Constant(0.0)))


def corpus(train=60, valid=70, test=80):
    splits = {"train": train, "valid": valid, "test": test}
    texts = {split: torch.randint(TYPES, (tokens,)) for split, tokens in splits.items()}
    return Corpus(**texts, vocabulary=tuple("abcdef"), checksum="")


def language_model(texts, batch_size=3, bptt=4):
    return LanguageModeling(AWDLSTM(TYPES, EMSIZE, NHID, 2, num_hyper=0), texts, batch_size, bptt)


def columns(tokens, batch_size):
    rows = len(tokens) // batch_size
    return torch.stack([tokens[i * rows : (i + 1) * rows] for i in range(batch_size)], dim=1)


def plain_loss(model, data):
    """Losses (rows - 1, B) of one pass over a text (rows, B) under PyTorch's own layers."""
    embedding = nn.Embedding(TYPES, EMSIZE)
    layers = [nn.LSTM(EMSIZE, NHID), nn.LSTM(NHID, EMSIZE)]
    embedding.load_state_dict(model.embedding.state_dict())
    outputs = embedding(data[:-1])
    for layer, own in zip(layers, model.layers, strict=True):
        layer.load_state_dict(own.state_dict())
        outputs, _ = layer(outputs)
    logits = F.linear(outputs, embedding.weight, model.decoder.bias)
    return F.cross_entropy(logits.movedim(-1, 1), data[1:], reduction="none")


def step(task, split, draw):
    """The loss of the next mini-batch; the state is carried on."""
    batch = task.batch(split)
    prediction = task.predict(batch, draw)
    loss = task.loss(prediction, batch, draw)
    task.carry(batch, prediction)
    return loss


def next_loss(task, split):
    return step(task, split, HYPER.current())


def bitwise(one, other):
    """Whether nested tensors and numbers are equal, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(bitwise(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(bitwise, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# The loss of a step


def test_training_adds_penalties_with_the_draws_coefficients():
    hyper = Hyperparameters(
        **{
            **dict.fromkeys(TABLE, Constant(0.0)),
            "alpha": Tuned(0.5, range=(0, math.inf), per_example=False, feed="unconstrained"),
            "beta": Tuned(0.5, range=(0, math.inf), per_example=False, feed="unconstrained"),
        }
    )
    task = language_model(corpus())
    dropped, raw = torch.full((4, 3, EMSIZE), 2.0), torch.arange(0.0, 12.0, 3.0)[:, None, None].expand(4, 3, EMSIZE)
    decoder = task.model.decoder
    task.model = SimpleNamespace(decoder=decoder, encode=lambda *_: (dropped, raw, []), training=True)
    draw = hyper.perturbed(3)
    loss = step(task, "train", draw)
    expected = F.cross_entropy(decoder(dropped).flatten(0, 1), task.streams["train"].data[1:5].flatten())
    assert loss.data.item() == pytest.approx(expected.item(), rel=1e-5)
    penalties = draw["alpha"] * 2.0**2 + draw["beta"] * 3.0**2
    assert penalties > 1
    assert (loss.objective - loss.data).item() == pytest.approx(penalties.item(), rel=1e-4)
    task.model.training = False  # as in a hyperparameter step
    loss = step(task, "valid", draw)
    assert loss.objective is loss.data
    task.val_penalties = True
    loss = step(task, "valid", draw)
    assert (loss.objective - loss.data).item() == pytest.approx(penalties.item(), rel=1e-4)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_loss_is_the_mean_over_its_targets(split):
    task = language_model(corpus())
    data = task.streams[split].data
    loss = next_loss(task, split)
    assert loss.targets == 4 * 3
    torch.testing.assert_close(loss.data, plain_loss(task.model, data)[:4].mean())


# Streams


@pytest.mark.parametrize("split", ["train", "valid"])
def test_state_is_carried_within_an_epoch_and_reset_at_the_next(split):
    texts = corpus(train=3 * 11, valid=3 * 11)  # 10 targets a column: chunks of 4, 4 and 2 steps
    task = language_model(texts)
    expected = plain_loss(task.model, columns(getattr(texts, split), 3))
    for _ in range(2):
        for start, end in ((0, 4), (4, 8), (8, 10)):
            loss = next_loss(task, split)
            assert loss.targets == 3 * (end - start)
            torch.testing.assert_close(loss.data, expected[start:end].mean())


def test_the_end_of_one_stream_leaves_the_other_where_it_is():
    texts = corpus(train=3 * 5, valid=3 * 9)  # one chunk, two chunks
    task = language_model(texts)
    valid = plain_loss(task.model, columns(texts.valid, 3))
    next_loss(task, "valid")
    next_loss(task, "train")
    torch.testing.assert_close(next_loss(task, "valid").data, valid[4:].mean())
    assert (task.epochs, task.streams["train"].position, task.streams["valid"].position) == (1, 0, 0)


@pytest.mark.parametrize(
    ("rows", "lengths"), [(9, [4, 4]), (10, [4, 4, 1]), (12, [4, 4, 3]), (13, [4, 4, 4]), (2, [1]), (4, [3])]
)
def test_every_row_but_the_first_is_a_target_once_an_epoch(rows, lengths):
    task = language_model(corpus(train=3 * rows + 2))
    for epoch in range(2):
        for step, length in enumerate(lengths):
            assert (task.epochs, task.position) == (epoch, (step, len(lengths)))
            assert next_loss(task, "train").targets == 3 * length
    assert (task.epochs, task.position) == (2, (0, len(lengths)))


def test_no_gradient_flows_back_through_the_carried_state():
    task = language_model(corpus())
    next_loss(task, "train")
    assert not any(part.requires_grad for layer in task.streams["train"].state for part in layer)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_restored_task_goes_on_where_it_was(steps):
    task = language_model(texts := corpus())
    for _ in range(steps):
        next_loss(task, "train")
        next_loss(task, "valid")
    twin = language_model(texts)
    twin.model.load_state_dict(task.model.state_dict())
    twin.load_state_dict(task.state_dict())
    for split in ("train", "valid") * 5:
        assert torch.equal(next_loss(task, split).data, next_loss(twin, split).data)
    assert task.epochs == twin.epochs


# The parts of a step


def dropping(steps):
    """A task with dropout and tuned responses, after some steps on chunks of 4, 4 and 2 steps; and its draw."""
    hyper = Hyperparameters(
        **{
            name: Tuned(0.4, declared.range, per_example=declared.per_example, feed="unconstrained")
            for name, declared in TABLE.items()
        }
    )
    model = AWDLSTM(TYPES, EMSIZE, NHID, 2, hyper.num_tuned)
    task = LanguageModeling(model, corpus(train=3 * 11, valid=3 * 11), 3, 4)
    draw = hyper.perturbed(3)
    for _ in range(steps):
        step(task, "train", draw)
        step(task, "valid", draw)
    return task, draw


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_a_second_pass_on_a_batch_finds_all_as_the_first_did(split, steps, training):
    task, draw = dropping(steps=steps)
    task.model.train(training)
    batch = task.batch(split)
    batch_before, before = copy.deepcopy((batch, (task.state_dict(), task.model.state_dict())))
    passes, random = [], torch.get_rng_state()
    for _ in range(2):
        torch.set_rng_state(random)
        prediction = task.predict(batch, draw)
        passes.append((prediction, task.loss(prediction, batch, draw)))
    assert bitwise(*passes)
    assert bitwise(batch, batch_before) and bitwise((task.state_dict(), task.model.state_dict()), before)
    if training:  # the random numbers are what differs otherwise
        assert not bitwise(task.predict(batch, draw).dropped, passes[0][0].dropped)
    task.carry(batch, passes[0][0])
    torch.set_rng_state(random)
    assert bitwise(task.predict(batch, draw), passes[0][0])  # also once the stream has gone on


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_batch_moves_its_stream_on_and_nothing_else(split):
    """Not even the hidden state, which each batch holds as it was last carried."""
    task, _ = dropping(steps=1)
    stream, other = task.streams[split], task.streams["valid" if split == "train" else "train"]
    before = copy.deepcopy((task.model.state_dict(), other.state_dict()))
    state, random = stream.state, torch.get_rng_state()
    for position in (8, 0):
        start = stream.position
        batch = task.batch(split)
        assert batch.split == split and batch.state is state and stream.state is state
        assert torch.equal(batch.inputs, stream.data[start : start + len(batch.inputs)])
        assert torch.equal(batch.targets, stream.data[start + 1 : start + 1 + len(batch.inputs)])
        assert stream.position == position
    assert stream.epochs == 1
    assert bitwise((task.model.state_dict(), other.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_state_after_a_step_is_carried_and_at_the_end_of_the_text_dropped(split):
    task, draw = dropping(steps=0)
    stream, other = task.streams[split], task.streams["valid" if split == "train" else "train"]
    for end in (False, False, True):
        batch = task.batch(split)
        prediction = task.predict(batch, draw)
        task.loss(prediction, batch, draw)
        position = stream.position
        task.carry(batch, prediction)
        assert stream.state is None if end else bitwise(stream.state, prediction.state)
        assert stream.position == position and other.state is None
    assert task.batch(split).state is None


# Evaluation


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("split", "batch_size"), [("valid", 10), ("test", 1)])
@pytest.mark.parametrize(("bptt", "rows"), [(1, 1), (3, 1), (4, 25), (1000, 1)])
def test_evaluation_is_one_pass_over_the_text_in_whatever_chunks(split, batch_size, bptt, rows, monkeypatch):
    monkeypatch.setattr(lstm_task, "EVALUATION_ROWS", rows)
    texts = corpus(valid=157, test=64)
    task = language_model(texts, bptt=bptt)
    hyper = Hyperparameters(**dict.fromkeys(TABLE, Constant(0.5)))  # which evaluation ignores
    task.model.eval()
    expected = plain_loss(task.model, columns(getattr(texts, split), batch_size)).mean().item()
    assert task.evaluate(split, hyper.current()).loss == pytest.approx(expected, rel=1e-12)
    assert task.evaluate(split, hyper.current()).loss == pytest.approx(expected, rel=1e-12)  # no state is left over
    assert [stream.position for stream in task.streams.values()] == [0, 0]
    assert [stream.state for stream in task.streams.values()] == [None, None]


# What cannot be


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"train": 5}, ("train", "5 tokens", "batch size 3")),
        ({"valid": 5}, ("valid", "5 tokens", "batch size 3")),
        ({"valid": 19}, ("valid", "19 tokens", "batch size 10")),
        ({"test": 1}, ("test", "1 tokens", "longer")),
    ],
)
def test_a_text_too_short_for_its_batch(sizes, words):
    with pytest.raises(UserError) as caught:
        language_model(corpus(**sizes))
    assert all(word in str(caught.value) for word in words)
