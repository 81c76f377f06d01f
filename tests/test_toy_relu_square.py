"""A width that finds its way to 2, the same for five seeds, and what is drawn of it."""

import math

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import stn
from stn.runs.history import read_run
from toy import relu_square
from toy.relu_square import GRID, Frame, animate, trajectories, widened

# A smaller network, in a fifth of the steps.
SMALL = {"hidden": 32, "steps": 25, "epochs": 16, "warmup": 100, "lr": 5e-3, "hyper_lr": 0.05}
FEW = {"hidden": 4, "steps": 6, "epochs": 3, "warmup": 6}


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_width_reaches_2(tmp_path, seed):
    square = relu_square.train(tmp_path, seed, **SMALL)
    widths = [frame.width for frame in square.frames]
    assert widths[:4] == [1.0] * 4  # in the warm-up
    assert 2 <= widths[-1] < 3
    assert square.largest_error() < 0.1


@pytest.mark.parametrize("method", ["stn", "delta_stn"])
def test_a_run_is_drawn_with_a_frame_for_the_start_and_each_epoch(tmp_path, monkeypatch, method, capsys):
    full = relu_square.train
    monkeypatch.setattr(relu_square, "train", lambda *given: full(*given, **FEW))
    assert relu_square.main(["--out", str(tmp_path), "--method", method]) == 0
    with Image.open(tmp_path / "fit.gif") as image:
        assert image.n_frames == 1 + FEW["epochs"]
    assert f"fit.gif, {1 + FEW['epochs']} frames" in capsys.readouterr().out
    assert all((tmp_path / f"trajectories.{suffix}").stat().st_size for suffix in ("pdf", "png"))


def test_a_run_of_another_script_is_left_as_it_is(tmp_path, monkeypatch):
    full = relu_square.train
    monkeypatch.setattr(relu_square, "train", lambda *given: full(*given, **FEW))
    other = {"args.yaml": "script: lstm/train.py\n", "epoch.csv": "epoch\n0\n"}
    for name, text in other.items():
        (tmp_path / name).write_text(text)
    assert relu_square.main(["--out", str(tmp_path)]) == 0
    assert {name: (tmp_path / name).read_text() for name in other} == other


def test_frames_that_look_alike_are_all_kept(tmp_path):
    frames = [Frame(step, 1.0, torch.zeros(len(GRID))) for step in range(5)]
    animate(frames, tmp_path / "fit.gif")
    with Image.open(tmp_path / "fit.gif") as image:
        assert image.n_frames == 5


def test_trajectories_show_what_the_tables_hold(tmp_path):
    square = relu_square.train(tmp_path, **FEW)
    width, scale, loss = trajectories(read_run(tmp_path)).axes
    steps = [frame.step for frame in square.frames[1:]]
    assert width.lines[0].get_xdata().tolist() == steps == [6, 12, 18]
    assert width.lines[0].get_ydata().tolist() == [frame.width for frame in square.frames[1:]]
    assert len(scale.lines) == 1 and len(loss.lines) == 2


def test_each_example_has_its_own_width():
    torch.manual_seed(0)
    hyper = stn.Hyperparameters(width=stn.Tuned(1.0, range=(0, math.inf)))
    draw, u = hyper.perturbed(6), torch.tensor([[-1.0], [1.0]] * 3)
    x, y = widened((u, u), draw)
    assert len(x.unique()) == 6
    assert_close(x[:, 0], u[:, 0] * draw["width"])
    assert_close(y, x**2)


def test_bad_input_is_a_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert relu_square.main(["--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("relu_square.py: ") and error.count("\n") == 1
