import math

import pytest
import torch
from torch import nn

from stn.bilevel import MeanScore, Score, evaluate, perplexity
from stn.hyperparameters import Hyperparameters, Tuned


def test_perplexity_overflows_to_infinity():
    assert perplexity(0.0) == 1.0 and perplexity(1e6) == math.inf


def test_a_score_has_an_accuracy_or_a_perplexity():
    assert Score(2.0).measures() == {"loss": 2.0, "ppl": math.exp(2)}
    assert Score(2.0, 0.0).measures() == {"loss": 2.0, "acc": 0.0}


def test_a_mean_score_is_over_targets():
    mean = MeanScore()
    for score, targets in ((Score(1.0, 0.5), 10), (Score(4.0, 0.0), 2)):
        mean.add(score, targets)
    assert mean.mean() == Score(18 / 12, 5 / 12) and mean.targets == 12


def test_a_mean_score_without_accuracies_has_none():
    mean = MeanScore()
    mean.add(Score(3.0), 7)
    assert mean.mean() == Score(3.0, None)


def test_a_mean_of_nothing_is_not_a_number():
    assert math.isnan(MeanScore().mean().loss) and MeanScore().mean().accuracy is None


class Asked:
    """A task that answers an evaluation with what it was asked, and how."""

    def __init__(self):
        self.model = nn.Linear(1, 1)

    def evaluate(self, split, draw):
        return split, draw, self.model.training, torch.is_grad_enabled()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_is_at_the_current_hyperparameters_without_gradients_or_dropout(split):
    task, hyper = Asked(), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    random = torch.get_rng_state()
    asked, draw, training, gradients = evaluate(task, hyper, split)
    assert (asked, training, gradients) == (split, False, False)
    assert torch.equal(draw.h, hyper.current().h) and draw["rate"] == hyper.current()["rate"]
    assert torch.equal(torch.get_rng_state(), random)
