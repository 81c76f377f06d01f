"""The figure of schedules from several initial values: which runs it finds, and which it leaves out."""

import matplotlib.image
import pytest
import yaml
from lstm_runs import execute, refused

from lstm import save_dropouto_schedule_plot as script

VAL = "global_step,time,dropouto,train_step\n3,1,{0},2\n6,2,{1},4\n9,3,{2},6\n"


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run(name, start, val): a run's folder below tmp_path/logs."""
    monkeypatch.setattr(script, "ROOT", tmp_path)

    def make(name, start, val=VAL, date="2026-01-02"):
        path = tmp_path / "logs" / name / date
        path.mkdir(parents=True)
        (path / "args.yaml").write_text(yaml.safe_dump({"dropouto": start, "ranges": {"dropouto": [0, 1]}}))
        if val is not None:
            (path / "val.csv").write_text(val.format(start, (start + 0.5) / 2, 0.5))
        return path

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The runs that were handed to the figure, with their initial values."""
    found = []
    original = script.schedules.initial_values

    def recording(runs, *labels):
        figure, skipped = original(runs, *labels)
        found.append([line.get_label() for line in figure.axes[0].lines])
        return figure, skipped

    monkeypatch.setattr(script.schedules, "initial_values", recording)
    return found


def test_finds_the_newest_of_each(make_run, drawn, tmp_path, capsys):
    make_run("dropouto_schedule_init05", 0.1, date="2026-01-01")
    make_run("dropouto_schedule_init05", 0.05, date="2026-01-02")
    make_run("dropouto_schedule_init90", 0.9, date="2026-01-02-prefix")
    make_run("saves", 0.3)
    status, out, error = execute(script, ["--out", tmp_path / "plots" / "figure"], capsys)
    assert (status, error) == (0, "")
    assert drawn == [["0.05", "0.9"]]
    files = [tmp_path / "plots" / f"figure.{kind}" for kind in ("pdf", "png")]
    assert out.splitlines() == [f"wrote {file}" for file in files]
    assert files[0].read_bytes().startswith(b"%PDF")
    height, width, _ = matplotlib.image.imread(files[1]).shape
    assert width == 990 and height > 500  # a paper's column, 3.3 inches, at 300 dots per inch


def test_takes_folders_as_arguments(make_run, drawn, tmp_path, capsys):
    paths = [make_run("mine", 0.7), make_run("others", 0.3)]
    assert execute(script, [*paths, "--out", tmp_path / "figure"], capsys)[0] == 0
    assert drawn == [["0.3", "0.7"]]


def test_by_default_it_is_written_to_plots(capsys):
    assert execute(script, ["--help"], capsys)[0] == 0
    assert script.parser().parse_args([]).out == script.ROOT / "plots" / "stn_dropouto_schedules"


def test_missing_and_half_written_runs_are_named_and_skipped(make_run, drawn, tmp_path, capsys):
    make_run("dropouto_schedule_init05", 0.05)
    half = make_run("dropouto_schedule_init30", 0.3, val=None)
    broken = make_run("dropouto_schedule_init50", 0.5, val="global_step,time,dropouto,train_step\n3,1,what,2\n")
    missing = tmp_path / "logs" / "dropouto_schedule_init90"
    missing.mkdir()
    cut = make_run("dropouto_schedule_init70", 0.7)
    (cut / "val.csv").write_text((cut / "val.csv").read_text()[:-4])  # within its last row
    status, _, error = execute(script, ["--out", tmp_path / "figure"], capsys)
    assert status == 2 and drawn == [["0.05", "0.7"]]
    lines = error.splitlines()
    assert len(lines) == 3 and all("left out" in line for line in lines)
    for path in (half, broken, missing):
        assert sum(str(path) in line for line in lines) == 1


def test_a_run_that_is_given_and_missing_is_named_and_skipped(make_run, drawn, tmp_path, capsys):
    status, _, error = execute(script, [tmp_path / "nowhere", make_run("mine", 0.5), "--out", tmp_path / "f"], capsys)
    assert status == 2 and drawn == [["0.5"]]
    assert error.count("\n") == 1 and str(tmp_path / "nowhere") in error and "does not exist" in error


def test_nothing_to_draw(make_run, tmp_path, capsys):
    run = make_run("mine", 0.5, val=None)
    for arguments, words in (
        ([], "--tune_dropouto"),
        ([run], "nothing to draw"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([""], "it is empty"),
        ([run, "--out", ""], "it is empty"),
        ([run, "--labels", "a", "b"], "2 names to 1 runs"),
    ):
        refused(execute(script, ["--out", tmp_path / "figure", *arguments], capsys), words, script=script.NAME)


def test_labels_name_the_lines_and_a_run_left_out_does_not_shift_them(make_run, drawn, tmp_path, capsys):
    runs = [make_run("high", 0.9), tmp_path / "nowhere", make_run("low", 0.1)]
    command = [*runs, "--labels", "first", "missing", "last", "--out", tmp_path / "figure"]
    refused(execute(script, command, capsys), "nowhere", script=script.NAME)
    assert drawn == [["last", "first"]]


def test_a_run_that_is_given_twice_is_drawn_once(make_run, drawn, tmp_path, capsys):
    run = make_run("mine", 0.5)
    assert execute(script, [run, run.parent, "--out", tmp_path / "figure"], capsys)[0] == 0
    assert drawn == [["0.5"]]


def test_what_is_replaced_is_said(make_run, tmp_path, capsys):
    command = [make_run("mine", 0.5), "--out", tmp_path / "figure"]
    (tmp_path / "figure.png").touch()
    pdf, png = (tmp_path / f"figure.{kind}" for kind in ("pdf", "png"))
    assert execute(script, command, capsys)[1].splitlines() == [f"wrote {pdf}", f"wrote {png} (replaced)"]


@pytest.mark.parametrize(
    ("settings", "val", "words"),
    [
        ({"ranges": {}}, VAL, "did not tune dropouto"),
        ({"ranges": None}, VAL, "does not say what it tuned"),
        ({}, "global_step,time,dropouto,train_step\n3,1,nan,2\n", "nan as dropouto"),
        ({}, "global_step,time,alpha,train_step\n3,1,1,2\n", "no column dropouto"),
        ({}, None, "yet: let it train on"),
    ],
)
def test_what_is_left_out_has_the_true_reason(make_run, drawn, tmp_path, capsys, settings, val, words):
    odd = make_run("odd", 0.5, val=val)
    known = yaml.safe_load((odd / "args.yaml").read_text()) | settings
    known = {name: value for name, value in known.items() if value is not None}
    (odd / "args.yaml").write_text(yaml.safe_dump(known))
    outcome = execute(script, [odd, make_run("mine", 0.3), "--out", tmp_path / "figure"], capsys)
    refused(outcome, odd, words, script=script.NAME)
    assert ("train on" in outcome[2]) == ("train on" in words) and drawn == [["0.3"]]


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_suffix_is_not_added_twice(make_run, tmp_path, capsys, suffix):
    out = execute(script, [make_run("mine", 0.5), "--out", tmp_path / f"a.b.{suffix}"], capsys)[1]
    assert out.splitlines() == [f"wrote {tmp_path}/a.b.pdf", f"wrote {tmp_path}/a.b.png"]


def test_a_folder_is_no_figures_path(make_run, tmp_path, capsys):
    run = make_run("mine", 0.5)
    for out in (f"{tmp_path}/new/", tmp_path):
        refused(execute(script, [run, "--out", out], capsys), "is a folder", "name", script=script.NAME)


def test_seeds_of_one_configuration_may_have_one_label(make_run, drawn, tmp_path, capsys):
    runs = [make_run("a", 0.5), make_run("b", 0.3)]
    assert execute(script, [*runs, "--labels", "ours", "ours", "--out", tmp_path / "figure"], capsys)[0] == 0
    assert drawn == [["ours", "ours"]]
