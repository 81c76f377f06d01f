"""Where runs lie, and which is the newest."""

import os
from datetime import date
from itertools import islice

import pytest
from run_folders import python, refused

from stn.runs.find import last_started, newest_run, run_names
from stn.runs.folder import RunFolder, claimed

DAY = date(2024, 3, 9)


def start(path, settings):
    with RunFolder.create(path, settings) as run:
        run.save_checkpoint({})


def first(names, count):
    return [*islice(names, count)]


def test_names_of_a_days_runs():
    assert (
        first(run_names(None, DAY), 3) == first(run_names("", DAY), 3) == ["2024-03-09", "2024-03-09.2", "2024-03-09.3"]
    )
    assert first(run_names("2", DAY), 2) == ["2024-03-09-2", "2024-03-09.2-2"]
    refused(lambda: run_names("a/b", DAY), "--prefix", "a/b")


def test_a_run_lies_where_none_is_or_one_of_its_configuration(tmp_path):
    def place(lr):
        with claimed(tmp_path / "logs", run_names("a", DAY), lambda other: other["lr"] == lr) as path:
            if not path.exists():
                start(path, {"lr": lr})
        return path.name

    assert [place(lr) for lr in (1, 2, 3, 2, 1)] == [f"2024-03-09{number}-a" for number in ("", ".2", ".3", ".2", "")]
    (tmp_path / "logs" / "2024-03-09.4-a").mkdir()
    (tmp_path / "logs" / "2024-03-09.4-a" / "status").write_text("running")  # of a start that failed
    (tmp_path / "logs" / "2024-03-09.2-a" / "args.yaml").write_text("[damaged")
    assert place(2) == "2024-03-09.4-a"


def test_a_folder_that_a_run_is_about_to_use_is_not_free(tmp_path):
    with RunFolder.create(tmp_path / "2024-03-09", {"lr": 1}), claimed(tmp_path, run_names(None, DAY)) as path:
        assert path.name == "2024-03-09.2"
    with claimed(tmp_path, run_names(None, DAY)) as path:  # it ended with nothing that it could go on from
        assert path.name == "2024-03-09"


STARTED_AT_ONCE = """
import sys
from stn.runs.find import run_names
from stn.runs.folder import RunFolder, claimed
from datetime import date

print("ready", flush=True)
sys.stdin.readline()
with claimed(sys.argv[1], run_names(None, date(2024, 3, 9)), lambda other: other == {"lr": sys.argv[2]}) as path:
    RunFolder.create(path, {"lr": sys.argv[2]}).save_checkpoint({})
"""


def test_runs_that_are_started_at_once_each_get_a_folder(tmp_path):
    processes = [python(STARTED_AT_ONCE, tmp_path / "logs", lr, stdin=-1, stdout=-1) for lr in range(4)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    for process in processes:
        process.stdin.close()
        process.stdout.close()
    runs = {file.parent.name: file.read_text() for file in (tmp_path / "logs").glob("*/args.yaml")}
    assert sorted(runs) == ["2024-03-09", *(f"2024-03-09.{number}" for number in (2, 3, 4))]
    assert len({*runs.values()}) == 4


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


def test_a_days_runs_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("2024-01-02.10-a", "2024-01-02.9-a", "2024-01-02-a", "2024-01-02.11-b", "2024-01-01.12-a"):
        RunFolder.create(tmp_path / name, {}).close()
    assert newest_run(tmp_path, "a") == tmp_path / "2024-01-02.10-a"
    assert newest_run(tmp_path, "b") == tmp_path / "2024-01-02.11-b"


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
