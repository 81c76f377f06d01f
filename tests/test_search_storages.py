"""A study's journal where the disk is full: nothing of what could not be written is kept."""

import errno
import os

import pytest
from optuna.storages.journal import JournalFileBackend
from search_runs import journal

from stn.errors import UserError
from stn.search.storages import explaining_storage_errors


@pytest.fixture
def fill(tmp_path, monkeypatch):
    """fill(): from now on half of what is appended to a journal is written, as the disk is full."""

    def half(backend, logs):  # noqa: ARG001
        with next(tmp_path.glob("*.journal")).open("ab") as file:
            file.write(b'{"op_code":')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(JournalFileBackend, "append_logs", half)


def test_a_journal_keeps_whole_lines_alone(tmp_path, fill, monkeypatch):
    study, _ = journal(tmp_path)
    file = next(tmp_path.glob("*.journal"))
    before = file.read_bytes()
    fill()
    with pytest.raises(UserError, match="No space left on device"):
        study.set_user_attr("a", 1)
    assert file.read_bytes() == before
    monkeypatch.undo()
    study.set_user_attr("a", 2)
    assert file.read_bytes().startswith(before)
    assert study.user_attrs["a"] == 2


def test_a_trial_whose_end_cannot_be_stored_is_explained(tmp_path, fill):
    study, _ = journal(tmp_path)

    def trial(_):
        fill()
        return 1.0

    with pytest.raises(UserError, match="No space left on device"), explaining_storage_errors():
        study.optimize(trial, n_trials=1)


def test_a_defect_is_not_taken_for_that():
    with pytest.raises(AssertionError), explaining_storage_errors():
        raise AssertionError
