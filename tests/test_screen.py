"""What a terminal shows of a run."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time

import pytest
from cnn_runs import ALEXNET_NAMES

from stn.bilevel import Score
from stn.recorder import Status
from stn.scripts.screen import Screen


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns): stderr from then on; terminal.text(): what is on it."""

    class Terminal:
        def __call__(self, columns):
            self.master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            self.file = os.fdopen(slave, "w")
            monkeypatch.setattr(sys, "stderr", self.file)

        def text(self):
            self.file.flush()
            return os.read(self.master, 100_000).decode()

    yield (opened := Terminal())
    monkeypatch.undo()
    opened.file.close()
    os.close(opened.master)


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_values_are_cut_between_words(terminal, columns):
    terminal(columns)
    screen = Screen("images", "acc")
    screen.names = tuple(ALEXNET_NAMES)
    values = dict.fromkeys(ALEXNET_NAMES, 0.05)
    for position in (1, 2):
        screen.update(Status(3, position, 5, Score(2.0, 0.5), 99.0, values))
        time.sleep(0.15)  # tqdm draws no more often than every 0.1 s
    text = terminal.text()
    screen.close()
    lines = [line.strip() for line in re.split(r"\x1b\[A|[\r\n]", text)]
    assert any(line.startswith("epoch 3") and len(line) <= columns for line in lines)
    line = max((line for line in lines if line.startswith("drop0")), key=len)
    *words, last = line.split()
    assert columns - 12 < len(line) <= columns if columns < 300 else last == ".050"
    assert (last == "…") == (columns < 300)
    known = {name.replace("dropout", "drop") for name in ALEXNET_NAMES} | {".050"}
    assert {*words} <= known
