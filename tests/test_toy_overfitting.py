"""The perceptron that overfits: its data and its runs."""

import torch

from stn.runs.history import read_run
from toy import overfitting


def test_the_data_are_as_they_are_said_to_be():
    sets = {name: loader.dataset.tensors for name, loader in overfitting.loaders().items()}
    assert {name: len(labels) for name, (_, labels) in sets.items()} == overfitting.SIZES
    x, labels = sets["test"]
    copies = x.unflatten(1, (overfitting.COPIES, overfitting.CAUSES))
    assert abs(torch.corrcoef(copies[:, :2, 0].T)[0, 1] - 0.5) < 0.08  # of two copies, as noisy as what they copy
    causes = copies.mean(1)
    right = causes[:, 0] * causes[:, 1] + causes[:, 2] * causes[:, 3] > 0
    assert 0.75 < (labels.bool() == right).float().mean() < 0.9  # one in ten is wrong, some are hard to see
    again = overfitting.loaders()["test"].dataset.tensors
    assert torch.equal(x, again[0]) and torch.equal(labels, again[1])


def test_a_run_tunes_all_three_and_is_redone(tmp_path):
    draw = overfitting.tuned().current()
    assert {name: round(draw[name].item(), 6) for name in overfitting.START} == overfitting.START
    for epochs in (1, 2):
        result = overfitting.train(overfitting.tuned(), tmp_path / "run", epochs=epochs)
        assert len(read_run(tmp_path / "run").epoch) == epochs and result.completed
    moved = [result.hyperparameters[name] != value for name, value in overfitting.START.items()]
    assert all(moved) and {"test_loss", "test_acc"} <= result.measures.keys()


def test_fixed_values_stay(tmp_path):
    hyper = overfitting.fixed(weight_decay=0.5)
    result = overfitting.train(hyper, tmp_path / "run", epochs=1)
    assert hyper.num_tuned == 0
    assert result.hyperparameters == {**overfitting.START, "weight_decay": 0.5}
