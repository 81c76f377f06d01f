"""Scalars for TensorBoard: what a reader sees, after a resume too, and disks that refuse."""

import errno
import os
import time
import warnings

import pytest
import torch
from event_files import hyperparameters, numbered_from_0, scalars  # noqa: F401
from run_folders import SETTINGS, log_steps, python, stopped_run
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from tensorboard.summary.writer import event_file_writer

from stn.runs.events import EVENT_FILES
from stn.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("numbered_from_0")
# The writer's thread also prints its error.
thread_fails = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def steps(folder, tag="loss"):
    return [step for step, _ in scalars(folder).get(tag, [])]


def test_scalars_read_back(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        assert not list(folder.glob(EVENT_FILES))
        run.scalars(7, {"loss": torch.tensor(0.25), "lr": 0.5})
        run.scalars(8, {"loss": 2})
    assert len(list(folder.glob(EVENT_FILES))) == 1
    assert scalars(folder) == {"loss": [(7, 0.25), (8, 2.0)], "lr": [(7, 0.5)]}


def test_scalars_are_in_the_file_when_a_checkpoint_is_saved(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, *range(5))
        run.save_checkpoint({})
        assert steps(folder) == [0, 1, 2, 3, 4]


def test_what_a_stopped_run_logged_after_its_checkpoint_is_hidden(folder):
    stopped_run(folder)
    assert steps(folder) == [0, 1, 2, 3, 4]
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 3)
        run.save_checkpoint({})
        assert steps(folder) == [0, 1, 2, 3]
        log_steps(run, 4, 5)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 4)
    assert steps(folder) == steps(folder, "dropout") == [0, 1, 2, 3, 4]


def test_going_back_within_one_process(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        run.save_checkpoint({})
        log_steps(run, 1, 2)
        run.load_checkpoint()
        log_steps(run, 1)
    assert steps(folder) == [0, 1]


def test_a_run_goes_on_with_a_damaged_event_file(folder):
    (file,) = stopped_run(folder).glob(EVENT_FILES)
    os.truncate(file, 60)
    with RunFolder.open(folder) as run:
        assert run.load_checkpoint() == {"step": 3}
        log_steps(run, 3)
    assert steps(folder) == [3]


def test_a_run_goes_on_without_its_event_files_and_says_so(folder):
    (file,) = stopped_run(folder).glob(EVENT_FILES)
    file.unlink()
    with RunFolder.open(folder) as run:
        with pytest.warns(UserWarning, match=f"{folder} has lost {file.name}: TensorBoard misses"):
            assert run.load_checkpoint() == {"step": 3}
        log_steps(run, 3)
    assert steps(folder) == [3]


def test_settings_and_result_are_in_tensorboards_table_of_runs(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0, 1)
        run.write_result({"val_loss": 0.25, "test_loss": 0.5, "best_epoch": None, "dropout": 0.125})
    assert scalars(folder)["result/val_loss"] == [(1, 0.25)] and scalars(folder)["result/test_loss"] == [(1, 0.5)]
    assert hyperparameters(folder) == {"lr": 1e-05, "tune_all": True, "seed": 3.0}


def refuse(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_goes_on_with_one_warning(folder, run, numbers):
    with pytest.warns(UserWarning) as caught:
        for step in numbers:
            log_steps(run, step)
            run.save_checkpoint({"step": step})
    (message,) = [str(warning.message) for warning in caught]
    assert "TensorBoard misses" in message and "No space left" in message and str(folder) in message
    with warnings.catch_warnings(action="error"):
        log_steps(run, 100)
        run.save_checkpoint({"step": 100})
        assert run.load_checkpoint() == {"step": 100}
        log_steps(run, 101)
        run.close()


@thread_fails
@pytest.mark.parametrize("before", [0, 1, 5], ids="after {} steps".format)
def test_a_full_disk_costs_a_warning_and_not_the_run(folder, monkeypatch, before):
    run = RunFolder.create(folder, SETTINGS)
    log_steps(run, *range(before))
    run.save_checkpoint({})
    monkeypatch.setattr(LocalFileSystem, "_write", refuse)
    assert_goes_on_with_one_warning(folder, run, range(before, 50))
    assert steps(folder) == [*range(before)]


def test_a_file_that_cannot_be_made_costs_a_warning_and_not_the_run(folder, monkeypatch):
    run = RunFolder.create(folder, SETTINGS)
    monkeypatch.setattr(event_file_writer, "EventFileWriter", refuse)
    monkeypatch.setattr("torch.utils.tensorboard.writer.EventFileWriter", refuse)
    assert_goes_on_with_one_warning(folder, run, range(3))


@thread_fails
@pytest.mark.parametrize("number", [1, 9, 10, 11, 100])
def test_a_disk_that_fills_up_with_scalars_still_in_the_queue_stops_nothing(folder, monkeypatch, number):
    """The thread fails while the queue is full, or while the file is being closed: nothing waits for it."""

    def refuse_late(*_arguments):
        time.sleep(0.2)
        refuse()

    with warnings.catch_warnings(), RunFolder.create(folder, SETTINGS) as run:
        warnings.simplefilter("ignore")
        log_steps(run, 0)
        run.save_checkpoint({})
        monkeypatch.setattr(LocalFileSystem, "_write", refuse_late)
        for step in range(number):
            run.scalars(step, {"loss": step})
    assert steps(folder) == [0]


LIMITED = """
import resource, sys, warnings
from stn.runs.folder import RunFolder

warnings.simplefilter("always")
with RunFolder.create(sys.argv[1], {}) as run:
    run.save_checkpoint({"good": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4100, 4100))
    for step in range(300):
        run.scalars(step, {"loss": step})
    run.mark("finished")
with RunFolder.open(sys.argv[1]) as run:
    run.load_checkpoint()
    run.scalars(7, {"loss": 7})
"""


def test_a_file_that_may_not_grow_keeps_its_whole_events(folder):
    process = python(LIMITED, folder, stderr=-1)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    assert errors.count("UserWarning: TensorBoard misses") == 1 and "File too large" in errors and "ulimit" in errors
    assert len(list(folder.glob(EVENT_FILES))) == 2
    assert steps(folder) == [*range(8)]
