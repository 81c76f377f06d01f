"""Runs read back as tables: which columns are hyperparameters."""

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


AXES = [("epoch", "epoch"), ("epoch", "time"), ("val", "train_step"), ("val", "time")]


@pytest.mark.parametrize(("table", "column"), AXES)
def test_a_table_without_its_axis_is_refused(made, table, column):
    file = made(hyperparameters=["a"]) / f"{table}.csv"
    header, rows = file.read_text().split("\n", 1)
    file.write_text(header.replace(column, f"no_{column}") + "\n" + rows)
    refused(lambda: read_run(file.parent), file, f"no column {column}")
