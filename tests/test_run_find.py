"""Where runs lie, and which is the newest."""

import os
from datetime import date

import pytest
from run_folders import refused

from stn.runs.find import last_started, newest_run, run_path
from stn.runs.folder import RunFolder


def test_run_path(tmp_path):
    day = date(2024, 3, 9)
    assert run_path(tmp_path, None, day) == run_path(tmp_path, "", day) == tmp_path / "2024-03-09"
    assert run_path(tmp_path, "a", day) == tmp_path / "2024-03-09-a"
    refused(lambda: run_path(tmp_path, "a/b", day), "--prefix", "a/b")


def test_the_newest_unfinished_run_is_by_date_of_exactly_that_prefix(tmp_path):
    runs_there = ["2024-01-01", "2024-01-03", "2024-01-04", "2024-01-05-a", "2024-01-06-a-b", "2024-01-07-A"]
    for name in runs_there:
        RunFolder.create(tmp_path / name, {}).close()
    with RunFolder.open(tmp_path / "2024-01-04") as run:
        run.mark("finished")
    (tmp_path / "2024-02-01").mkdir()
    (tmp_path / "2024-02-02").write_text("a file")
    assert newest_run(tmp_path, None, unfinished=True) == tmp_path / "2024-01-03"
    assert newest_run(tmp_path, "a", unfinished=True) == tmp_path / "2024-01-05-a"
    assert newest_run(tmp_path, "a-b", unfinished=True) == tmp_path / "2024-01-06-a-b"


def test_no_unfinished_run(tmp_path):
    refused(lambda: newest_run(tmp_path / "none", "x", unfinished=True), tmp_path / "none", "-x", "there is no run")
    with RunFolder.create(tmp_path / "2024-01-01", {}) as run:
        run.mark("finished")
    refused(lambda: newest_run(tmp_path, None, unfinished=True), tmp_path, "is finished", "2024-01-01", "--epochs")
    refused(lambda: newest_run(tmp_path, "b", unfinished=True), "there is no run")


def test_newest_run_may_be_finished(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        with RunFolder.create(tmp_path / day, {}) as run:
            run.mark("finished")
    assert newest_run(tmp_path, None) == tmp_path / "2024-01-02"
    refused(lambda: newest_run(tmp_path, "b"), "there is no run")


@pytest.fixture
def tree(tmp_path):
    """Runs at several depths, each started after the one before; the last one is finished."""
    for second, name in enumerate(("b/c/2", "a", "b/c/1", "b/3")):
        with RunFolder.create(tmp_path / name, {}) as run:
            run.mark("finished" if name == "b/3" else "interrupted")
        os.utime(tmp_path / name / "args.yaml", (1e9 + second, 1e9 + second))
    return tmp_path


def test_last_started_is_by_time_at_any_depth(tree):
    assert last_started(tree) == tree / "b/3"
    assert last_started(tree, unfinished=True) == tree / "b/c/1"
    assert last_started(tree / "a") == tree / "a"
    os.utime(tree / "b/3" / "args.yaml", (1e9, 1e9))
    os.utime(tree / "b/c/1" / "args.yaml", (1e9, 1e9))
    os.utime(tree / "a" / "args.yaml", (1e9, 1e9))
    assert last_started(tree) == tree / "b/c/2"  # of those started at once, the last by name
    with RunFolder.open(tree / "a") as run:
        run.change_settings({"lr": 2})
    assert last_started(tree) == tree / "a"


def test_there_is_none_to_be_found(tree):
    refused(lambda: last_started(tree / "none"), tree / "none", "there is no run")
    refused(lambda: last_started(tree / "b/3", unfinished=True), tree / "b/3", "no unfinished run")
