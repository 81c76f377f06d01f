"""The command that writes a report: which runs it takes, what it says of others, and the commands that it tells."""

import base64
import errno
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from figure_runs import EPOCH_CSV, write_run
from lstm_runs import SMALL, execute, only_run, refused, settings, write_corpus
from test_report import Content

from cnn import hypertrain
from cnn import train_basic as cnn_basic
from lstm import settings as lstm_settings
from lstm import train, train_basic
from stn.runs.folder import RunFolder
from stn.runs.history import read_run
from stn.scripts import launch, reproduce
from stn.scripts import report as command

ROOT = Path(__file__).resolve().parents[1]
NAME = "python -m stn.report"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "report.html"


@pytest.fixture
def run_command(out, capsys):
    """run_command(argument, …): exit status, stdout and stderr."""
    return lambda *arguments: execute(command, [*arguments, "--out", out], capsys)


def content_of(out):
    return Content(out.read_text(encoding="utf-8"))


def test_writes_one_file_and_says_so(make_run, run_command, out):
    run = make_run()
    before = sorted(run.iterdir())
    assert run_command(run) == (0, f"wrote {out}\n", "")
    assert run_command(run) == (0, f"wrote {out} (replaced)\n", "")
    assert [*out.parent.iterdir()] == [out] and sorted(run.iterdir()) == before
    assert str(run) in content_of(out).text


def test_starts_as_a_module_and_adds_the_suffix(make_run, tmp_path):
    start = [sys.executable, "-m", "stn.report", str(make_run()), "--out", "page"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote page.html\n", "")


def test_without_plotly_a_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    for module in ("stn.report.page", "stn.scripts.report"):
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemExit) as stop:
        launch.launch("stn.scripts.report", NAME)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(NAME) and error.count("\n") == 1
    assert "plotly" in error and "pip install -r" in error


def test_a_path_of_bytes_that_are_no_text_is_shown(make_run, run_command, out):
    assert run_command(make_run("r\udcff", save_dir="r"))[0] == 0
    assert "r?/2026-01-02" in content_of(out).text


def test_what_cannot_be_read_is_named_and_the_others_are_shown(make_run, run_command, out, tmp_path):
    bad = {
        "words": {"epoch": EPOCH_CSV.replace("0.5", "half")},
        "latin": {"epoch": EPOCH_CSV},
        "outside": {"ranges": {"dropouto": [0.6, 0.7]}, "epoch": EPOCH_CSV.replace(",lr", ",dropouto_scale,lr")},
        "cut": {"epoch": EPOCH_CSV[:-4]},
    }
    bad["outside"]["epoch"] = bad["outside"]["epoch"].replace(",30.0", ",0.5,30.0")
    paths = {name: make_run(name, **own) for name, own in bad.items()}
    (paths["latin"] / "epoch.csv").write_bytes(EPOCH_CSV.encode() + b"\xe9\n")
    (paths["cut"] / "status").write_text("finished\n")
    for path in (*paths.values(), tmp_path / "nowhere", tmp_path):
        refused(run_command(path), "left out", path, script=NAME)
        assert not out.exists()
    status, said, error = run_command(make_run(), *paths.values(), tmp_path / "nowhere")
    assert status == 2 and said == f"wrote {out}\n" and error.count("\n") == 5
    assert "tuned" in content_of(out).text and "latin" not in content_of(out).text


def test_a_damaged_result_is_named(make_run, run_command):
    run = make_run()
    (run / "status").write_text("finished\n")
    for text in ("val_loss\nmuch\n", "", "val_loss\n", "val_loss\n1\n2\n"):
        (run / "result.csv").write_text(text)
        refused(run_command(run), "result.csv", "left out", script=NAME)


def test_where_it_cannot_be_written_one_line_says_so(make_run, run_command, out, tmp_path, monkeypatch, capsys):
    run = make_run()
    out.parent.write_text("in the way")
    refused(run_command(run), out.parent, script=NAME)
    refused(execute(command, [run, "--out", tmp_path], capsys), "is a folder", script=NAME)
    out.parent.unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    refused(run_command(run), "No space", script=NAME)
    assert [*out.parent.iterdir()] == []


@pytest.mark.parametrize("words", [["--labels", "a"], ["--labels", "a", " "], [""], ["--bad"]])
def test_what_the_command_line_says_wrongly_is_one_line(make_run, run_command, words):
    refused(run_command(make_run(), make_run("other"), *words), script=NAME)


