"""Made-up runs, and what the tests of run folders ask about them."""

import subprocess
import sys

import pytest

from stn.errors import UserError
from stn.runs.folder import RunFolder

SETTINGS = {"lr": 1e-05, "tune_all": True, "seed": 3, "prefix": None, "layers": [2, 650]}


def python(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **options)


def refused(call, *words):
    """The message of the UserError that the call raises: one line that holds all these words."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


def names(path):
    """The files in a run's folder, but for the lock."""
    return sorted(file.name for file in path.iterdir() if file.name != ".lock")


def log_steps(run, *numbers):
    for step in numbers:
        run.log("val", {"global_step": step, "loss": 1 / (step + 1)})
        run.scalars(step, {"loss": 1 / (step + 1), "dropout": 0.5})


def stopped_run(path, **state):
    """A run with steps 0 to 2 in its checkpoint and steps 3 and 4 logged after it."""
    with RunFolder.create(path, SETTINGS) as run:
        log_steps(run, 0, 1, 2)
        run.save_checkpoint({"step": 3, **state})
        log_steps(run, 3, 4)
    return path
