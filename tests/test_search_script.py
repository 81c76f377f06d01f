"""The command line of black-box search: its trials, its end, what goes on, and what is refused in a line."""

import subprocess
import sys
from pathlib import Path

import pytest
from cnn_runs import SMALL as SMALL_IMAGES
from lstm_runs import SMALL, execute, rows, settings, write_corpus
from lstm_runs import refused as refused_by
from search_runs import journal, no_figures_fixture, table, trials_of  # noqa: F401

from cnn import search as cnn_search
from cnn import train_basic as cnn_train_basic
from lstm import search, train_basic
from stn.runs.checkpoints import read_checkpoint
from stn.scripts import figures as figures_script
from stn.scripts import runs as runs_script
from stn.search.studies import LEFT

FIXED = "--alpha 1 --beta 0.5 --dropouti 0.1 --dropouth 0.1 --dropoute 0.1"  # leaves dropouto and wdrop
pytestmark = pytest.mark.usefixtures("same_threads")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(tmp_path, corpus, capsys):
    """run(flags): the command line on a tiny network, with its studies in tmp_path; (exit status, stdout, stderr)."""

    def command(flags="--sampler random --trials 2", script=search):
        given = ["--data", corpus, "--save_dir", tmp_path, *SMALL.split(), *flags.split()]
        return execute(script, given, capsys)

    return command


@pytest.fixture
def quick(run, no_figures):  # noqa: ARG001
    return run


def refused(outcome, *words):
    refused_by(outcome, *words, script="search.py")
    assert "Traceback" not in outcome[2]


def steps_of(tmp_path, name):
    return [float(row["steps"]) for row in table(tmp_path / name)]


# Trials


def test_trials_are_ordinary_runs_with_figures_and_a_table_beside_them(run, tmp_path):
    status, out, error = run("--sampler random --trials 5")
    assert status == 0 and error == ""
    folder = tmp_path / "random"
    figures = ("best_so_far", "parallel_coordinates", "importances")
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "status", "study.journal", ".study.journal.lock", "trials.csv",
        *(f"trial000{number}" for number in range(5)),
        *(f"{name}.{kind}" for name in figures for kind in ("pdf", "png")),
    }  # fmt: skip
    for row in table(folder):
        own = folder / row["run"]
        assert settings(own)["script"] == "lstm/train_basic.py" and (own / "status").read_text() == "finished\n"
        assert row["state"] == "complete" and len(rows(own / "epoch.csv")) == 2
        best = min(float(epoch["val_loss"]) for epoch in rows(own / "epoch.csv"))
        (result,) = rows(own / "result.csv")
        assert float(row["val_loss"]) == best == float(result["val_loss"])
        assert "test_loss" not in result
        for name in search.EXPERIMENT.script.table:
            assert settings(own)[name] == float(row[name]) == float(rows(own / "epoch.csv")[0][name])
        assert float(row["steps"]) == read_checkpoint(own).state["train_step"] and float(row["epochs"]) == 2
    best = min(table(folder), key=lambda row: float(row["val_loss"]))
    assert f"best: {best['run']}, validation loss {float(best['val_loss']):.4f}" in out


def test_a_trial_is_reproduced_by_the_baselines_script(quick, tmp_path, corpus, capsys):
    assert quick("--sampler random --trials 1")[0] == 0
    trial = tmp_path / "random" / "trial0000"
    given = ["--config", trial, "--data", corpus, "--save_dir", tmp_path / "logs" / "again", "--threads", 1]
    assert execute(train_basic, [*given, "--disable_cuda"], capsys)[0] == 0
    (again,) = (tmp_path / "logs" / "again").glob("*/")
    assert rows(again / "result.csv")[0]["val_loss"] == rows(trial / "result.csv")[0]["val_loss"]


def test_what_a_flag_fixes_is_not_searched(quick, tmp_path):
    _, out, _ = quick(f"--sampler random --trials 2 {FIXED}")
    assert "searched: dropouto, wdrop\n" in out
    for row in table(tmp_path / "random"):
        assert "alpha" not in row
        assert settings(tmp_path / "random" / row["run"])["alpha"] == 1


def test_a_grid_ends_when_its_points_are_done(quick, tmp_path):
    status, out, error = quick(f"--sampler grid --grid_points 2 --epochs 1 {FIXED}")
    assert status == 0 and error == "" and "all points of the grid are done" in out
    points = {(float(row["dropouto"]), float(row["wdrop"])) for row in table(tmp_path / "grid")}
    assert points == {(a * 0.99, b * 0.99) for a in (0.25, 0.75) for b in (0.25, 0.75)}