def test_labels_and_sheets_are_shown(make_run, run_command, out):
    run = make_run()
    (run / "augmentation.png").write_bytes(PNG)
    assert run_command(run, "--labels", "my <run>")[0] == 0
    content = content_of(out)
    (image,) = (own["src"] for tag, own in content.elements if tag == "img")
    assert base64.b64decode(image.removeprefix("data:image/png;base64,")) == PNG
    assert "my <run>" in content.text
    (run / "augmentation-2.png").write_bytes(b"no image")
    status, _, error = run_command(run)
    assert status == 2 and error.count("\n") == 1 and "augmentation-2.png is no PNG" in error and out.exists()


def test_a_run_that_is_training_says_so_and_one_that_was_killed(tmp_path, run_command, out):
    path = tmp_path / "logs" / "mine"
    with RunFolder.create(path, {"hyperparameters": ["dropouto"], "epochs": 9}) as run:
        assert run_command(path)[0] == 0
        assert "still training: no row is written yet" in content_of(out).text
        run.log("epoch", {"epoch": 0, "time": 1.5, "val_loss": 2.0, "dropouto": 0.5})
        assert run_command(path)[0] == 0
        assert "still training: 1 of 9 epochs" in content_of(out).text
        run.log("epoch", {"epoch": 1, "time": 2.5, "val_loss": 1.5, "dropouto": 0.5})  # undisturbed
    (path / "status").write_text("running\n")  # as where a process was killed
    assert run_command(path)[0] == 0
    assert "no process uses it: 2 of 9 epochs" in content_of(out).text
    (path / "status").write_text("finished\n")
    assert run_command(path)[0] == 0
    assert "finished: 2 of 9 epochs" in content_of(out).text


# What each script makes of its flags, and so must make of the commands that a report tells.
STARTED = {
    "all": (train, "--tune_all --tune_scales --warmup_steps 3"),
    "delta": (train, "--tune_dropouto --delta_stn --no_linearize --alpha 0.5"),
    "rate": (train, "--tune_wdrop --tune_lr marthe --lr_mu -1 --lr_hyper_lr 0.01"),
    "noise": (train_basic, "--perturb_type sinusoid --perturb_dropouto --dropouto 0.3"),
    "images": (hypertrain, "--data builtin --model mlp --tune_all --recipe stn --milestones 3 5"),
    "plain": (cnn_basic, "--data builtin --model small --dropout 0.2 --hue 0.1"),
}


@pytest.mark.parametrize("case", STARTED)
def test_the_flags_that_are_told_stand_for_the_same_settings(case, tmp_path):
    script, flags = STARTED[case]
    own = [*shlex.split(flags), "--threads", "1", "--seed", "7"]
    own += ["--data", str(write_corpus(tmp_path / "my corpus"))] if script in (train, train_basic) else []
    values, *_ = script.SCRIPT.prepare(script.SCRIPT.parse(own))
    words = reproduce.words(script.SCRIPT, values)
    again, *_ = script.SCRIPT.prepare(script.SCRIPT.parse(shlex.split(shlex.join(words))))
    kept = {name for name in script.SCRIPT.flags if name not in script.SCRIPT.settings.PLACES}
    assert {name: again[name] for name in kept} == {name: values[name] for name in kept}


def test_the_commands_make_the_run_again_and_replay_it(tmp_path, monkeypatch, run_command, out):
    monkeypatch.setattr(lstm_settings, "ROOT", tmp_path)
    corpus = write_corpus(tmp_path / "corpus")
    flags = f"{SMALL} --data {corpus} --save_dir {tmp_path / 'logs'} --seed 5 --tune_dropouto --warmup_steps 2"
    assert train.main(flags.split()) == 0
    run = only_run(tmp_path)
    assert run_command(run)[0] == 0
    text = content_of(out).text
    config, flags, replay = (found.line for found in reproduce.commands(read_run(run)) if "python" in found.line)
    assert config == f"python lstm/train.py --config {run}"
    assert all(" ".join(line.split()) in text for line in (config, flags, replay))
    for script, line in ((train, flags), (train_basic, replay)):
        assert shlex.split(line)[1] == f"lstm/{script.SCRIPT.name}"
        words = [*shlex.split(line)[2:], "--save_dir", str(tmp_path / script.SCRIPT.name / "logs")]
        assert script.main(words) == 0
    again, replayed = (only_run(tmp_path / script.SCRIPT.name) for script in (train, train_basic))
    scores = [read_run(path).epoch.drop(columns="time") for path in (run, again)]
    assert scores[0].equals(scores[1])
    assert (read_run(replayed).epoch["dropouto"] == read_run(run).epoch["dropouto"]).all()
    kept = [settings(path) for path in (run, replayed)]
    assert all(kept[0][name] == kept[1][name] for name in ("emsize", "batch_size", "seed", "data_checksum", "dtype"))


def test_runs_of_code_of_ones_own_say_so(make_run, run_command, out):
    assert run_command(make_run(script="stn.fit"))[0] == 0
    text = content_of(out).text
    assert "started by stn.fit" in text and "--config" not in text
