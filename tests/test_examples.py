"""The examples run, stop and go on, at sizes too small to learn anything; their networks are what they are called."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import stn
from examples import resnet, transformer
from stn.datasets.builtin_images import builtin_images
from stn.runs.folder import read_status


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs an example's command line: its exit status."""

    def call(example, *flags):
        monkeypatch.setattr(example, "ROOT", tmp_path)
        monkeypatch.setattr(sys, "argv", [example.NAME, *flags])
        return example.main()

    return call


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("a b c d e f g\n" * 40)
    return str(folder)


@pytest.mark.parametrize("flags", [(), ("--fixed", "0.2"), ("--method", "delta_stn")], ids=str)
def test_the_transformer(run, corpus, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(transformer, "BATCH", 2)
    monkeypatch.setattr(transformer, "CONTEXT", 16)
    assert run(transformer, "--data", corpus, "--epochs", "1", *flags) == 0
    assert run(transformer, "--data", corpus, "--epochs", "2", *flags) == 0
    (folder,) = (tmp_path / "logs" / "transformer").iterdir()
    assert read_status(folder) == "finished" and len((folder / "epoch.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("flags", [(), ("--fixed",)], ids=str)
def test_the_resnet(run, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(resnet, "builtin_images", lambda: builtin_images(60, 20))
    monkeypatch.setattr(resnet, "BATCH", 16)
    assert run(resnet, "--width", "2", "--epochs", "1", *flags) == 0
    (folder,) = (tmp_path / "logs" / "resnet").iterdir()
    assert read_status(folder) == "finished"


def test_bad_input_is_a_line(run, capsys, tmp_path):
    assert run(transformer, "--data", str(tmp_path / "none")) == 2
    error = capsys.readouterr().err
    assert error.startswith("transformer.py: ") and "does not exist" in error and error.count("\n") == 1


def test_the_transformer_does_not_look_ahead():
    network = transformer.GPT(7, 0.1).eval()
    tokens = torch.randint(7, (2, 12))
    changed = tokens.clone()
    changed[:, 8:] = (tokens[:, 8:] + 1) % 7
    before, after = network(tokens), network(changed)
    assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_the_resnet_has_the_published_size():
    """11.17 million weights, as ResNet-18 with a stem for 32 x 32 images has."""
    network = resnet.resnet18(64)
    assert sum(weight.numel() for weight in network.parameters()) == 11_173_962
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_augmentation_moves_by_as_many_pixels_as_drawn():
    torch.manual_seed(0)
    hyper = stn.Hyperparameters(shift=stn.Constant(3.0), noise=stn.Constant(0.0))
    images = torch.zeros(200, 1, 32, 32)
    images[:, :, 16, 16] = 1.0
    moved, _ = resnet.augment((images, None), hyper.current())
    grid = torch.arange(32.0)
    rows, columns = ((moved.sum((1, axis)) * grid).sum(1) / moved.sum((1, 2, 3)) for axis in (3, 2))
    # A pixel left or right of the middle, where mirroring puts it, and up to three more.
    assert (rows - 16).abs().max() <= 3.01 and (columns - 15.5).abs().max() <= 3.51
    assert (rows - 16).abs().max() > 2.5


@pytest.mark.parametrize("example", [transformer, resnet])
def test_examples_are_short(example):
    assert len(Path(example.__file__).read_text(encoding="utf-8").splitlines()) < 120