@pytest.mark.parametrize("flags", ["--sampler tpe --startup_trials 2", "--sampler gp --startup_trials 2"])
def test_samplers_that_learn_say_nothing_on_stderr(quick, flags):
    status, _, error = quick(f"{flags} --trials 4 --epochs 1")
    assert (status, error) == (0, "")


def test_a_diverged_trial_counts_and_the_others_go_on(quick, tmp_path):
    """At such a learning rate all diverge."""
    status, out, error = quick("--sampler random --trials 2 --lr 3e38 --clip 1e30")
    assert status == 0 and error == "" and out.count("not finite") == 2
    assert [row["state"] for row in table(tmp_path / "random")] == ["fail", "fail"]
    assert [row["val_loss"] for row in table(tmp_path / "random")] == ["", ""]
    for number in range(2):
        assert (tmp_path / "random" / f"trial000{number}" / "status").read_text() == "diverged\n"
    assert not any(LEFT in trial.user_attrs for trial in trials_of(tmp_path, "random"))


def test_images(few_images, no_figures, tmp_path, capsys):  # noqa: ARG001
    """The small network, with its whole numbers; the baselines' script makes the same of a trial's settings."""
    flags = ["--save_dir", tmp_path, *SMALL_IMAGES.split(), "--total_epochs", 1, "--sampler", "random", "--trials", 3]
    status, out, error = execute(cnn_search, flags, capsys)
    assert status == 0 and error == "" and "cutlength" in out and "wdecay" not in out
    for row in table(tmp_path / "random"):
        own = settings(tmp_path / "random" / row["run"])
        assert own["cutlength"] == int(row["cutlength"]) in range(24) and own["cutholes"] in range(4)
        (epoch,) = rows(tmp_path / "random" / row["run"] / "epoch.csv")
        assert float(epoch["hue"]) == pytest.approx(float(row["hue"]), rel=1e-6)
    given = ["--config", tmp_path / "random" / "trial0001", "--logdir", tmp_path / "logs", "--threads", 1, "--no_cuda"]
    assert execute(cnn_train_basic, given, capsys)[0] == 0
    (again,) = (tmp_path / "logs").glob("*/*/*/result.csv")
    (result,) = rows(again)
    assert result["val_loss"] == table(tmp_path / "random")[1]["val_loss"]


# Budgets and pruning


@pytest.mark.parametrize("flags", ["", "--pruner median --seed 2", "--pruner hyperband"])
def test_a_budget_of_steps_is_spent_to_the_step(quick, tmp_path, flags):
    """One epoch has 7 steps: 100 is no multiple of them, and pruned and stopped trials count."""
    _, out, _ = quick(f"--sampler random --study x --budget 100steps {flags}")
    assert "the budget of 100 steps is spent" in out
    assert sum(steps_of(tmp_path, "x")) == 100
    for row in table(tmp_path / "x"):
        assert float(row["steps"]) == read_checkpoint(tmp_path / "x" / row["run"]).state["train_step"]
    assert ("pruned" in {row["state"] for row in table(tmp_path / "x")}) == bool(flags)
    assert table(tmp_path / "x")[-1]["state"] == "waiting"


def test_a_larger_budget_goes_on_with_the_trial_that_it_had_stopped(quick, tmp_path):
    for budget in (10, 25, 60):
        quick(f"--sampler random --budget {budget}steps")
        assert sum(steps_of(tmp_path, "random")) == budget
    # 14 steps a trial.
    assert steps_of(tmp_path, "random") == [14, 14, 14, 14, 4]
    quick("--sampler random --study whole --trials 1")
    assert table(tmp_path / "whole")[0]["val_loss"] == table(tmp_path / "random")[0]["val_loss"]


def test_a_budget_of_epochs(quick, tmp_path):
    quick("--sampler random --budget 5epochs")
    assert [float(row["epochs"]) for row in table(tmp_path / "random")] == [2, 2, 1]


def test_a_budget_of_seconds(quick, tmp_path):
    _, out, _ = quick("--sampler random --budget 0.5s --epochs 3")
    spent = sum(float(row["seconds"]) for row in table(tmp_path / "random"))
    assert "the budget of 0.5 seconds is spent" in out and spent >= 0.5
    assert spent - float(table(tmp_path / "random")[-1]["seconds"]) < 0.5


