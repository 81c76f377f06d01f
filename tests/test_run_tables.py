"""Tables that only grow by whole rows."""

import errno

import numpy
import pytest
import torch
from lstm_runs import rows
from run_folders import SETTINGS, log_steps, refused, stopped_run

from stn.runs.folder import RunFolder
from stn.runs.tables import Table, csv_line, table_files


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


def test_a_run_that_was_there_goes_on_from_its_checkpoint_alone(folder):
    before = (stopped_run(folder) / "val.csv").read_bytes()
    with RunFolder.open(folder) as run:
        for write in (lambda: log_steps(run, 9), lambda: run.save_checkpoint({})):
            with pytest.raises(ValueError, match="go back to its checkpoint before it goes on"):
                write()
    assert (folder / "val.csv").read_bytes() == before


def test_a_table_is_appended_to_below_its_own_header(tmp_path):
    path, first, length = tmp_path / "val.csv", "step,loss\n1,0.5\n", 0
    for row in ({"step": 1, "loss": 0.5}, {"loss": 0.25, "step": 2}):
        table = Table(path)
        assert table.length == length
        table.append(row)
        table.close()
        length = len(path.read_bytes())
        assert table.length == length
    assert path.read_text() == first + "2,0.25\n"
    assert table_files(tmp_path) == [path]


def test_a_line_of_csv():
    assert csv_line([1, 0.1, "a,b", torch.tensor(2.5), numpy.float64(1e-17)]) == '1,0.1,"a,b",2.5,1e-17\n'


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
        before = (folder / "val.csv").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(run._tables["val"], "_file", Full(run._tables["val"]._file))
            row = {"global_step": 1, "loss": 2}
            refused(lambda: run.log("val", row), "val.csv", "No space left", "free some space")
        assert (folder / "val.csv").read_bytes() == before
        log_steps(run, 1)
    assert len(rows(folder / "val.csv")) == 2
