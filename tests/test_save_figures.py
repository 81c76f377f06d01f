"""The command that draws the figures of runs, for any experiment and for each of the two."""

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from figure_runs import (
    EPOCH_CSV,
    EPOCH_HEADER,
    FEW,
    IMAGE_NAMES,
    VAL_CSV,
    entries,
    names,
    write_fixed,
    write_image_run,
    write_run,
)
from lstm_runs import execute, refused
from matplotlib.figure import Figure

from cnn import save_figures as cnn_figures
from cnn.figures import WORDS
from lstm import save_figures as lstm_figures
from lstm.hyperparameters import TABLE
from stn.scripts import figures as command

ROOT = Path(__file__).resolve().parents[1]
NAME = "python -m stn.figures"
SCALED = EPOCH_CSV.replace(",lr", ",dropouto_scale,lr").replace(",30.0", ",0.5,30.0")


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
    start = [
        sys.executable,
        "-m",
        "stn.figures",
        str(make_run()),
        str(write_fixed(tmp_path / "logs")),
        "--out",
        "plots",
    ]
    done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(line.startswith("wrote plots/") for line in lines)
    files = [tmp_path / line.removeprefix("wrote ") for line in lines]
    assert {file.name for file in files} == {
        f"{figure}.{suffix}" for figure in ("schedules", "perplexities") for suffix in ("pdf", "png")
    }
    starts = {".pdf": b"%PDF", ".png": b"\x89PNG"}
    assert all(file.read_bytes().startswith(starts[file.suffix]) for file in files)
    assert {file.parent.name for file in files} == {"plots"}


def test_reports_what_is_left_out(make_run, tmp_path, capsys):
    empty = make_run("empty", epoch=EPOCH_HEADER + "\n", val=None)
    begun = make_run("begun", epoch=EPOCH_HEADER + "\n")
    refused(execute(command, [make_run(), empty, "--out", tmp_path / "out"], capsys), "left out", empty, script=NAME)
    # In its first epoch it has a schedule already.
    status, _, error = execute(command, [make_run("other"), begun, "--out", tmp_path / "out"], capsys)
    assert (status, error.count("\n")) == (0, 1)
    assert error.startswith(f"{NAME}: perplexities: left out: {begun}")


def test_a_run_that_is_not_there_is_named_and_the_others_are_drawn(make_run, saved, tmp_path, capsys):
    refused(execute(command, [tmp_path / "nowhere"], capsys), "left out", "nowhere", script=NAME)
    assert not saved
    refused(execute(command, [tmp_path / "nowhere", make_run()], capsys), "left out", "nowhere", script=NAME)
    assert [*saved] == ["schedules", "perplexities"]


def test_what_cannot_be_drawn_or_written_is_named(make_run, tmp_path, capsys):
    refused(execute(command, [make_run("empty", epoch=None, val=None)], capsys), "no whole row", script=NAME)
    (tmp_path / "file").touch()
    refused(execute(command, [make_run(), "--out", tmp_path / "file"], capsys), tmp_path / "file", script=NAME)


def test_one_error_is_one_line(make_run, tmp_path, capsys):
    """Each names the cause; none is said once for each figure."""
    (tmp_path / "file").touch()
    header = EPOCH_HEADER + "\n"
    for words, arguments in (
        ("RUN", []),
        ("RUN: it is empty", [""]),
        ("--out: it is empty", [make_run("a"), "--out", ""]),
        ("--labels: it is empty", [make_run("b"), "--labels", ""]),
        ("--bad", [make_run("c"), "--bad"]),
        ("no run", [tmp_path / "file"]),
        ("no run", [tmp_path]),
        ("no whole row", [make_run("header", epoch=header, val=None)]),
        ("no whole row", [make_run("cut", epoch=EPOCH_CSV[:70], val=VAL_CSV[:9])]),
        ("not a table of numbers", [make_run("words", epoch=EPOCH_CSV.replace("0.5", "half"))]),
        ("no column time", [make_run("timeless", epoch=EPOCH_CSV.replace("time", "hour"))]),
        ("hyperparameters", [make_run("odd", hyperparameters=[["alpha"]])]),
        ("ranges", [make_run("ranges", ranges={"alpha": ["low", "high"]})]),
        ("not inside", [make_run("outside", ranges={"dropouto": [0.6, 0.7]}, epoch=SCALED)]),
    ):
        refused(execute(command, ["--out", tmp_path / "out", *arguments], capsys), words, script=NAME)


