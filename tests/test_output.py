"""Lines on stdout and stderr that cannot be written."""

import os
import sys
from contextlib import contextmanager

import pytest

from stn.errors import UserError
from stn.scripts.output import Lines, complain, say


@contextmanager
def unread(monkeypatch):
    """stdout as a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        yield


def test_a_reader_that_has_gone(monkeypatch):
    with unread(monkeypatch):
        with pytest.raises(BrokenPipeError):
            say("a line")
        say("what follows is dropped")


def test_a_full_disk(monkeypatch):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UserError, match="cannot write to stdout: No space left on device; free some space"):
            say("a line")
        say("what follows is dropped")


def test_an_error_that_cannot_be_told_is_no_other_error(monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        complain("train.py", "a complaint")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_lines_until_they_are_lost(monkeypatch, capsys):
    lines = Lines("train.py")
    lines.say("first")
    assert capsys.readouterr().out == "first\n" and not lines.lost
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr(sys, "stdout", full)
        lines.say("second")
        lines.say("third")
    lines.say("fourth")
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "going on without a word" in error
    assert lines.lost and not lines.broken


def test_lines_know_that_nobody_reads_them(monkeypatch, capsys):
    lines = Lines("train.py")
    with unread(monkeypatch):
        lines.say("first")
        lines.say("second")
    assert lines.lost and lines.broken and capsys.readouterr().err == ""


def test_a_complaint_is_one_line_that_cannot_upset_a_terminal(capsys):
    complain("train.py", UserError("no folder a\nb\x1b[31m\udcff: mend it"))
    assert capsys.readouterr().err == "train.py: no folder a?b?[31m?: mend it\n"


def test_a_table_keeps_its_lines(capsys):
    say("one ±\n two\x1b[2J")
    assert capsys.readouterr().out == "one ±\n two?[2J\n"
