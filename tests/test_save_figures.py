"""The command that draws the figures of runs, for any experiment and for each of the two."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from figure_runs import EPOCH_HEADER, FEW, IMAGE_NAMES, names, write_fixed, write_image_run, write_run
from lstm_runs import execute, refused

from cnn import save_figures as cnn_figures
from lstm import save_figures as lstm_figures
from stn.scripts import figures as command

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


@pytest.fixture
def image_run(tmp_path):
    return partial(write_image_run, tmp_path / "logs")


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved, by name; they are not written."""
    found = {}
    monkeypatch.setattr(command, "save", lambda figure, path: found.update({path.name: figure}) or [path])
    return found


def older(path):
    """The run as older versions recorded it, which did not say which columns are hyperparameters."""
    settings = yaml.safe_load((path / "args.yaml").read_text())
    del settings["hyperparameters"]
    (path / "args.yaml").write_text(yaml.safe_dump(settings))
    return path


def test_writes_pdf_and_png_without_a_display(make_run, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(ROOT)
    start = [sys.executable, "-m", "stn.figures", str(make_run()), str(write_fixed(tmp_path / "logs"))]
    done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    files = [tmp_path / line for line in done.stdout.splitlines()]
    assert {file.name for file in files} == {
        f"{figure}.{suffix}" for figure in ("schedules", "perplexities") for suffix in ("pdf", "png")
    }
    starts = {".pdf": b"%PDF", ".png": b"\x89PNG"}
    assert all(file.read_bytes().startswith(starts[file.suffix]) for file in files)
    assert {file.parent.name for file in files} == {"plots"}


def test_reports_what_is_left_out(make_run, tmp_path, capsys):
    empty = make_run("empty", epoch=EPOCH_HEADER + "\n", val=None)
    status, _, error = execute(command, [make_run(), empty, "--out", tmp_path / "out"], capsys)
    assert status == 0
    assert [line.split(": ")[:3] for line in error.splitlines()] == [
        ["figures", "schedules", "left out"],
        ["figures", "perplexities", "left out"],
    ]
    assert error.count(str(empty)) == 2


def test_a_run_that_is_not_there_is_named_and_the_others_are_drawn(make_run, saved, tmp_path, capsys):
    refused(execute(command, [tmp_path / "nowhere"], capsys), "left out", "nowhere", script="figures")
    assert not saved
    refused(execute(command, [tmp_path / "nowhere", make_run()], capsys), "left out", "nowhere", script="figures")
    assert [*saved] == ["schedules", "perplexities"]


def test_what_cannot_be_drawn_or_written_is_named(make_run, tmp_path, capsys):
    refused(execute(command, [make_run("empty", epoch=None, val=None)], capsys), "schedules", script="figures")
    (tmp_path / "file").touch()
    status, _, error = execute(command, [make_run(), "--out", tmp_path / "file"], capsys)
    assert status == 2
    assert [line.split(": ")[:2] for line in error.splitlines()] == [
        ["figures", "schedules"],
        ["figures", "perplexities"],
    ]


def test_a_bad_command_line_is_one_line(capsys):
    refused(execute(command, [], capsys), "RUN", script="figures")


@pytest.mark.parametrize("script", [command, lstm_figures, cnn_figures])
def test_what_is_drawn_is_what_the_columns_allow(make_run, image_run, saved, capsys, script):
    def drawn(*paths):
        saved.clear()
        assert execute(script, paths, capsys)[0] == 0
        return {*saved}

    images, language = image_run(), make_run()
    hue = image_run("hue", tuned=["hue"], off=[name for name in IMAGE_NAMES if name != "hue"])
    own = {"dropouts", "cutout"} if script is cnn_figures else set()
    assert drawn(hue) == {"schedules", "accuracies"}
    assert drawn(images) == {"schedules", "accuracies"} | own
    assert drawn(language) == {"schedules", "perplexities"}
    assert drawn(images, language) == {"schedules", "accuracies", "perplexities"} | own


@pytest.mark.parametrize("rows", [1, 3])
def test_image_classifiers_figures_are_written(image_run, tmp_path, capsys, recwarn, rows):
    run = image_run(names=FEW, tuned=FEW, rows=rows)
    assert execute(cnn_figures, [run, "--out", tmp_path / "out"], capsys)[0] == 0
    kinds = ("schedules", "dropouts", "cutout", "accuracies")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{kind}.{suffix}" for kind in kinds for suffix in ("pdf", "png")
    }
    assert not recwarn


def test_runs_of_older_versions_are_drawn_with_their_experiments_table(make_run, image_run, saved, capsys):
    assert execute(lstm_figures, [older(make_run())], capsys)[0] == 0
    assert names(saved["schedules"]) == ["alpha", "dropouto"]
    assert execute(cnn_figures, [older(image_run())], capsys)[0] == 0
    assert {*names(saved["schedules"])} == {*IMAGE_NAMES}


@pytest.mark.parametrize("script", [lstm_figures, cnn_figures])
def test_each_experiments_script_names_itself(script, tmp_path, capsys):
    refused(execute(script, [tmp_path / "nowhere"], capsys), "nowhere", script="save_figures.py")
