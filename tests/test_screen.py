"""What a run shows: on terminals of any size, in a log, and of its end."""

import fcntl
import math
import os
import pty
import re
import struct
import sys
import termios
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from cnn_runs import ALEXNET_NAMES

from stn.bilevel import Score
from stn.hyperparameters import Hyperparameters, Tuned
from stn.learning_rates import LearningRate
from stn.recorder import Status
from stn.schedules import Constant
from stn.scripts import screen as screens
from stn.scripts.course import Result
from stn.scripts.output import Lines
from stn.scripts.screen import Screen, duration, in_words
from stn.training import Plan


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns): stderr from then on; terminal.text(): what is on it."""

    class Terminal:
        def __call__(self, columns, rows=24):
            self.master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self.file = os.fdopen(slave, "w")
            monkeypatch.setattr(sys, "stderr", self.file)

        def text(self):
            self.file.flush()
            return os.read(self.master, 100_000).decode()

    yield (opened := Terminal())
    monkeypatch.undo()
    with suppress(OSError):
        opened.file.close()
    os.close(opened.master)


class Data:
    description = "a few images"


def started(sources=None, train_step=0, epoch=0, **plan):
    """A screen of a run of epochs of 100 steps, 3 epochs long, that has shown its first lines."""
    trainer = SimpleNamespace(
        hyper=Hyperparameters(**(sources or {"rate": Tuned(0.25, (0, 1)), "other": Constant(2.0)})),
        task=SimpleNamespace(position=(0, 100), likelihood=True, model=SimpleNamespace(parameters=list)),
        plan=Plan(**{"epochs": 3, **plan}),
        learning_rate=LearningRate(1.0),
        recorder=SimpleNamespace(epoch_started=0.0),
        train_step=train_step,
        epoch=epoch,
        done=lambda: "all 3 epochs are done",
    )
    run = SimpleNamespace(
        path="logs/here", resumed=False, settings={"device": "cpu", "threads": 1, "seed": 3, "dtype": "float32"}
    )
    made = Screen("images", "a new run", "as asked for", Lines("train.py"))
    made.started(trainer, run, Data())
    return made


def status(position=50, epoch=0, seconds=30.0, values=None):
    values = values or {"rate": 0.25, "other": 2.0}
    return Status(epoch, position, 100, 100 * epoch + position, Score(2.0, 0.5), 99.0, seconds, values)


# On a terminal


@pytest.mark.parametrize("rows", [0, 1, 24])
@pytest.mark.parametrize("columns", [0, 1, 5, 19, 20, 40, 80, 300])
def test_values_are_cut_between_words(terminal, columns, rows):
    terminal(columns, rows)
    screen = started(dict.fromkeys(ALEXNET_NAMES, Tuned(0.05, (0, 1))))
    for position in (1, 2):
        screen.update(status(position, seconds=0.3 * position, values=dict.fromkeys(ALEXNET_NAMES, 0.05)))
        time.sleep(0.15)  # tqdm draws no more often than every 0.1 s
    text = terminal.text()
    screen.close()
    lines = [line.strip() for line in re.split(r"\x1b\[A|[\r\n]", text)]
    columns = columns if columns >= 20 else 80
    assert all(len(line) <= columns for line in lines)
    assert any(line.startswith("epoch 0") for line in lines)
    line = max((line for line in lines if line.startswith("drop0")), key=len)
    *words, last = line.split()
    assert columns - 13 < len(line) <= columns if columns < 300 else last == ".050"
    assert (last == "…") == (columns < 300)
    known = {name.replace("dropout", "drop") for name in ALEXNET_NAMES} | {".050"}
    assert {*words} <= known
    if columns >= 80:
        assert any("29 s left, run at most 89 s" in line for line in lines)
        assert any(line.startswith("loss 2.000 accuracy 50.0%") and "99 images/s" in line for line in lines)


def test_a_terminal_that_goes_does_not_end_a_run(terminal):
    terminal(80)
    screen = started()
    screen.update(status(1))
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDONLY)
    for position in range(2, 20):
        time.sleep(0.02)
        screen.update(status(position))
    screen.epoch_ended({"epoch": 0, "time": 1.0, "train_acc": 0.5, "val_acc": 0.5, "lr": 1.0, "rate": 0.5}, best=True)


# In a log


def test_a_log_has_a_line_a_minute(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
    screen = started()
    for position in range(1, 100):  # two seconds each
        clock[0] += 2.0
        screen.update(status(position, seconds=2.0 * position))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["30%", "60%", "90%"]
    assert lines[0].split("left")[0].split()[-2:] == ["140", "s"]
    assert "train loss 2.000  accuracy 50.0%  99 images/s" in lines[0]
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_an_epoch_without_a_weight_step_yet_shows_no_score(capsys, monkeypatch):
    """As after its evaluation, when hyperparameter steps follow."""
    clock = [0.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
    screen = started()
    clock[0] = 100.0
    screen.update(status(0)._replace(score=Score(math.nan)))
    assert capsys.readouterr().err == ""
    screen.update(status(1))
    assert "train loss 2.000" in capsys.readouterr().err


def test_lines_on_stdout_put_progress_off(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
    screen = started()
    for second in range(0, 300, 10):
        clock[0] = second
        screen.update(status())
        if second % 50 == 0:
            screen.say("an epoch's line")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (179, "179 s"), (180, "3 min"), (3 * 3600 - 1, "180 min"), (3 * 3600, "3 h"), (1e6, "12 d")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_time_that_remains():
    screen = started(epochs=4)
    assert screen.remaining(status(25, seconds=10.0)) == "30 s left, run at most 150 s"  # 3 more epochs of 40 s
    row = {"time": 100.0, "epoch": 0, "train_acc": 0.5, "val_acc": 0.5, "lr": 1.0, "rate": 0.5}
    screen.epoch_ended(row, best=True)
    assert screen.remaining(status(50, epoch=1, seconds=20.0)) == "20 s left, run at most 4 min"  # 2 more of 100 s
    screen.epoch_ended({**row, "time": 160.0, "epoch": 1}, best=True)
    assert screen.remaining(status(50, epoch=3, seconds=20.0)) == "20 s left, run at most 20 s"


# What is said


def test_the_warm_up_is_announced_and_its_end_told(capsys):
    screen = started(warmup_steps=250, epochs=5)
    assert "warm-up until weight step 250, in epoch 2; tuning starts after it\n" in capsys.readouterr().out
    for epoch, position in ((0, 10), (2, 40), (3, 8), (3, 18)):  # what is fetched late
        screen.update(status(position, epoch))
    assert capsys.readouterr().out == "epoch   2  warm-up is over since weight step 250: tuning has started\n"


@pytest.mark.parametrize("how", [{"train_step": 250, "warmup_steps": 250}, {"sources": {"rate": Constant(0.5)}}])
def test_without_a_warm_up_nothing_is_said_of_it(capsys, how):
    screen = started(**{"warmup_steps": 9, **how})
    screen.update(status(99, 4))
    assert "warm-up" not in capsys.readouterr().out


def test_first_and_last_lines(capsys):
    screen = started()
    assert capsys.readouterr().out.splitlines() == [
        *("a new run", "a few images", "0 weights; tuned: rate", "cpu, 1 CPU thread, seed 3"),
        *("products in float32, as asked for", "logs in logs/here"),
    ]
    screen.ended(completed=True)
    assert capsys.readouterr().out == "all 3 epochs are done: evaluating the best model\n"
    screen.ended(completed=False)
    assert "interrupted" in capsys.readouterr().out
    measures = {"val_loss": 0.25, "val_acc": 0.5, "test_loss": 0.75, "test_acc": 0.125}
    best = {"epoch": 7, "time": 1234.0}
    screen.result(Result(measures, True, best, {"rate": 0.25, "dropouto": 0.5}, 2000.0), "in logs/here")
    assert capsys.readouterr().out.splitlines() == [
        "best model, of epoch 7, after 21 min of 33 min, in logs/here:",
        "           valid loss 0.2500, accuracy 50.00%; test loss 0.7500, accuracy 12.50%",
        "           rate .250 dropo .500",
    ]
    screen.result(Result(measures, False, None, {"rate": 0.25}, 3.0), "of logs/here")
    assert capsys.readouterr().out.startswith("current model, as no epoch has ended yet, after 3 s, of logs/here:\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        ({"threads": 2}, ["2 CPU threads"]),
        ({"seed": 0, "dtype": "float32"}, ["seed 0", "products in float32"]),
    ],
)
def test_what_a_run_of_ones_own_recorded_is_shown(capsys, settings, words):
    screen = started()
    capsys.readouterr()
    run = SimpleNamespace(path="logs/here", resumed=False, settings=settings)
    screen.started(screen.trainer, run)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines[2:-1]] == words


def test_a_screen_must_know_its_run():
    with pytest.raises(ValueError, match="call its `started` first"):
        Screen().update(status())


def test_values_in_words():
    assert in_words(("dropouto", "alpha"), {"dropouto": 0.05, "alpha": 12.0}) == "dropo .050 alpha 12.000"


def test_a_run_goes_on_when_stdout_is_full_and_says_so_once(capsys, monkeypatch):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        screen = started()
        screen.say("more")
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train.py: going on without a word" in error and "No space left" in error
    assert screen.lines.lost and not screen.lines.broken


def test_a_run_notices_that_nobody_reads_it(capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        screen = started()
        screen.say("more")
    assert screen.lines.broken and capsys.readouterr().err == ""
