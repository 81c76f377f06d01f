"""Where the workers of a study share it: a journal, which is a file, or a database."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from stn.errors import UserError, one_line
from stn.files import explaining_os_errors
from stn.search.studies import take_up

JOURNAL = "study.journal"  # in a study's folder, where no other storage is given
FAILURES = (SQLAlchemyError, StorageInternalError, json.JSONDecodeError, UnicodeDecodeError)
EXAMPLE = "postgresql+psycopg2://user:password@host/name"
HEARTBEAT = 30  # seconds between two signs of life of a trial, on a database; after two of them it is given up


def open_storage(address: str) -> BaseStorage:
    """A database by its URL, or a journal by its file. Raises UserError where it cannot be used."""
    return open_database(address) if "://" in address else open_journal(Path(address))


class JournalLock:
    """A journal's lock. That of Optuna would hold the others up where the process that holds it is killed."""

    def __init__(self, path: Path):
        self.path, self.lock = path, filelock.FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self) -> bool:
        try:
            self.lock.acquire()
        except NotImplementedError as error:
            raise UserError(f"{self.path} is on a file system without locks: give another --storage") from error
        return True

    def release(self) -> None:
        self.lock.release()


class JournalFile(JournalFileBackend):
    """A journal's file. That of Optuna would keep a part of what a full disk has cut off, which spoils the journal."""

    def __init__(self, path: Path, lock: JournalLock):
        super().__init__(str(path), lock)
        self.path, self.lock = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write all of it or nothing. Raises UserError where the file cannot be written."""
        self.lock.acquire()
        try:
            with explaining_os_errors(self.path):
                size = self.path.stat().st_size
                try:
                    super().append_logs(logs)
                except OSError:
                    os.truncate(self.path, size)
                    raise
        finally:
            self.lock.release()


def open_journal(path: Path) -> JournalStorage:
    if path.exists() and not path.is_file():
        raise UserError(f"--storage {path} is no regular file: give another")
    with explaining_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        lock = JournalLock(path)
        try:
            refuse_damaged_end(path, lock)
            return JournalStorage(JournalFile(path, lock))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            cause = f"{path} is no journal of a study ({one_line(repr(error))})"
            raise UserError(f"{cause}: restore it, or give another --study or --storage") from error


def refuse_damaged_end(path: Path, lock: JournalLock) -> None:
    """Raise UserError where the last line has no end, ValueError where it is none of a journal.

    Optuna passes over such a line, until another one has been written after it.
    """
    lock.acquire()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    finally:
        lock.release()
    if lines and not lines[-1].endswith(b"\n"):
        raise UserError(f"{path} ends within a line, as a full disk leaves it: remove its last line")
    if lines:
        json.loads(lines[-1])


def open_database(address: str) -> RDBStorage:
    shown = address
    try:
        shown = make_url(address).render_as_string(hide_password=True)
        return RDBStorage(address, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=take_up)
    except ImportError as error:
        raise UserError(f"--storage {shown}: {reason(error)}: install the driver of that database") from error
    except (SQLAlchemyError, ValueError, RuntimeError) as error:
        remedy = f"check the address, such as {EXAMPLE}, and that the database can be reached"
        raise UserError(f"--storage {shown}: {reason(error)}: {remedy}") from error


def reason(error: BaseException) -> str:
    """What a storage fails at, in its driver's own words: those that wrap them end in a link, and are long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


@contextmanager
def explaining_storage_errors() -> Iterator[None]:
    """Turn what a storage fails at while it is used into a UserError."""
    try:
        try:
            yield
        except (AssertionError, UnboundLocalError) as error:
            # Optuna's own defect where it could not store how a trial ended: what it failed at came before.
            if isinstance(error.__context__, (UserError, *FAILURES)):
                raise error.__context__ from None
            raise
    except FAILURES as error:
        cause = f"the study's storage cannot be used ({reason(error)})"
        raise UserError(f"{cause}: mend this, then give the same command") from error
