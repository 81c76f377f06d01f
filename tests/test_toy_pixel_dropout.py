"""Pixels are dropped as often as their hyperparameters say, and two runs of one network are compared."""

import os

import pandas
import pytest
import torch
from torch import nn

import stn
from stn.datasets.builtin_images import builtin_images
from stn.runs.history import Run
from toy import pixel_dropout
from toy.pixel_dropout import TABLE, hyperparameters, network


def constants(**values):
    return stn.Hyperparameters(**{name: stn.Constant(value) for name, value in values.items()}).current()


@pytest.mark.parametrize(("keep", "augmented"), [(0.3, 1.0), (0.8, 0.5), (0.6, 0.0)])
def test_as_many_pixels_of_as_many_images_are_dropped(keep, augmented):
    torch.manual_seed(0)
    images, labels = torch.ones(400, 3, 16, 16), torch.arange(400)
    seen, same = pixel_dropout.pixel_dropout((images, labels), constants(keep=keep, augmented=augmented))
    assert torch.equal(same, labels) and torch.equal(images, torch.ones_like(images))
    assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 0], seen[:, 2])
    chosen = (seen != 1).flatten(1).any(1)
    assert abs(chosen.float().mean() - augmented) < 0.1
    if augmented:
        assert abs((seen[chosen] > 0).float().mean() - keep) < 0.01
        assert abs(seen.mean() - 1) < 0.02  # what is kept is scaled


def test_each_image_by_its_own_probabilities():
    torch.manual_seed(0)
    hyper = hyperparameters(tuned=True)
    draw = hyper.perturbed(300)
    seen, _ = pixel_dropout.pixel_dropout((torch.ones(300, 3, 16, 16), torch.zeros(300)), draw)
    kept, chosen = (seen > 0).float().mean((1, 2, 3)), (seen != 1).flatten(1).any(1)
    assert (kept - draw["keep"])[chosen].abs().max() < 0.15
    assert draw["augmented"][chosen].mean() > draw["augmented"][~chosen].mean() + 0.05


def test_the_same_start_with_and_without_tuning():
    tuned, fixed = hyperparameters(True), hyperparameters(False)
    assert tuned.num_tuned == len(TABLE) and fixed.num_tuned == 0
    for name, (_, start, _) in TABLE.items():
        assert fixed.current()[name] == start and tuned.current()[name].item() == pytest.approx(start, abs=1e-5)
    assert tuned.sources["keep"].range == (0.25, 1)


def test_dropout_after_each_layer():
    layers = [layer for layer in network().modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Dropout)]
    *hidden, last = layers
    assert [isinstance(layer, nn.Dropout) for layer in hidden] == [False, True] * (len(hidden) // 2)
    assert isinstance(last, nn.Linear) and network()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_two_runs_are_compared(tmp_path, monkeypatch, capsys):
    small = builtin_images(60, 20)
    monkeypatch.setattr(pixel_dropout, "ROOT", tmp_path)
    monkeypatch.setattr(pixel_dropout, "builtin_images", lambda *_: small)
    for name, value in {"TRAIN": 40, "VALID": 20, "BATCH": 10, "WARMUP_EPOCHS": 1}.items():
        monkeypatch.setattr(pixel_dropout, name, value)
    flags = ["--epochs", "2", "--threads", "1", "--out", str(tmp_path)]
    assert pixel_dropout.main([*flags, "--no_tuning"]) == 0
    alone = capsys.readouterr().out
    assert "to compare: python toy/pixel_dropout.py --seed 1" in alone
    assert pixel_dropout.main(flags) == 0
    both = capsys.readouterr().out
    assert "to compare" not in both
    rows = {line[:28].strip(): line[28:].split() for line in both.splitlines() if line[28:].strip()}
    results = [pandas.read_csv(tmp_path / f"{name}-seed1" / "result.csv").iloc[0] for name in ("fixed", "tuned")]
    assert rows["test accuracy (%)"] == [f"{100 * result['test_acc']:.1f}" for result in results]
    assert rows["pixel keep probability"] == [f"{result['keep']:.3f}" for result in results]
    tables = [pandas.read_csv(tmp_path / f"{name}-seed1" / "epoch.csv") for name in ("fixed", "tuned")]
    for name, (_, start, _) in TABLE.items():
        assert (tables[0][name] == start).all() and tables[1][name].iloc[-1] != pytest.approx(start, abs=1e-5)
    for figure in ("schedules", "accuracies"):
        assert all((tmp_path / f"{figure}.{suffix}").stat().st_size for suffix in ("pdf", "png"))


def test_bad_input_is_a_line(capsys):
    with pytest.raises(SystemExit):
        pixel_dropout.main(["--epochs", "0"])
    error = capsys.readouterr().err
    assert error.startswith("pixel_dropout.py: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"val_acc\n0.5\n", b"val_acc,test_acc\n0.5,0.", b"val_acc\n"]
)
def test_a_damaged_result_is_a_line(tmp_path, content):
    if content is not None:
        (tmp_path / "result.csv").write_bytes(content)
    run = Run(tmp_path, {}, [], pandas.DataFrame(), pandas.DataFrame())
    with pytest.raises(stn.UserError, match=r"result\.csv .*: (restore|mend) it, or remove that run's folder$"):
        pixel_dropout.table([run])


def test_more_threads_than_cores_are_refused(capsys):
    assert pixel_dropout.main(["--threads", str(1 + (os.cpu_count() or 1))]) == 2
    assert "cores of this machine: lower it" in capsys.readouterr().err
