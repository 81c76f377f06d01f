"""The command line: exit statuses, and paths that the user gives."""

import errno
import os

import pytest
from run_folders import refused

from stn.errors import UserError
from stn.runs.find import last_started, newest_run
from stn.scripts.options import exit_status, find
from stn.scripts.signals import Stopped


def raising(error):
    def work(*_):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("mend this"), 2, "mend this"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/some/file"),
            2,
            "/some/file: Permission denied; get",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; free some space"),
        (KeyboardInterrupt(), 130, "stopped; go on"),
        (Stopped(15), 143, "stopped; go on"),
        (Stopped(1), 129, "stopped; go on"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_how_a_script_ends(capsys, error, status, words):
    assert exit_status("train.py", raising(error), "go on") == status
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == (1 if words else 0)


def test_what_is_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status("train.py", raising(ZeroDivisionError()), "go on")
    assert exit_status("train.py", lambda: None, "") == 0 and exit_status("train.py", lambda: 3, "") == 3


def test_paths_that_are_not_there(tmp_path):
    assert find(str(tmp_path), "the run") == tmp_path and find("README.md", "it").name == "README.md"
    refused(lambda: find("", "the run"), "the run is empty")
    refused(lambda: find("nowhere", "the run"), "the run nowhere does not exist")
    refused(lambda: find("a" * 300, "the run"), "File name too long")


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "scandir", raising(PermissionError(errno.EACCES, "Permission denied")))
    for search in (lambda: newest_run(tmp_path, None), lambda: last_started(tmp_path)):
        refused(search, tmp_path, "Permission denied")
