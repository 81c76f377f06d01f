"""Where runs lie, and which is the newest."""

import os
from datetime import date

import pytest
from run_folders import refused

from stn.runs.find import last_started, newest_of_any_prefix, newest_run, newest_unfinished, run_path, runs_below
from stn.runs.folder import RunFolder


def test_run_path(tmp_path):
    day = date(2024, 3, 9)
    assert run_path(tmp_path, None, day) == run_path(tmp_path, "", day) == tmp_path / "2024-03-09"
    assert run_path(tmp_path, "a", day) == tmp_path / "2024-03-09-a"
    refused(lambda: run_path(tmp_path, "a/b", day), "--prefix", "a/b")


def test_newest_unfinished_is_by_date_of_exactly_that_prefix(tmp_path):
    runs_there = ["2024-01-01", "2024-01-03", "2024-01-04", "2024-01-05-a", "2024-01-06-a-b", "2024-01-07-A"]
    for name in runs_there:
        RunFolder.create(tmp_path / name, {}).close()
    with RunFolder.open(tmp_path / "2024-01-04") as run:
        run.mark("finished")
    (tmp_path / "2024-02-01").mkdir()
    (tmp_path / "2024-02-02").write_text("a file")
    assert newest_unfinished(tmp_path, None) == tmp_path / "2024-01-03"
    assert newest_unfinished(tmp_path, "a") == tmp_path / "2024-01-05-a"
    assert newest_unfinished(tmp_path, "a-b") == tmp_path / "2024-01-06-a-b"


def test_no_unfinished_run(tmp_path):
    refused(lambda: newest_unfinished(tmp_path / "none", "x"), tmp_path / "none", "-x", "there is no run")
    with RunFolder.create(tmp_path / "2024-01-01", {}) as run:
        run.mark("finished")
    refused(lambda: newest_unfinished(tmp_path, None), tmp_path, "is finished", "2024-01-01", "--epochs")
    refused(lambda: newest_unfinished(tmp_path, "b"), "there is no run")


def test_newest_run_may_be_finished(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        with RunFolder.create(tmp_path / day, {}) as run:
            run.mark("finished")
    assert newest_run(tmp_path, None) == tmp_path / "2024-01-02"
    refused(lambda: newest_run(tmp_path, "b"), "there is no run")


def test_newest_of_any_prefix_is_the_last_by_name(tmp_path):
    for name in ("2024-01-02-a", "2024-01-01-b", "2024-01-01"):
        RunFolder.create(tmp_path / name, {}).close()
    (tmp_path / "2024-01-03").mkdir()
    assert newest_of_any_prefix(tmp_path) == tmp_path / "2024-01-02-a"
    refused(lambda: newest_of_any_prefix(tmp_path / "none"), tmp_path / "none", "there is no run")


@pytest.fixture
def tree(tmp_path):
    """Runs at several depths, each started after the one before; the last one is finished."""
    for second, name in enumerate(("b/c/2", "a", "b/c/1", "b/3")):
        with RunFolder.create(tmp_path / name, {}) as run:
            run.mark("finished" if name == "b/3" else "interrupted")
        os.utime(tmp_path / name / "args.yaml", (1e9 + second, 1e9 + second))
    return tmp_path


def test_runs_below(tree):
    assert runs_below(tree) == [tree / "a"]
    assert runs_below(tree, "b/*") == [tree / "b/3"]
    assert runs_below(tree, "**") == [tree / name for name in ("a", "b/3", "b/c/1", "b/c/2")]
    assert runs_below(tree / "none") == runs_below(tree / "none", "**") == []


def test_last_started_is_by_time_at_any_depth(tree):
    assert last_started(tree) == tree / "b/3"
    assert last_started(tree, unfinished=True) == tree / "b/c/1"
    assert last_started(tree / "a") == tree / "a"
    with RunFolder.open(tree / "a") as run:
        run.change_settings({"lr": 2})
    assert last_started(tree) == tree / "a"


def test_there_is_none_to_be_found(tree):
    refused(lambda: last_started(tree / "none"), tree / "none", "there is no run")
    refused(lambda: last_started(tree / "b/3", unfinished=True), tree / "b/3", "no unfinished run")
