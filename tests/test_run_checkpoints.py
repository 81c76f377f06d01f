"""Checkpoints: written, read back, damaged, and a run taken back to one."""

import os
import struct
from pathlib import Path

import pytest
import torch
from lstm_runs import rows
from run_folders import SETTINGS, log_steps, names, refused, stopped_run

from stn.runs.checkpoints import FORMAT, read_checkpoint
from stn.runs.folder import RunFolder
from stn.runs.tables import table_files


def test_a_resumed_run_has_no_step_twice(folder):
    stopped_run(folder, weight=torch.arange(3.0))
    for _ in range(2):
        with RunFolder.open(folder) as run:
            state = run.load_checkpoint()
            assert state["step"] == 3
            assert torch.equal(state["weight"], torch.arange(3.0))
            log_steps(run, 3, 4, 5)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 3)
        run.save_checkpoint({"step": 4})
        log_steps(run, 4)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        log_steps(run, 4, 5)
    assert [int(row["global_step"]) for row in rows(folder / "val.csv")] == list(range(6))


def test_going_back_within_one_process(folder):
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        run.save_checkpoint({})
        log_steps(run, 1, 2)
        run.load_checkpoint()
        log_steps(run, 1)
    assert [int(row["global_step"]) for row in rows(folder / "val.csv")] == [0, 1]


def test_loading_removes_what_came_after_the_checkpoint_and_nothing_foreign(folder):
    stopped_run(folder)
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        run.log("epoch", {"epoch": 1})
        run.scalars(5, {"loss": 1})
        run.write_result({"val_loss": 1})
        run.mark("finished")
    (folder / "notes.csv").write_text("mine")
    (folder / "checkpoint.pt.tmp").write_text("left over")
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
        assert run.status == "running"
    left = [name for name in names(folder) if not name.startswith("events")]
    assert left == ["args.yaml", "checkpoint.pt", "notes.csv", "status", "val.csv"]


def test_tables_are_on_disk_before_the_checkpoint_that_knows_their_lengths(folder, monkeypatch):
    synced = []
    with RunFolder.create(folder, SETTINGS) as run:
        log_steps(run, 0)
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
        inodes = [file.stat().st_ino for file in table_files(folder)]
        run.save_checkpoint({})
        done = [*synced]
    assert done == [*inodes, (folder / "checkpoint.pt").stat().st_ino, folder.stat().st_ino]


def test_no_checkpoint_yet(folder):
    RunFolder.create(folder, SETTINGS).close()
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, folder, "no checkpoint yet", "start a new run")


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
        torch.save(torch.load(path, weights_only=True) | {"format": FORMAT + 1}, path)

    def older_format(path):
        torch.save(torch.load(path, weights_only=True) | {"format": 3}, path)

    def headless(path):
        content = torch.load(path, weights_only=True)
        del content["tables"]
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
        "other format": (other_format, [f"format {FORMAT + 1}", f"format {FORMAT}"]),
        "older format": (older_format, ["format 3", "start a new run"]),
        "no tables": (headless, ["lacks"]),
    }


@pytest.mark.parametrize("damage", damaged_checkpoints())
def test_a_checkpoint_that_is_damaged_or_foreign(folder, damage):
    stopped_run(folder, weight=torch.full((1000,), 1234.5))
    harm, words = damaged_checkpoints()[damage]
    harm(folder / "checkpoint.pt")
    before = (folder / "val.csv").read_bytes()
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, folder / "checkpoint.pt", "start a new run", *words)
    assert (folder / "val.csv").read_bytes() == before


def test_a_checkpoint_is_read_without_touching_the_run(folder):
    before = {file: file.read_bytes() for file in stopped_run(folder).iterdir()}
    assert read_checkpoint(folder).state == {"step": 3} and read_checkpoint(folder).settings == SETTINGS
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("harm", [lambda file: os.truncate(file, 5), Path.unlink], ids=["short", "gone"])
def test_a_table_that_lost_what_the_checkpoint_knows(folder, harm):
    stopped_run(folder)
    file = folder / "val.csv"
    harm(file)
    with RunFolder.open(folder) as run:
        run.mark("interrupted")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with RunFolder.open(folder) as run:
        refused(run.load_checkpoint, file, "fewer", "start a new run")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"global_step", b"global_Step"),
        lambda text: text.replace(b"1.0", b"7.0"),
    ],
    ids=["line ends", "header", "number"],
)
def test_a_table_that_was_edited(folder, change):
    file = stopped_run(folder) / "val.csv"
    good = file.read_bytes()
    file.write_bytes(change(good))
    assert len(file.read_bytes()) >= len(good) and file.read_bytes() != good
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with RunFolder.open(folder) as run:
        for read in (run.read_checkpoint, run.load_checkpoint):
            refused(read, file, "does not hold what", "restore it", "start a new run")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    file.write_bytes(good)
    with RunFolder.open(folder) as run:
        assert run.load_checkpoint() == {"step": 3}
        log_steps(run, 3)
        run.save_checkpoint({"step": 4})
    with RunFolder.open(folder) as run:
        assert run.load_checkpoint() == {"step": 4}


def test_what_came_after_the_checkpoint_may_be_anything(folder):
    file = stopped_run(folder) / "val.csv"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with RunFolder.open(folder) as run:
        run.load_checkpoint()
    assert len(rows(file)) == 3


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