def test_a_reference_is_drawn_beside_the_scores(make_run, image_run, saved, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    published = ["--reference", "70.3", "--reference_label", "published"]
    tuned = make_run()
    assert execute(command, [tuned, *published, *out], capsys)[0] == 0
    assert "published" in entries(saved["perplexities"])
    execute(cnn_figures, [image_run(), "--reference", "0.575", *out], capsys)
    assert "reference" in entries(saved["accuracies"])
    for words, arguments in (
        ("--reference_label", published[2:]),
        ("'0' is not a number above 0", ["--reference", "0"]),
        ("perplexities and accuracies", [image_run("other"), *published]),
    ):
        refused(execute(command, [tuned, *arguments, *out], capsys), words, script=NAME)


def test_where_nothing_can_be_written_one_line_says_so(make_run, monkeypatch, tmp_path, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Figure, "savefig", full)
    refused(execute(command, [make_run(), "--out", tmp_path], capsys), "No space", tmp_path, script=NAME)


def test_runs_of_different_kinds_are_drawn_each_in_its_own_figures_without_a_word(make_run, image_run, saved, capsys):
    status, _, error = execute(command, [make_run(), image_run()], capsys)
    assert (status, error) == (0, "")
    assert [*saved] == ["schedules", "perplexities", "accuracies"]


@pytest.mark.parametrize("script", [command, lstm_figures, cnn_figures])
def test_by_default_all_is_written_to_one_folder_that_help_names_once(script, make_run, monkeypatch, capsys):
    folders = []
    monkeypatch.setattr(command, "save", lambda _, path: folders.append(path.parent) or [path])
    assert execute(script, [make_run()], capsys)[0] == 0
    assert {*folders} == {ROOT / "plots"}
    out = " ".join(execute(script, ["--help"], capsys)[1].split("--out")[-1].split())
    assert out.count("plots") == out.count("default") == 1


def test_what_is_replaced_is_said(make_run, tmp_path, capsys):
    start = [make_run(), "--out", tmp_path]
    (tmp_path / "perplexities.pdf").touch()
    lines = execute(command, start, capsys)[1].splitlines()
    assert [line for line in lines if line.endswith(" (replaced)")] == [f"wrote {tmp_path}/perplexities.pdf (replaced)"]
    assert all(line.endswith(" (replaced)") for line in execute(command, start, capsys)[1].splitlines())


def test_labels_are_given_in_the_order_of_the_runs(make_run, saved, tmp_path, capsys):
    first, second = make_run("first"), make_run("second")
    assert execute(command, [second, first, "--labels", "ours", "an older one"], capsys)[0] == 0
    for figure in saved.values():
        assert entries(figure)[:2] == ["ours", "an older one"]
    runs = [second, tmp_path / "nowhere", make_run("empty", epoch=None, val=None), first]
    status, _, error = execute(command, [*runs, "--labels", "a", "b", "c", "d"], capsys)
    assert status == 2 and error.count("\n") == 2
    for figure in saved.values():
        assert entries(figure)[:2] == ["a", "d"]


@pytest.mark.parametrize("script", [command, lstm_figures, cnn_figures])
def test_labels_of_another_number_than_the_runs_are_refused(script, make_run, saved, capsys):
    for labels in (["a"], ["a", "b", "c"]):
        outcome = execute(
            script, [make_run(f"x{len(labels)}"), make_run(f"y{len(labels)}"), "--labels", *labels], capsys
        )
        refused(outcome, f"{len(labels)} names to 2 runs", script=NAME if script is command else "save_figures.py")
    assert not saved


def test_a_run_that_is_given_twice_is_drawn_once(make_run, saved, capsys):
    run = make_run()
    assert execute(command, [run, run / "." / ".." / run.name], capsys)[0] == 0
    assert not saved["schedules"].legends


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
    assert [name.replace("\n", " ") for name in names(saved["schedules"])] == [
        TABLE["alpha"].label,
        TABLE["dropouto"].label,
    ]
    assert execute(cnn_figures, [older(image_run())], capsys)[0] == 0
    assert {name.replace("\n", " ") for name in names(saved["schedules"])} == {WORDS[name] for name in IMAGE_NAMES}


def test_what_a_run_records_goes_before_its_experiments_table(make_run, saved, capsys):
    assert execute(lstm_figures, [make_run(labels={"alpha": "its own words"})], capsys)[0] == 0
    assert names(saved["schedules"]) == ["its own words", TABLE["dropouto"].label]


@pytest.mark.parametrize("script", [lstm_figures, cnn_figures])
def test_each_experiments_script_names_itself(script, tmp_path, capsys):
    refused(execute(script, [tmp_path / "nowhere"], capsys), "nowhere", script="save_figures.py")


def test_a_run_that_is_in_no_figure_is_named_with_the_true_reason(make_run, saved, capsys):
    unknown = make_run("unknown", epoch="epoch,time\n0,1\n", hyperparameters=["hidden"], val=None)
    outcome = execute(command, [make_run(), unknown], capsys)
    refused(outcome, unknown, "no column of its hyperparameters (hidden)", script=NAME)
    assert "train on" not in outcome[2] and [*saved] == ["schedules", "perplexities"]


@pytest.mark.usefixtures("saved")
def test_only_a_run_that_is_not_finished_is_to_train_on(make_run, capsys):
    begun = make_run("begun", epoch=None)
    assert "yet: let it train on" in execute(command, [make_run(), begun], capsys)[2]
    empty = make_run("empty", hyperparameters=[])
    (empty / "status").write_text("finished\n")
    status, _, error = execute(command, [make_run("other"), empty], capsys)
    assert (status, error.count("\n")) == (0, 1)  # it has perplexities
    assert "none at all" in error and "train on" not in error


@pytest.mark.usefixtures("saved")
def test_a_column_that_is_missing_is_named(make_run, capsys):
    lossless = make_run("lossless", epoch=EPOCH_CSV.replace("val_loss", "other"))
    _, _, error = execute(command, [make_run(), lossless], capsys)
    assert error.count("\n") == 1 and "epoch.csv has no column val_loss" in error


@pytest.mark.parametrize(
    ("labels", "words"),
    [(["a", " "], "empty"), (["a", "\udcff"], "cannot be printed"), (["a", "\n"], "empty")],
)
def test_labels_that_tell_nothing_are_refused(make_run, saved, capsys, labels, words):
    refused(execute(command, [make_run("x"), make_run("y"), "--labels", *labels], capsys), words, script=NAME)
    assert not saved


def test_a_run_that_is_given_twice_has_not_two_labels(make_run, capsys):
    run = make_run()
    refused(execute(command, [run, run, "--labels", "a", "b"], capsys), run, "twice", script=NAME)


def test_runs_of_one_label_count_as_one(make_run, saved, capsys):
    runs = [make_run(f"run{number}", seed=number) for number in range(13)]
    status, _, error = execute(command, [*runs, "--labels", "ours", *["theirs"] * 12], capsys)
    assert (status, error, [*saved]) == (0, "", ["schedules", "perplexities"])


@pytest.mark.parametrize(("count", "said"), [(12, ""), (13, f"{NAME}: more than 12 runs: colours repeat\n")])
def test_more_runs_than_colours_are_drawn_and_said(make_run, saved, capsys, count, said):
    runs = [make_run(f"run{number}") for number in range(count)]
    status, _, error = execute(command, runs, capsys)
    assert (status, error, [*saved]) == (0, said, ["schedules", "perplexities"])


def test_a_folder_of_runs_is_not_a_run_but_names_them(make_run, tmp_path, capsys):
    run = make_run()
    refused(execute(command, [tmp_path], capsys), f"holds runs: give {run}", script=NAME)
    for number in range(4):
        make_run(f"run{number}")
    assert execute(command, [tmp_path], capsys)[2].endswith("…\n")


def test_a_path_that_is_too_long_is_refused_with_a_remedy_that_fits(make_run, tmp_path, capsys):
    refused(execute(command, [make_run(), "--out", tmp_path / ("x" * 300)], capsys), "--out", "too long", script=NAME)
    outcome = execute(command, ["x" * 300], capsys)
    refused(outcome, "too long; check the path", script=NAME)
    assert "--prefix" not in outcome[2]


def test_no_setting_of_the_shell_or_of_python_gets_in_the_way(make_run, tmp_path):
    """A notebook's backend, and warnings as errors, with letters that the font does not have."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "module://not_installed.backend"}
    start = [sys.executable, "-W", "error", "-m", "stn.figures", make_run("a"), make_run("b")]
    start += ["--labels", "学", "习", "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, start)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"{NAME}: the font does not have 习 学: drawn as boxes\n")


ODD = {
    "negative": EPOCH_CSV.replace(",365.0", ",-365.0").replace(",181.3", ",-20.0").replace(",200.3", ",-1.0"),
    "infinite": EPOCH_CSV.replace("5.3", "inf").replace("200.3", "inf"),
    "no number": EPOCH_CSV.replace("5.3", "nan").replace("200.3", "nan"),
    "too large": EPOCH_CSV.replace("5.3", "600").replace("200.3", "1e304"),
}


@pytest.mark.parametrize("epoch", ODD.values(), ids=ODD.keys())
def test_odd_scores_are_drawn_without_a_warning(make_run, tmp_path, capsys, recwarn, epoch):
    status, out, error = execute(command, [make_run(epoch=epoch), "--out", tmp_path / "out"], capsys)
    assert (status, error, out.count("wrote")) == (0, "", 4)
    assert not recwarn