def test_a_pruned_trial_says_so_and_can_be_read(quick, tmp_path, capsys):
    quick("--sampler random --pruner median --trials 9 --epochs 4")
    pruned = [row for row in table(tmp_path / "random-median") if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        own = tmp_path / "random-median" / row["run"]
        assert (own / "status").read_text() == "pruned\n"
        assert 0 < len(rows(own / "epoch.csv")) == float(row["epochs"]) < 4
        assert float(rows(own / "result.csv")[0]["val_loss"]) == float(row["val_loss"])
    assert runs_script.main([str(tmp_path / "random-median")]) == 0
    out, error = capsys.readouterr()
    assert out.count("pruned") == len(pruned) and error == ""
    assert figures_script.main([str(own), "--out", str(tmp_path / "figures")]) == 0
    assert list((tmp_path / "figures").glob("*.pdf"))


# Going on


def test_the_same_command_goes_on(quick, tmp_path):
    quick("--sampler tpe --startup_trials 2 --trials 2")
    before = table(tmp_path / "tpe")
    _, out, _ = quick("--sampler tpe --startup_trials 2 --trials 2")
    assert "2 trials so far" in out and table(tmp_path / "tpe") == before
    quick("--sampler tpe --startup_trials 2 --trials 5")
    quick("--sampler tpe --startup_trials 2 --trials 5 --study at_once")
    assert table(tmp_path / "tpe")[:2] == before
    for one, other in zip(table(tmp_path / "tpe"), table(tmp_path / "at_once"), strict=True):
        assert {**one, "seconds": ""} == {**other, "seconds": ""}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--sampler random --lr 2", ["lr 1.0, not 2.0"]),
        ("--sampler random --seed 3", ["seed 1, not 3"]),
        ("--sampler random --dropouto 0.3", ["dropouto"]),
        ("--sampler random --epochs 3", ["epochs 2, not 3"]),
        ("--sampler gp --study random", ['sampler "random", not "gp"']),
        ("--sampler random --pruner median --study random", ["pruner"]),
    ],
)
def test_another_search_is_refused_and_nothing_is_lost(quick, tmp_path, flags, words):
    quick("--sampler random --trials 1")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    refused(quick(f"{flags} --trials 2"), "is another search", "give the same flags, or another --study", *words)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_another_experiment_is_refused(quick, few_images, tmp_path, capsys):  # noqa: ARG001
    quick("--sampler random --trials 1")
    flags = ["--save_dir", tmp_path, *SMALL_IMAGES.split(), "--sampler", "random", "--trials", 1]
    refused(execute(cnn_search, flags, capsys), "lstm/train_basic.py", "cnn/train_basic.py")


def test_other_data_is_refused(quick, tmp_path):
    quick("--sampler random --trials 1")
    other = write_corpus(tmp_path / "other", seed=5)
    refused(quick(f"--sampler random --trials 2 --data {other}"), "is another search (data ")


def test_a_study_of_another_program_is_refused(quick, tmp_path):
    (tmp_path / "random").mkdir()
    journal(tmp_path / "random")[0].optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    refused(quick(), "the study random is none of this script")


def test_runs_of_a_study_that_was_lost_are_not_taken_for_its_own(quick, tmp_path):
    quick("--sampler random --trials 2")
    (tmp_path / "random" / "study.journal").unlink()
    refused(quick(), "does not know the run", "trial0000", "--study")
    assert len(rows(tmp_path / "random" / "trial0000" / "epoch.csv")) == 2
    refused(quick(f"--sampler random --trials 2 --storage {tmp_path / 'other.journal'}"), "does not know the run")


def test_the_same_journal_serves_several_studies(quick, tmp_path):
    for name in ("one", "two"):
        assert quick(f"--sampler random --trials 1 --study {name} --storage {tmp_path / 'all.journal'}")[0] == 0
    assert len(table(tmp_path / "one")) == len(table(tmp_path / "two")) == 1
    moved = f"--sampler random --trials 2 --study one --storage {tmp_path / 'all.journal'} --save_dir {tmp_path / 'b'}"
    refused(quick(moved), "save_dir")


def test_a_relative_journal_lies_where_the_command_is_given(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quick("--sampler random --trials 1 --storage here/study.journal")[0] == 0
    assert (tmp_path / "here" / "study.journal").is_file()


# Storages that cannot be used


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00\n",
        b"not json\nat all\n",
        b"5\n",
        b'{"a": 1}\n',
        b'[1]\n{"b": 2}\n',
        b'{"op_code": 99, "worker_id": "x"}\n',
    ],
)
def test_a_journal_of_something_else_is_refused(quick, tmp_path, content):
    path = tmp_path / "random" / "study.journal"
    path.parent.mkdir()
    path.write_bytes(content)
    refused(quick(), path, "restore it, or give another --study or --storage")
    assert path.read_bytes() == content


