"""Hypergradients by the best response and by training on, where both have a closed form; the designs' statistics."""

import math
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close
from training_runs import trainer_fixture  # noqa: F401

from stn.bilevel import Loss, Score, StreamTask
from stn.delta_stn import DeltaSTN
from stn.diagnose.hypergradients import (
    Estimate,
    Evidence,
    design_effects,
    diagnose,
    sign_patterns,
)
from stn.hyperparameters import Tuned
from stn.layers import HyperLinear, zero_gates
from stn.learning_rates import LearningRate
from stn.streams import Shuffled


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


class Quadratic(StreamTask):
    """The training loss is |w − a − A tanh λ|², the validation loss |w − b|²."""

    batch_size = 32

    def __init__(self, a, matrix, b):
        self.model = HyperLinear(1, len(a), matrix.shape[1], bias=False)
        zero_gates(self.model)
        torch.nn.init.ones_(self.model.response_weight)
        self.a, self.matrix, self.b = a, matrix, b
        self.streams = {split: Shuffled((torch.ones(64, 1),), 32) for split in ("train", "valid")}

    def predict(self, batch, draw):
        return self.model(batch[0], draw.h)

    def loss(self, prediction, batch, draw):
        values = torch.stack([draw["first"], draw["second"]], -1)
        target = self.a + values.tanh() @ self.matrix.T if self.model.training else self.b
        loss = (prediction - target).square().sum(-1).mean()
        return Loss(loss, loss.detach(), len(batch[0]))

    def evaluate(self, split, draw):  # noqa: ARG002
        prediction = self.model(torch.ones(1, 1), draw.h)
        return Score((prediction - self.b).square().sum().item())


@pytest.mark.usefixtures("double")
def test_both_are_the_closed_form_where_the_response_is_learned(trainer):
    torch.manual_seed(0)
    a, matrix, b, start = torch.randn(4), torch.randn(4, 2), torch.randn(4), torch.tensor([0.3, -0.5])
    task = Quadratic(a, matrix, b)
    sources = {
        name: Tuned(value.item(), scale=0.02, feed="centred")
        for name, value in zip(("first", "second"), start, strict=True)
    }
    made = trainer(task, sources=sources, learning_rate=LearningRate(0.2), epochs=1000)
    made.method = DeltaSTN(task.model, made.hyper, lr=0.2, response_lr=100.0)
    for _ in range(400):
        made.weight_step()
    gate = task.model.gate.detach().clone()
    evidence = diagnose(made, deepcopy(made.state_dict()), batches=3, steps=100, pairs=4, shift=0.01)
    best = a + matrix @ start.tanh()
    expected = -2 * (best - b) @ matrix * (1 - start.tanh().square())
    assert [*evidence] == ["first", "second"]
    for (name, found), slope in zip(evidence.items(), expected.tolist(), strict=True):
        assert found.value == pytest.approx(start[made.hyper.columns[name]].item())
        assert found.training.mean == pytest.approx(slope, rel=1e-3)
        assert found.response.mean == pytest.approx(slope, rel=0.05)
        assert found.gate == pytest.approx(gate[:, made.hyper.columns[name]].square().mean().sqrt().item())
        assert found.training.error < 1e-3 * abs(slope)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 2), (3, 4), (7, 8), (8, 8), (15, 16)])
def test_patterns_are_orthogonal(count, rows):
    patterns = sign_patterns(count)
    assert patterns.shape == (rows, count) and patterns.abs().eq(1).all()
    assert_close(patterns.T @ patterns, rows * torch.eye(count, dtype=torch.float64))


def test_effects_and_their_errors_follow_the_noise():
    """The estimates spread around the true effects as their own standard errors say: t-distributed."""
    torch.manual_seed(1)
    signs = sign_patterns(7).repeat(2, 1)
    truth = torch.randn(7, dtype=torch.float64)
    scores = []
    for _ in range(400):
        effects, errors = design_effects(signs, signs @ truth + 0.3 * torch.randn(16, dtype=torch.float64))
        scores.append((effects - truth) / errors)
    scores = torch.stack(scores)
    freedom = 16 - 7
    assert scores.mean().abs() < 0.1
    assert scores.square().mean().item() == pytest.approx(freedom / (freedom - 2), rel=0.15)


@pytest.mark.parametrize("rows", [7, 8, 12])
def test_designs_that_do_not_suffice_are_refused(rows):
    signs = sign_patterns(8).repeat(2, 1)[:rows]
    with pytest.raises(ValueError, match="multiple of 8, above 8"):
        design_effects(signs, torch.zeros(rows, dtype=torch.float64))


@pytest.mark.parametrize(
    ("response", "training", "agree"),
    [((1, 0.1), (2, 0.5), True), ((1, 0.1), (-2, 0.5), False), ((1, 0.6), (2, 0.5), None), ((1, 0.1), (2, 1.5), None)],
)
def test_signs_are_compared_where_both_are_clear(response, training, agree):
    assert Evidence(0.1, 0.01, Estimate(*response), math.nan, Estimate(*training)).agree is agree
