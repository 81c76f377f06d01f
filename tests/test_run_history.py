"""Runs read back as tables: which columns are hyperparameters."""

import math
import os

import pytest
import yaml
from run_folders import refused

from stn.runs.history import read_run, words_for


@pytest.fixture
def made(tmp_path):
    def make(**settings):
        (tmp_path / "args.yaml").write_text(yaml.safe_dump(settings))
        (tmp_path / "epoch.csv").write_text("epoch,time,val_loss,b,a,a_scale,lr\n0,1.5,2,0.25,0,1,30\n")
        (tmp_path / "val.csv").write_text("train_step,time,a\n3,1,0\n5,2,0.5\n")
        return tmp_path

    return make


def curves(run, by):
    return {name: (x.tolist(), values.tolist()) for name, (x, values) in run.curves(by).items()}


def test_the_settings_say_which_columns_are_hyperparameters(made):
    run = read_run(made(hyperparameters=["a", "b", "c"]), names=["lr"])
    assert run.hyperparameters == ["a", "b", "c"]
    assert curves(run, "epoch") == {"a": ([0], [0]), "b": ([0], [0.25])}
    assert curves(run, "train_step") == {"a": ([3, 5], [0, 0.5])}
    assert run.on("epoch") == ["b"] and run.on("train_step") == ["a"]


def test_a_run_without_rows_has_no_curves(made):
    path = made(hyperparameters=["a"])
    (path / "epoch.csv").write_text("epoch,a\n0,")
    (path / "val.csv").unlink()
    assert read_run(path).curves("epoch") == read_run(path).curves("train_step") == {}


def test_an_older_runs_hyperparameters_are_those_of_its_experiment(made):
    names = {"b": 0, "c": 0, "a": 0}
    assert [*read_run(made(), names).curves("epoch")] == ["b", "a"]
    assert read_run(made(), iter(names)).hyperparameters == ["b", "c", "a"]


def test_a_run_of_which_nothing_says_it_is_refused(made):
    message = refused(lambda: read_run(made()), made() / "args.yaml", "does not say which columns are hyperparameters")
    assert "older version" in message
    assert "save_figures.py of its experiment" in message


def test_settings_that_say_nothing_of_use_count_as_an_older_runs(made):
    assert read_run(made(hyperparameters=None), ["a"]).hyperparameters == ["a"]
    refused(lambda: read_run(made(hyperparameters=3)), "does not say")


@pytest.mark.parametrize("known", [["a", 3], [["a"]]])
def test_hyperparameters_that_are_no_names_are_refused(made, known):
    refused(lambda: read_run(made(hyperparameters=known)), "does not say")


def test_words_are_those_of_the_run_or_else_of_its_experiment(made):
    run = read_run(
        made(hyperparameters=["a", "b", "c"], labels={"a": "its own"}), words={"a": "other", "b": "the table's"}
    )
    assert [words_for(name, [run]) for name in "abc"] == ["its own", "the table's", "c"]
    assert words_for("b", [read_run(made(hyperparameters=["b"])), run]) == "the table's"


@pytest.mark.parametrize("labels", [5, ["a"], {"a": 3}, {"a": ""}, {3: "a"}, None])
def test_labels_that_are_no_words_are_refused(made, labels):
    refused(lambda: read_run(made(hyperparameters=["a"], labels=labels)), "args.yaml", "labels", "mend it")


@pytest.mark.parametrize("ranges", [5, {"a": 3}, {"a": [0]}, {"a": ["0", "1"]}])
def test_ranges_that_are_none_are_refused(made, ranges):
    refused(lambda: read_run(made(hyperparameters=["a"], ranges=ranges)), "args.yaml", "ranges", "mend it")


def rates(run, by):
    return {name: (x.tolist(), values.tolist()) for name, (x, values) in run.rates(by).items()}


EPOCHS = "epoch,time,val_loss,a,lr{more}\n0,1,2,0,8{one}\n1,3,2,0,4{two}\n"
DECAYED = EPOCHS.format(more="", one="", two="")
LEARNED = EPOCHS.format(more=",hyper_lr,mu", one=",0.1,0.5", two=",0.1,0.75")


@pytest.mark.parametrize("table", ["val", "train"])
def test_a_tuned_learning_rate_goes_by_the_table_of_its_steps(made, table):
    """A language model has it in val.csv, an image classifier in train.csv."""
    path = made(hyperparameters=["a"])
    (path / "epoch.csv").write_text(LEARNED)
    (path / "val.csv").rename(path / "valid.csv")
    (path / f"{table}.csv").write_text("train_step,time,lr,hyper_lr,mu\n2,1,7,0.1,0.5\n4,2,6,0.1,0.25\n")
    run = read_run(path)
    assert run.tunes_rate
    assert rates(run, "train_step") == {"lr": ([2, 4], [7, 6]), "mu": ([2, 4], [0.5, 0.25])}
    assert rates(run, "epoch") == {"lr": ([0, 1], [8, 4]), "mu": ([0, 1], [0.5, 0.75])}


def test_another_learning_rate_is_placed_by_the_time_of_the_epochs(made):
    path = made(hyperparameters=["a"])
    (path / "epoch.csv").write_text(DECAYED)
    (path / "val.csv").write_text("train_step,time,a\n4,2,0\n8,4,0\n")
    run = read_run(path)
    assert not run.tunes_rate
    assert rates(run, "train_step") == {"lr": ([0, 2, 6], [8, 8, 4])}  # after 1 s and 3 s
    assert rates(run, "epoch") == {"lr": ([0, 1], [8, 4])}
    (path / "val.csv").unlink()
    assert rates(read_run(path), "train_step") == {"lr": ([0, 1], [8, 4])}


