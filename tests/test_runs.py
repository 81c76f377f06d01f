import csv
import errno
import os
import random
import struct
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import numpy
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from stn.errors import UserError
from stn.runs import folder as runs
from stn.runs.folder import RunFolder, newest_run, newest_unfinished, provenance, read_settings, run_path

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
    return sorted(file.name for file in path.iterdir() if file.name != ".lock")


def steps(path):
    """(tag, step) of every scalar in every event file, in order, by TensorBoard's own reader."""
    files = sorted(path.glob("events.out.tfevents.*"))
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [(value.tag, event.step) for event in events for value in event.summary.value]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "logs" / "2024-01-02"


# Starting a run


def test_create_writes_the_settings_alone_and_says_running(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        assert run.status == "running"
        assert run.settings == SETTINGS == read_settings(folder)
    assert (folder / "args.yaml").read_text().splitlines()[0] == "lr: 1.0e-05"
    assert names(folder) == ["args.yaml", "status"]


def test_a_finished_run_is_not_written_over(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.write_result({"val_loss": 4.25, "test_loss": 4.5})
        run.mark("finished")
    message = refused(lambda: RunFolder.create(folder, {}), folder, "finished", "--overwrite", "--prefix")
    assert "val_loss 4.25" in message
    assert "--resume" not in message
    assert read_settings(folder) == SETTINGS


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_not_written_over(folder, status):
    with RunFolder.create(folder, SETTINGS) as run:
        run.mark(status)
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
    foreign = ["notes.csv", "events.out.tfevents.1700000000.host.1.0", "weights.pt"]
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
    refused(lambda: RunFolder.open(tmp_path), "no run", tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", [b"a: [1,\nb: 2", b"- 1", b"", b"\xff\xfe\x00", b"1: 2", b"a: 2024-13-45"])
def test_settings_that_are_damaged(folder, text):
    RunFolder.create(folder, SETTINGS).close()
    (folder / "args.yaml").write_bytes(text)
    refused(lambda: RunFolder.open(folder), folder / "args.yaml", "--overwrite")


def test_status_outlives_the_process_and_is_one_of_four(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        run.mark("interrupted")
        with pytest.raises(ValueError, match="none of"):
            run.mark("done")
    with RunFolder.open(folder) as run:
        assert run.status == "interrupted"
        (folder / "status").write_text("")
        assert run.status == "interrupted"


# Logs


def test_each_row_is_in_the_file_at_once_and_floats_read_back_exactly(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        row = {"epoch": 1, "time": 0.1 + 0.2, "lr": torch.tensor(0.1), "wdrop": numpy.float64(1e-17)}
        row["name"] = 'a,"b'
        run.log("epoch", row)
        run.log("epoch", dict(reversed(row.items())))
        text = (folder / "epoch.csv").read_text()
    line = '1,0.30000000000000004,0.10000000149011612,1e-17,"a,""b"\n'
    assert text == "epoch,time,lr,wdrop,name\n" + line + line


def test_other_columns_or_tables_are_a_defect(folder):
    stopped_run(folder)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        before = (folder / "val.csv").read_bytes()
        for row in ({"global_step": 1}, {"global_step": 1, "loss": 2, "more": 3}):
            with pytest.raises(ValueError, match="columns"):
                run.log("val", row)
        with pytest.raises(ValueError, match="none of"):
            run.log("result", {"a": 1})
        assert (folder / "val.csv").read_bytes() == before


def test_scalars_read_back_with_tensorboard(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        assert not list(folder.glob("events*"))
        run.scalars(7, {"loss": torch.tensor(0.25), "lr": 0.5})
    (file,) = folder.glob("events.out.tfevents.*")
    version, event = EventFileLoader(str(file)).Load()
    assert version.file_version == "brain.Event:2"
    assert event.step == 7
    assert abs(event.wall_time - time.time()) < 60
    values = {value.tag: value.tensor.float_val[0] for value in event.summary.value}
    assert values == {"loss": 0.25, "lr": 0.5}


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


# Checkpoints


def test_a_resumed_run_logs_no_step_twice(folder):
    stopped_run(folder, weight=torch.arange(3.0))
    assert len(steps(folder)) == 10
    for _ in range(2):
        with RunFolder.open(folder) as run:
            state = run.load_checkpoint()
            assert state["step"] == 3
            assert torch.equal(state["weight"], torch.arange(3.0))
            assert len(steps(folder)) == 6
            log_steps(run, 3, 4, 5)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 3)
        run.save_checkpoint({"step": 4})
        log_steps(run, 4)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 4, 5)
    assert steps(folder) == [(tag, step) for step in range(6) for tag in ("loss", "dropout")]
    assert [int(row["global_step"]) for row in rows(folder / "val.csv")] == list(range(6))


def test_going_back_within_one_process(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        run.save_checkpoint({})
        log_steps(run, 1, 2)
        run.load_checkpoint()
        log_steps(run, 1)
    assert steps(folder) == [("loss", 0), ("dropout", 0), ("loss", 1), ("dropout", 1)]
    assert [int(row["global_step"]) for row in rows(folder / "val.csv")] == [0, 1]


def test_loading_removes_what_came_after_the_checkpoint_and_nothing_foreign(folder):
    stopped_run(folder)
    with RunFolder.open(folder) as run:
        run.log("epoch", {"epoch": 1})
        run.scalars(5, {"loss": 1})
        run.write_result({"val_loss": 1})
        run.mark("finished")
    (folder / "notes.csv").write_text("mine")
    (folder / "checkpoint.pt.tmp").write_text("left over")
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        assert run.status == "running"
    (events,) = folder.glob("events*")
    left = ["args.yaml", "checkpoint.pt", "notes.csv", "status", "val.csv", events.name]
    assert names(folder) == sorted(left)


def test_event_files_never_share_a_name_even_within_one_second(folder, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    for step in range(3):
        with RunFolder.create(folder, {}) if not step else RunFolder.open(folder) as run:
            log_steps(run, step)
    assert len(list(folder.glob("events*"))) == 3
    assert [step for tag, step in steps(folder) if tag == "loss"] == [0, 1, 2]


def test_logs_are_on_disk_before_the_checkpoint_that_knows_their_lengths(folder, monkeypatch):
    synced = []
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
        inodes = [file.stat().st_ino for file in runs._log_files(folder)]
        run.save_checkpoint({})
    assert synced == [*inodes, (folder / "checkpoint.pt").stat().st_ino, folder.stat().st_ino]


def test_no_checkpoint_yet(folder):
    RunFolder.create(folder, SETTINGS).close()
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, folder, "no checkpoint yet", "--overwrite")


def damaged_checkpoints():
    def cut(path):
        os.truncate(path, path.stat().st_size // 2)

    def flip(path):
        content = bytearray(path.read_bytes())
        at = content.index(struct.pack("<2f", 1234.5, 1234.5))
        content[at] ^= 1
        path.write_bytes(content)

    def old_torch(path):
        torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)

    def other_format(path):
        torch.save(torch.load(path, weights_only=True) | {"format": runs.FORMAT + 1}, path)

    def headless(path):
        content = torch.load(path, weights_only=True)
        del content["logs"]
        torch.save(content, path)

    return {
        "cut": (cut, ["damaged"]),
        "flipped bit": (flip, ["damaged"]),
        "empty": (lambda path: path.write_bytes(b""), ["damaged"]),
        "text": (lambda path: path.write_text("hello"), ["damaged"]),
        "pickle": (old_torch, ["damaged"]),
        "code": (lambda path: torch.save({"a": Path("x")}, path), ["damaged"]),
        "weights": (lambda path: torch.save({"weight": torch.zeros(2)}, path), ["not a checkpoint"]),
        "tensor": (lambda path: torch.save(torch.zeros(2), path), ["not a checkpoint"]),
        "other format": (other_format, [f"format {runs.FORMAT + 1}", f"format {runs.FORMAT}"]),
        "no lengths": (headless, ["lacks"]),
    }


@pytest.mark.parametrize("damage", damaged_checkpoints())
def test_a_checkpoint_that_is_damaged_or_foreign(folder, damage):
    stopped_run(folder, weight=torch.full((1000,), 1234.5))
    harm, words = damaged_checkpoints()[damage]
    harm(folder / "checkpoint.pt")
    before = (folder / "val.csv").read_bytes()
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, folder / "checkpoint.pt", "--overwrite", "--prefix", *words)
    assert (folder / "val.csv").read_bytes() == before


@pytest.mark.parametrize("pattern", ["val.csv", "events*"])
@pytest.mark.parametrize("harm", [lambda file: os.truncate(file, 5), Path.unlink], ids=["short", "gone"])
def test_a_log_that_lost_what_the_checkpoint_knows(folder, pattern, harm):
    stopped_run(folder)
    (file,) = folder.glob(pattern)
    harm(file)
    with RunFolder.open(folder) as run:
        run.mark("interrupted")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, file, "fewer", "--overwrite")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


# Disks that refuse

LIMITED = """
import resource, sys
from stn.errors import UserError
from stn.runs.folder import RunFolder
import torch, warnings

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
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for step in range(200):
        run.scalars(step, {"loss": step})
print(caught[0].message)
until_refused(lambda step: run.save_checkpoint({"weight": torch.zeros(10_000)}))
until_refused(lambda step: run.write_result({"a": "x" * 5000}))
"""


def test_a_file_that_may_not_grow_keeps_its_whole_records(folder):
    process = python(LIMITED, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = output.splitlines()
    assert "TensorBoard misses steps" in lines.pop(2)
    for line, name in zip(lines, ["val.csv", "val.csv", "checkpoint.pt", "result.csv"], strict=True):
        assert f"cannot write {folder / name}: File too large" in line
        assert "ulimit" in line

    table = (folder / "val.csv").read_bytes()
    assert 3900 < len(table) < 4100
    assert table.endswith(b"x\n")
    logged = [int(row["step"]) for row in rows(folder / "val.csv")]
    assert logged == list(range(len(logged)))
    written = [step for _, step in steps(folder)]
    assert written == list(range(len(written)))
    assert len(written) > 40
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


class Full:
    """A file on a disk with room for three more bytes."""

    def __init__(self, file, stuck=False):
        self.file, self.room, self.stuck = file, 3, stuck

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def truncate(self, length):
        if self.stuck:
            raise OSError(errno.EIO, "Input/output error")
        return self.file.truncate(length)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_half_a_row_that_cannot_be_taken_back_is_no_part_of_the_checkpoint(folder, monkeypatch):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        before = (folder / "val.csv").read_bytes()
        monkeypatch.setattr(run._tables["val"], "_file", Full(run._tables["val"]._file, stuck=True))
        refused(lambda: run.log("val", {"global_step": 100, "loss": 2}), "val.csv", "No space left")
        assert (folder / "val.csv").read_bytes() == before + b"100"
        run.save_checkpoint({})
        run.load_checkpoint()
        assert (folder / "val.csv").read_bytes() == before


def test_a_full_disk_takes_back_half_a_row(folder, monkeypatch):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        before = {file: file.read_bytes() for file in folder.iterdir()}
        with monkeypatch.context() as patch:
            for log in run._open_logs():
                patch.setattr(log, "_file", Full(log._file))
            row = {"global_step": 1, "loss": 2}
            refused(lambda: run.log("val", row), "val.csv", "No space left", "free some space")
            with pytest.warns(match="No space left"):
                run.scalars(1, {"loss": 1})
        assert {file: file.read_bytes() for file in folder.iterdir()} == before
        with warnings.catch_warnings(action="error"):
            log_steps(run, 1)
    assert [step for tag, step in steps(folder) if tag == "loss"] == [0, 1]
    assert len(rows(folder / "val.csv")) == 2


def test_an_interrupt_within_a_checkpoint_leaves_the_previous_one(folder, monkeypatch):
    def interrupt(_content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with RunFolder.create(folder, SETTINGS) as run:
        run.save_checkpoint({"good": 1})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "save", interrupt)
            run.save_checkpoint({"good": 2})
        assert names(folder) == ["args.yaml", "checkpoint.pt", "status"]
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
    assert runs.read_status(killed) == "running"

    last = torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["step"] + 20
    namespace = {}
    exec(WORKER, namespace)
    namespace["work"](killed, last)
    namespace["work"](whole, last)
    for name in ("val.csv", "epoch.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert steps(killed) == steps(whole) == [("loss", step) for step in range(last)]
    assert not list(killed.glob("*.tmp"))


# Names


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


# Provenance


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_provenance_names_versions_and_the_revision(tmp_path, monkeypatch):
    known = provenance()
    assert known["torch"] == torch.__version__
    assert known["numpy"] == numpy.__version__
    assert known["python"] == sys.version.split()[0]

    source = tmp_path / "runs.py"
    source.write_text("")
    monkeypatch.setattr(runs, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["revision"] is None
    git(tmp_path, "init")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "a")
    assert provenance()["revision"] is None, "the repository does not hold the source"
    git(tmp_path, "add", "runs.py")
    git(tmp_path, "commit", "-m", "b")
    git(tmp_path, "tag", "v1")
    revision = provenance()["revision"]
    assert len(revision) == 40
    assert int(revision, 16)
    source.write_text("changed")
    assert provenance()["revision"] == f"{revision}-dirty"
    monkeypatch.setenv("PATH", "")
    assert provenance()["revision"] is None
