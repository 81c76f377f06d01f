"""The fast language model against the obvious one: the same masks, then the same loss and every gradient."""

import math

import pytest
import torch
from reference import PlainModel, training_loss
from torch import nn

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn import Hyperparameters, Tuned
from stn.datasets.text import Corpus

STEPS, BATCH, TYPES, WIDTH = 12, 6, 50, 16


def fast_and_obvious(dtype):
    """Loss and gradients of a training mini-batch by either implementation, all seven hyperparameters tuned."""
    torch.manual_seed(0)
    hyper = Hyperparameters(
        **{
            name: Tuned(0.3, declared.range, per_example=declared.per_example, feed="squashed")
            for name, declared in TABLE.items()
        }
    ).to(dtype)
    model = AWDLSTM(TYPES, WIDTH, WIDTH, 2, hyper.num_tuned, dtype).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    words = [torch.randint(TYPES, (length,)) for length in (BATCH * STEPS * 3, 100, 100)]
    task = LanguageModeling(model, Corpus(*words, tuple(map(str, range(TYPES))), ""), BATCH, STEPS)
    task.streams["train"].state = [tuple(torch.randn(2, 1, BATCH, WIDTH, dtype=dtype)) for _ in range(2)]
    draw = hyper.perturbed(BATCH)
    model.train()

    batch = task.batch("train")
    torch.manual_seed(1)
    prediction = task.predict(batch, draw)
    fast = task.loss(prediction, batch, draw).objective
    task.carry(batch, prediction)
    torch.manual_seed(1)
    obvious, obvious_state = training_loss(model, batch.inputs, batch.targets, batch.state, draw)
    weights = dict(model.named_parameters())
    gradients = [torch.autograd.grad(loss, [*weights.values()]) for loss in (fast, obvious)]
    return (
        (fast, obvious),
        (task.streams["train"].state, obvious_state),
        dict(zip(weights, zip(*gradients, strict=True), strict=True)),
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fast_equals_obvious(dtype, bound):
    """By the norm of the difference over the norm."""
    (fast, obvious), states, gradients = fast_and_obvious(dtype)
    assert abs(fast - obvious) < bound * abs(obvious)
    for ours, theirs in zip(*states, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() < bound * b.norm()
    assert len(gradients) == 2 * 10 + 4
    for name, (a, b) in gradients.items():
        assert b.norm() > 0, name
        assert (a - b).norm() < bound * b.norm(), name


def test_the_plain_model_is_of_the_same_size():
    plain = PlainModel(TYPES, WIDTH, WIDTH, 0.1)
    ours = AWDLSTM(TYPES, WIDTH, WIDTH, 2, 0)
    assert sum(w.numel() for w in plain.parameters()) == sum(w.numel() for w in ours.parameters())
    tokens = torch.randint(TYPES, (STEPS, BATCH))
    loss, states = plain(tokens, tokens, [None, None])
    assert len(states) == 2 and abs(loss.item() - math.log(TYPES)) < 5