def test_a_journal_with_a_line_in_the_middle_that_is_damaged_is_refused(quick, tmp_path):
    quick()
    path = tmp_path / "random" / "study.journal"
    lines = path.read_bytes().split(b"\n")
    lines[5] = lines[5][: len(lines[5]) // 2]
    path.write_bytes(b"\n".join(lines))
    refused(quick(), path, "is no journal of a study")


def test_a_journal_that_ends_within_a_line_is_refused_until_that_is_gone(quick, tmp_path):
    quick()
    path = tmp_path / "random" / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    refused(quick(), path, "ends within a line", "remove its last line")
    assert path.read_bytes() == whole[:-9]
    path.write_bytes(whole[: whole[:-1].rindex(b"\n") + 1])
    assert quick()[0] == 0


def test_a_journal_that_is_no_file_is_refused(quick, tmp_path):
    refused(quick(f"--sampler random --trials 1 --storage {tmp_path}"), tmp_path, "is no regular file")
    refused(quick("--sampler random --trials 1 --storage /dev/null"), "/dev/null is no regular file")
    (tmp_path / "file").touch()
    refused(quick(f"--sampler random --trials 1 --storage {tmp_path / 'file' / 'journal'}"), "file/journal")


def test_a_folder_that_cannot_be_written_is_refused(quick):
    refused(quick("--sampler random --trials 1 --storage /proc/nowhere/study.journal"), "/proc/nowhere")
    refused(quick("--sampler random --trials 1 --save_dir /proc/nowhere"), "/proc/nowhere")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://somewhere/x", ["nonsense", "check the address"]),
        ("sqlite:////proc/nowhere/x.db", ["unable to open database file", "check the address"]),
        ("mysql+nodriver://somewhere/x", ["nodriver"]),
        ("oracle+cx_oracle://me:secret@somewhere/x", ["cx_Oracle", "install the driver", "me:***@somewhere"]),
        ("://", ["check the address"]),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(quick, url, words):
    outcome = quick(f"--sampler random --trials 1 --storage {url}")
    refused(outcome, "--storage", *words)
    assert "secret" not in outcome[2]


def test_a_file_that_is_no_database_is_refused(quick, tmp_path):
    (tmp_path / "x.db").write_bytes(b"no database at all, though long enough to be looked at" * 20)
    refused(quick(f"--sampler random --trials 1 --storage sqlite:///{tmp_path / 'x.db'}"), "not a database")


def test_a_database_serves_as_a_journal_does(quick, tmp_path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    assert quick(f"--sampler random --budget 20steps --storage {url}")[::2] == (0, "")
    assert steps_of(tmp_path, "random") == [14, 6]
    assert quick(f"--sampler random --budget 30steps --storage {url}")[::2] == (0, "")
    assert steps_of(tmp_path, "random") == [14, 14, 2]
    quick("--sampler random --trials 2 --study other")
    ours, theirs = table(tmp_path / "random"), table(tmp_path / "other")
    assert ours[0]["val_loss"] == theirs[0]["val_loss"]


# Flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--sampler random", ["nothing says when the search ends"]),
        ("", ["--trials, --budget, or both"]),
        ("--sampler nonsense --trials 1", ["nonsense"]),
        ("--sampler pbt --pruner median", ["leave out --pruner"]),
        ("--sampler tpe --trials 1 --grid_points 3", ["--grid_points is of --sampler grid"]),
        ("--sampler grid --startup_trials 3", ["--startup_trials is of --sampler tpe or gp"]),
        ("--trials 1 --population 3", ["--population is of --sampler pbt"]),
        ("--trials 1 --interval 3", ["--interval is of --sampler pbt"]),
        ("--trials 0", ["'0' is not a whole number"]),
        ("--budget 5", ["'5' is no budget such as"]),
        ("--trials 1 --study a/b", ["is no name of a folder"]),
        ("--trials 1 --study ..", ["is no name of a folder"]),
        ("--trials 1 --load_schedule x.csv", ["--load_schedule"]),
        ("--trials 1 --perturb_dropouto", ["--perturb_dropouto"]),
        ("--trials 1 --prefix x", ["--prefix"]),
        (f"--trials 1 {FIXED} --dropouto 0.1 --wdrop 0.1", ["nothing is left to search"]),
        ("--sampler grid --grid_points 20", ["the grid has 1,280,000,000 points", "lower --grid_points"]),
    ],
)
def test_impossible_flags_are_refused(quick, tmp_path, flags, words):
    refused(quick(flags), *words)
    assert not list(tmp_path.iterdir())


def test_help_names_the_flags(capsys):
    status, out, _ = execute(search, ["--help"], capsys)
    assert status == 0
    for flag in ("--sampler", "--pruner", "--trials", "--budget", "--storage", "--study", "--dropouto", "--epochs"):
        assert f"  {flag}" in out
    assert "--prefix" not in out and "--perturb" not in out and "--resume" not in out


def test_the_library_does_not_import_what_only_a_search_needs():
    code = "import sys, stn, lstm.train_basic, cnn.train_basic; print({*sys.modules} & {'optuna', 'sqlalchemy'})"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
