"""A run's folder: starting a run and going back to it, status, lock, and disks that refuse."""

import errno
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
import torch
from event_files import scalars
from lstm_runs import rows
from run_folders import SETTINGS, log_steps, names, python, refused, stopped_run

from stn.runs.folder import RunFolder, read_settings, read_status

# Starting a run


def test_create_writes_the_settings_alone_and_says_running(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        assert run.status == "running"
        assert run.settings == SETTINGS == read_settings(folder)
    assert (folder / "args.yaml").read_text().splitlines()[0] == "lr: 1.0e-05"
    assert names(folder) == ["args.yaml", "status"]


def test_a_finished_run_is_not_written_over(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({})
        run.write_result({"val_loss": 4.25, "test_loss": 4.5})
        run.mark("finished")
    message = refused(lambda: RunFolder.create(folder, {}), folder, "finished", "--overwrite", "--prefix")
    assert "val_loss 4.25" in message
    assert "train it on with --resume" in message
    assert read_settings(folder) == SETTINGS


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_not_written_over(folder, status):
    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({})
        run.mark(status)
        run.close()
    (folder / "status").write_text(status)
    refused(lambda: RunFolder.create(folder, {}), folder, status, "--resume", "--overwrite", "--prefix")


def test_logs_without_settings_are_not_appended_to(folder):
    stopped_run(folder)
    (folder / "args.yaml").unlink()
    refused(lambda: RunFolder.create(folder, SETTINGS), folder, "args.yaml", "--overwrite")


def test_a_refused_start_lets_go_of_the_lock(folder):
    stopped_run(folder)
    refused(lambda: RunFolder.create(folder, {}))
    RunFolder.open(folder).close()


def test_overwrite_removes_what_a_run_writes_and_nothing_else(folder):
    stopped_run(folder)
    (folder / "events.out.tfevents.1700000000.host.1.0").write_text("")
    foreign = ["notes.csv", "weights.pt"]
    for name in foreign:
        (folder / name).write_text("mine")
    (folder / "checkpoint.pt.tmp").write_text("left over")
    RunFolder.create(folder, {"lr": 2}, overwrite=True).close()
    assert names(folder) == sorted(["args.yaml", "status", *foreign])
    assert all((folder / name).read_text() == "mine" for name in foreign)
    assert read_settings(folder) == {"lr": 2}


def test_a_start_that_was_killed_before_its_settings_leaves_nothing_in_the_way(folder):
    folder.mkdir(parents=True)
    (folder / "status").write_text("running\n")
    (folder / "args.yaml.tmp").write_text("lr: 1")
    RunFolder.create(folder, SETTINGS).close()
    assert names(folder) == ["args.yaml", "status"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_the_folder_should_be(tmp_path, place):
    (tmp_path / "file").write_text("")
    refused(lambda: RunFolder.create(tmp_path / place, {}), tmp_path / place, "move away the file")


# Going back to a run


def test_open_without_a_run(tmp_path):
    refused(lambda: RunFolder.open(tmp_path / "none"), "no run", tmp_path / "none")
    refused(lambda: RunFolder.open(tmp_path), "no run", tmp_path, "check the folder's name")
    assert names(tmp_path) == []


def test_open_without_its_settings(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({})
    (folder / "args.yaml").unlink()
    refused(lambda: RunFolder.open(folder), folder, "restore args.yaml")


@pytest.mark.parametrize("text", [b"a: [1,\nb: 2", b"- 1", b"", b"\xff\xfe\x00", b"1: 2", b"a: 2024-13-45"])
def test_settings_that_are_damaged(folder, text):
    RunFolder.create(folder, SETTINGS).close()
    (folder / "args.yaml").write_bytes(text)
    refused(lambda: RunFolder.open(folder), folder / "args.yaml", "start a new run")


def test_status_outlives_the_process_and_is_one_of_four(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.mark("interrupted")
        with pytest.raises(ValueError, match="none of"):
            run.mark("done")
    with RunFolder.open(folder) as run:
        assert run.status == "interrupted"
        (folder / "status").write_text("")
        assert run.status == "interrupted"


def test_a_closed_folder_takes_nothing_more(folder):
    run = RunFolder.create(folder, SETTINGS)
    log_steps(run, 0)
    run.close()
    run.close()
    for call in (lambda: log_steps(run, 1), lambda: run.scalars(1, {}), lambda: run.save_checkpoint({})):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_result_is_one_row(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.write_result({"val_loss": 1.5, "test_loss": torch.tensor(2.5)})
        run.write_result({"val_loss": 0.1, "test_loss": 0.2})
    assert (folder / "result.csv").read_text() == "val_loss,test_loss\n0.1,0.2\n"


# Disks that refuse


LIMITED = """
import resource, sys
from stn.errors import UserError
from stn.runs.folder import RunFolder
import torch

run = RunFolder.create(sys.argv[1], {})
run.save_checkpoint({"good": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (4100, 4100))

def until_refused(call):
    try:
        for step in range(1000):
            call(step)
    except UserError as error:
        print(error)

until_refused(lambda step: run.log("val", {"step": step, "text": "x" * 90}))
until_refused(lambda step: run.log("val", {"step": step, "text": "x" * 90}))
until_refused(lambda step: run.save_checkpoint({"weight": torch.zeros(10_000)}))
until_refused(lambda step: run.write_result({"a": "x" * 5000}))
"""


def test_a_file_that_may_not_grow_keeps_its_whole_rows(folder):
    process = python(LIMITED, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = output.splitlines()
    for line, name in zip(lines, ["val.csv", "val.csv", "checkpoint.pt", "result.csv"], strict=True):
        assert f"cannot write {folder / name}: File too large" in line
        assert "ulimit" in line

    table = (folder / "val.csv").read_bytes()
    assert 3900 < len(table) < 4100
    assert table.endswith(b"x\n")
    logged = [int(row["step"]) for row in rows(folder / "val.csv")]
    assert logged == list(range(len(logged)))
    assert not [name for name in names(folder) if name.endswith(".tmp") or name == "result.csv"]
    with RunFolder.open(folder) as run:
        assert run.load_checkpoint() == {"good": 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_system_refuses_is_said_in_words(folder, monkeypatch, number):
    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({"good": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            for call in (
                lambda: run.save_checkpoint({"good": 2}),
                lambda: run.mark("failed"),
                lambda: run.write_result({}),
            ):
                refused(call, f"cannot write {folder}", os.strerror(number), "; ")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            refused(lambda: log_steps(run, 1), folder / "val.csv", os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refuse)
            refused(lambda: RunFolder.create(folder / "new", {}), folder / "new", os.strerror(number))
        assert names(folder) == ["args.yaml", "checkpoint.pt", "status"]
        assert run.status == "running"
        assert run.load_checkpoint() == {"good": 1}


# Other processes


HOLDER = """
import sys, time
from stn.runs.folder import RunFolder
run = RunFolder.open(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(folder):
    stopped_run(folder)
    process = python(HOLDER, folder, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "locked\n"
        before = names(folder)
        start = time.monotonic()
        for call in (
            lambda: RunFolder.open(folder),
            lambda: RunFolder.create(folder, {}),
            lambda: RunFolder.create(folder, {}, overwrite=True),
        ):
            refused(call, folder, "another process is using")
        assert time.monotonic() - start < 1
        assert names(folder) == before
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    RunFolder.open(folder).close()


WORKER = """
from stn.runs.folder import RunFolder

def work(path, last):
    with RunFolder.open(path) as run:
        state = run.load_checkpoint()
        step, weight = state["step"], state["weight"]
        print("started", flush=True)
        while step < last:
            weight = weight + 1 / (step + 1)
            run.log("val", {"step": step, "loss": weight.mean()})
            run.scalars(step, {"loss": step})
            step += 1
            if not step % 10:
                run.log("epoch", {"epoch": step // 10, "loss": weight.mean()})
            if not step % 5:
                run.save_checkpoint({"step": step, "weight": weight})
        run.mark("finished")
"""


def test_a_run_that_is_killed_over_and_over_ends_as_one_that_was_not(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for path in (killed, whole):
        with RunFolder.create(path, {}) as run:
            run.save_checkpoint({"step": 0, "weight": torch.zeros(100)})
    chance = random.Random(0)
    for _ in range(5):
        process = python(WORKER + "import sys; work(sys.argv[1], 10**9)", killed, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.wait()
        process.stdout.close()
    assert read_status(killed) == "running"

    last = torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["step"] + 20
    for path in (killed, whole):
        finished = python(
            WORKER + "import sys; work(sys.argv[1], int(sys.argv[2]))", path, last, stdout=subprocess.DEVNULL
        )
        assert finished.wait(60) == 0
    for name in ("val.csv", "epoch.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert scalars(killed) == scalars(whole) == {"loss": [(step, step) for step in range(last)]}
    assert not list(killed.glob("*.tmp"))