def test_a_run_without_rows_has_no_learning_rate(made):
    path = made(hyperparameters=["a"])
    (path / "epoch.csv").unlink()
    assert rates(read_run(path), "epoch") == rates(read_run(path), "train_step") == {}


@pytest.mark.parametrize(
    ("settings", "by", "end"),
    [
        ({"warmup_steps": 4}, "train_step", 4),
        ({"warmup_steps": 4}, "epoch", 1.5),
        ({"train_steps": 2, "valid_steps": 1}, "train_step", 4),
    ],
)
def test_rows_of_a_learning_rate_before_the_tuning_are_no_hyperparameter_steps(made, settings, by, end):
    path = made(hyperparameters=["a"], ranges={"a": [0, 1]}, **settings)
    (path / "epoch.csv").write_text(LEARNED + "2,5,2,0,4,0.1,0.75\n")
    header = "global_step,time,a,lr,hyper_lr,mu,train_step"
    (path / "val.csv").write_text(f"{header}\n2,1,0,7,0.1,0.5,2\n4,2,0,7,0.1,0.5,4\n7,4,0,7,0.1,0.5,6\n")
    assert read_run(path).warm_up(by) == end


AXES = [("epoch", "epoch"), ("epoch", "time"), ("val", "train_step"), ("val", "time")]


@pytest.mark.parametrize(("table", "column"), AXES)
def test_a_table_without_its_axis_is_refused(made, table, column):
    file = made(hyperparameters=["a"]) / f"{table}.csv"
    header, rows = file.read_text().split("\n", 1)
    file.write_text(header.replace(column, f"no_{column}") + "\n" + rows)
    refused(lambda: read_run(file.parent), file, f"no column {column}")


STEPS = "train_step,time,a\n3,1,0\n"
DAMAGE = {
    "one cell more": ("5,2,0.5,7\n", "line 3 has 4 cells, the header 3"),
    "two cells more": ("5,2,0.5,7,8\n", "line 3 has 5 cells, the header 3"),
    "a cell less": ("5,2\n", "line 3 has 2 cells, the header 3"),
    "an empty cell": ("5,2,\n", "line 3 has an empty cell"),
    "a blank line": ("\n5,2,0.5\n", "line 3 has 0 cells"),
    "a word": ("5,2,half\n", "half"),
    "no value": ("5,2,nan\n", "nan as a"),
    "an infinite value": ("5,2,inf\n", "inf as a"),
    "a value that is too large": ("5,2,1e308\n", "1e+308 as a"),
    "a negative step": ("-5,2,0.5\n", "-5 as train_step"),
    "a time without end": ("5,inf,0.5\n", "inf as time"),
}


@pytest.mark.parametrize(("row", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_row_that_training_does_not_write_is_named(made, row, words):
    file = made(hyperparameters=["a"]) / "val.csv"
    file.write_text(STEPS + row)
    refused(lambda: read_run(file.parent), file, words, "leave that run out")


def test_two_columns_of_one_name_are_refused(made):
    file = made(hyperparameters=["a"]) / "val.csv"
    file.write_text("train_step,time,a,a\n3,1,0,1\n")
    refused(lambda: read_run(file.parent), file, "one name")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_no_table(made, make):
    file = made(hyperparameters=["a"]) / "val.csv"
    file.unlink()
    make(file)
    refused(lambda: read_run(file.parent), file, "a folder or a pipe")


@pytest.mark.parametrize("text", [None, "", "epoch,time,val_loss\n"])
def test_a_finished_run_has_epochs(made, text):
    file = made(hyperparameters=["a"]) / "epoch.csv"
    (file.parent / "status").write_text("finished\n")
    assert read_run(file.parent).finished
    file.unlink() if text is None else file.write_text(text)
    refused(lambda: read_run(file.parent), file, "no rows", "finished", "restore it")
    (file.parent / "status").write_text("running\n")
    assert read_run(file.parent).epoch.empty and not read_run(file.parent).finished


def test_a_finished_runs_table_is_not_cut_off(made):
    file = made(hyperparameters=["a"]) / "val.csv"
    file.write_text(STEPS + "5,2,0.")
    assert len(read_run(file.parent).steps) == 1
    (file.parent / "status").write_text("finished\n")
    refused(lambda: read_run(file.parent), file, "cut off")


def test_scores_that_are_not_finite_are_gaps(made):
    path = made(hyperparameters=["a"])
    (path / "epoch.csv").write_text("epoch,time,val_loss,a\n0,1,inf,0\n1,2,nan,0\n2,3,7,0\n3,4,1e300,0\n")
    run = read_run(path)
    assert [*map(math.isfinite, run.epoch["val_loss"])] == [False, False, True, False] and run.best() == 2
    (path / "epoch.csv").write_text("epoch,time,val_loss,a\n0,1,inf,0\n1,2,nan,0\n")
    assert read_run(path).best() == 0


def test_a_byte_order_mark_is_no_part_of_the_first_column(made):
    file = made(hyperparameters=["a"]) / "val.csv"
    file.write_text(STEPS, encoding="utf-8-sig")
    assert curves(read_run(file.parent), "train_step") == {"a": ([3], [0])}


def test_settings_that_cannot_be_read_have_a_readers_remedy(made):
    path = made(hyperparameters=["a"])
    (path / "args.yaml").write_text("a: [")
    assert "--overwrite" not in refused(lambda: read_run(path), path, "YAML", "leave that run out")
    assert "--prefix" not in refused(lambda: read_run(path / ("x" * 300)), "too long", "leave that run out")
