"""A run's folder: settings, CSV logs, TensorBoard events, checkpoint, result.

    args.yaml                           the settings that the run was started with
    status                              one word of STATUSES
    val.csv, epoch.csv, …               logs, one row at a time (TABLES)
    events.out.tfevents.<seconds>.stn   TensorBoard scalars, one file for each process that logged
    checkpoint.pt                       the newest checkpoint, and how long each log was when it was taken
    result.csv                          one row, when the run is done
    model.pt                            the best model, when the run is done
    schedule.csv                        what the run replays, if anything
    .lock                               held by the process that uses the folder

A process may be killed at any moment. Whole files are replaced atomically; logs only grow, and a resumed run
first cuts them back to the lengths in its checkpoint, so that no step is logged twice.

Event files are written here, with TensorBoard's own record format, rather than by `SummaryWriter`: its thread
hides errors and leaves half a record on a full disk.
"""

import contextlib
import csv
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import time
import warnings
import zipfile
from collections.abc import Mapping
from datetime import date as Date
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy
import torch
import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from stn.errors import UserError
from stn.files import cause, explaining_os_errors, write_atomically

FORMAT = 2  # of checkpoints
KIND = "stn run checkpoint"
STATUSES = ("running", "interrupted", "failed", "finished")
TABLES = ("train", "valid", "val", "epoch")

SCHEDULE = "schedule.csv"
_ARGS, _STATUS, _CHECKPOINT, _RESULT, _MODEL = "args.yaml", "status", "checkpoint.pt", "result.csv", "model.pt"
_TEMPORARY = tuple(f"{name}.tmp" for name in (_ARGS, _STATUS, _CHECKPOINT, _RESULT, _MODEL, SCHEDULE))
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d{10})\.stn")
_ANEW = "start a new run (with --overwrite or another --prefix, where the script has them)"


class RunFolder:
    """One run's folder, locked against other processes from `create` or `open` until `close`.

    Attributes: path; settings, as args.yaml holds them.
    """

    def __init__(self, path: Path, settings: dict):
        """Use `create` or `open`. Raises UserError where another process uses the folder."""
        self.path = path
        self.settings = settings
        self._tables: dict[str, _Table] = {}
        self._events: _Log | None = None
        self._lock = _lock(path)

    @classmethod
    def create(cls, path: Path | str, settings: Mapping[str, Any], overwrite: bool = False) -> "RunFolder":
        """Start a run: the folder, its lock, args.yaml, status "running".

        settings: plain values (numbers, strings, lists, …), for YAML. overwrite: remove the run that is
        there, but no file that a run does not write. Raises UserError where a run is there and overwrite is
        False, where another process uses the folder, or where it cannot be written.
        """
        path = Path(path)
        text = _yaml(settings)
        with explaining_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, yaml.safe_load(text))
            with contextlib.ExitStack() as undo:
                undo.callback(run.close)
                if not overwrite:
                    _refuse_existing(path)
                for file in _own_files(path):
                    file.unlink()
                # args.yaml last: it is what makes the folder a run.
                run.mark("running")
                write_atomically(path / _ARGS, lambda file: file.write(text.encode()))
                undo.pop_all()
        return run

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Go back to a run in order to resume it; `load_checkpoint` comes next. The status stays as it is.

        Raises UserError where there is no run, its args.yaml cannot be read, or another process uses it.
        """
        path = Path(path)
        settings = read_settings(path)
        with explaining_os_errors(path):
            return cls(path, settings)

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        """Set some settings anew, in `settings` and args.yaml."""
        self.settings = {**self.settings, **changes}
        write_atomically(self.path / _ARGS, lambda file: file.write(_yaml(self.settings).encode()))

    def keep_schedule(self, file: Path) -> None:
        """Copy the schedule that the run replays into its folder, which from then on needs no other file."""
        with explaining_os_errors(file, "read"):
            content = file.read_bytes()
        write_atomically(self.path / SCHEDULE, lambda copy: copy.write(content))

    @property
    def status(self) -> str:
        """One of STATUSES; a run that was killed still says "running"."""
        return read_status(self.path)

    def mark(self, status: str) -> None:
        """Set the status, one of STATUSES."""
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of {STATUSES}")
        write_atomically(self.path / _STATUS, lambda file: file.write(f"{status}\n".encode()))

    def log(self, table: str, row: Mapping[str, Any]) -> None:
        """Append a row to <table>.csv, the header before the first; it is with the OS on return.

        Numbers are written so that they read back exactly; 0-d tensors and arrays as numbers. Raises
        ValueError for a table that is not in TABLES or columns other than the header's; UserError where the
        row cannot be written, and then the table ends with the row before.
        """
        if table not in TABLES:
            raise ValueError(f"table {table!r} is none of {TABLES}")
        path = self.path / f"{table}.csv"
        with explaining_os_errors(path):
            if table not in self._tables:
                self._require_open()
                self._tables[table] = _Table(path)
            self._tables[table].append(row)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers for TensorBoard, as one event at this step.

        They are a convenience beside the CSVs: where they cannot be written the run goes on, with a warning.
        """
        pairs = [Summary.Value(tag=name, simple_value=_plain(value)) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=int(step), summary=Summary(value=pairs))
        try:
            if self._events is None:
                self._require_open()
                self._events = _Log(_new_events_path(self.path))
            if not self._events.length:
                _write_event(self._events, Event(wall_time=time.time(), file_version="brain.Event:2"))
            _write_event(self._events, event)
        except OSError as error:
            warnings.warn(f"TensorBoard misses steps of {self.path}: {cause(error)}", stacklevel=2)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, after all that was logged is on disk.

        state: tensors, numbers, strings and containers of them, as `torch.load(weights_only=True)` asks.
        Raises UserError where it cannot be written; the previous checkpoint is then as it was.
        """
        self._require_open()
        with explaining_os_errors(self.path):
            lengths = {file.name: file.stat().st_size for file in _log_files(self.path)}
            for log in self._open_logs():
                log.sync()
                lengths[log.path.name] = log.length
        content = {"format": FORMAT, "kind": KIND, "state": dict(state), "logs": lengths}
        write_atomically(self.path / _CHECKPOINT, lambda file: _save(content, file))

    def load_checkpoint(self, map_location: Any = "cpu") -> dict:
        """Return the state last saved and take the folder back to that moment; status becomes "running".

        What was logged since is cut off, a result and left-over temporary files are removed. Raises UserError
        where there is no checkpoint, it is damaged, foreign or of another format, or a log is shorter than it
        was; the folder is then as it was.
        """
        self._require_open()
        content = _read_checkpoint(self.path, map_location)
        self._close_logs()
        with explaining_os_errors(self.path):
            _refuse_lost_logs(self.path, content["logs"])
            self.mark("running")
            _rewind(self.path, content["logs"])
        return content["state"]

    def write_result(self, row: Mapping[str, Any]) -> None:
        """Write result.csv: a header and this one row."""
        text = _csv_line(row) + _csv_line(map(_plain, row.values()))
        write_atomically(self.path / _RESULT, lambda file: file.write(text.encode()))

    def save_model(self, state: Mapping[str, Any], name: str = _MODEL) -> None:
        """Write a model's state to a file of this name in the folder."""
        write_atomically(self.path / name, lambda file: _save(dict(state), file))

    def close(self) -> None:
        """Close the files and let go of the lock; the status stays as it is. Closing again does nothing."""
        try:
            with explaining_os_errors(self.path):
                self._close_logs()
        finally:
            self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if not self._lock.is_locked:
            raise ValueError(f"run folder {self.path} is closed")

    def _open_logs(self) -> list["_Log"]:
        return [*self._tables.values(), *([self._events] if self._events else [])]

    def _close_logs(self) -> None:
        logs = self._open_logs()
        self._tables, self._events = {}, None
        for log in logs:
            log.close()


def read_settings(path: Path | str) -> dict:
    """The settings in a run's args.yaml. Raises UserError where there is no run or they cannot be read."""
    file = Path(path) / _ARGS
    with explaining_os_errors(file, "read"):
        if not file.is_file():
            raise UserError(f"there is no run in {path} (no {_ARGS}): check the folder's name")
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{file} is not valid YAML ({_one_line(error)}): mend it, or {_ANEW}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise UserError(f"{file} does not map names to values: mend it, or {_ANEW}")
    return settings


def read_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict:
    """The state in a run's checkpoint, leaving the run as it is. Raises UserError as `load_checkpoint` does."""
    return _read_checkpoint(Path(path), map_location)["state"]


def read_status(path: Path | str) -> str:
    """One of STATUSES, without taking the lock; "interrupted" where the folder does not say."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        word = (Path(path) / _STATUS).read_text(encoding="utf-8").strip()
        if word in STATUSES:
            return word
    return "interrupted"


def run_path(parent: Path | str, prefix: str | None, date: Date) -> Path:
    """parent/YYYY-MM-DD[-prefix]. Raises UserError for a prefix that is no part of a file name."""
    if prefix and "/" in prefix:
        raise UserError(f"--prefix {prefix} holds a slash: it is part of one folder's name, leave it out")
    return Path(parent) / f"{date:%Y-%m-%d}{f'-{prefix}' if prefix else ''}"


def newest_run(parent: Path | str, prefix: str | None) -> Path:
    """The newest run (by the date in its name) under parent, of exactly this prefix. Raises UserError without one."""
    return _runs(Path(parent), prefix)[-1]


def newest_of_any_prefix(parent: Path | str) -> Path:
    """The newest run (by its folder's name) under parent, whatever its prefix. Raises UserError without one."""
    parent = Path(parent)
    with explaining_os_errors(parent, "read"):
        runs = sorted(args.parent for args in parent.glob(f"*/{_ARGS}"))
    if not runs:
        raise UserError(f"there is no run in {parent}: check the folder's name")
    return runs[-1]


def newest_unfinished(parent: Path | str, prefix: str | None) -> Path:
    """The newest run under parent, of exactly this prefix, that is not finished. Raises UserError without one."""
    runs = _runs(Path(parent), prefix)
    unfinished = [run for run in runs if read_status(run) != "finished"]
    if not unfinished:
        raise UserError(
            f"no run to resume: {runs[-1]} is finished, and so are all before it; "
            "start one without --resume, or train it on with more --epochs"
        )
    return unfinished[-1]


def _runs(parent: Path, prefix: str | None) -> list[Path]:
    """The runs of exactly this prefix, oldest first; at least one."""
    suffix = f"-{prefix}" if prefix else ""
    pattern = re.compile(r"\d{4}-\d{2}-\d{2}" + re.escape(suffix), re.ASCII)
    with explaining_os_errors(parent, "read"):
        found = parent.iterdir() if parent.is_dir() else ()
        runs = sorted(run for run in found if pattern.fullmatch(run.name) and (run / _ARGS).is_file())
    if not runs:
        raise UserError(
            f"there is no run {parent}/YYYY-MM-DD{suffix}: check --save_dir and --prefix, or name its folder"
        )
    return runs


def provenance() -> dict[str, str | None]:
    """What made a run: versions of python, torch, numpy and stn, and the git revision of this source.

    The revision ends in "-dirty" where tracked files differ from it. What cannot be told is None.
    """
    try:
        stn = importlib.metadata.version("stn")
    except importlib.metadata.PackageNotFoundError:
        stn = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "stn": stn,
        "revision": _git_revision(),
    }


def _git_revision() -> str | None:
    here = Path(__file__)
    try:
        # An installed copy may lie inside some other project's repository, which does not track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks git does not write to the index, which others may be using.
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


class _Log:
    """A file that only grows, by whole records: a record that cannot be written whole is taken back."""

    def __init__(self, path: Path):
        self.path = path
        # Not in append mode: the next record must also overwrite one that could not be taken back.
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        self.length = self._file.seek(0, os.SEEK_END)

    def write(self, record: bytes) -> None:
        rest = memoryview(record)
        try:
            self._file.seek(self.length)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.length += len(record)
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self.length)
            raise

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Table(_Log):
    """A CSV file with one header."""

    def __init__(self, path: Path):
        super().__init__(path)
        with path.open(newline="", encoding="utf-8") as file:
            self._columns = next(csv.reader(file), None)

    def append(self, row: Mapping[str, Any]) -> None:
        columns = self._columns or list(row)
        if set(columns) != set(row):
            raise ValueError(f"{self.path.name} has the columns {columns}, this row {list(row)}")
        header = "" if self._columns else _csv_line(columns)
        self.write((header + _csv_line(_plain(row[name]) for name in columns)).encode())
        self._columns = columns


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _plain(value: Any) -> Any:
    """A Python number for a 0-d tensor, array or NumPy scalar; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _write_event(log: _Log, event: Event) -> None:
    RecordWriter(log).write(event.SerializeToString())


def _new_events_path(folder: Path) -> Path:
    """Named by the clock, as TensorBoard's own files, but always after those there: readers go by name."""
    last = max((int(_EVENTS.fullmatch(file.name)[1]) for file in _event_files(folder)), default=0)
    return folder / f"events.out.tfevents.{max(int(time.time()), last + 1):010d}.stn"


def _event_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _EVENTS.fullmatch(file.name))


def _log_files(folder: Path) -> list[Path]:
    tables = (folder / f"{table}.csv" for table in TABLES)
    return [*filter(Path.exists, tables), *_event_files(folder)]


def _own_files(folder: Path) -> list[Path]:
    """All that a run writes, but the lock, in an order of removal that may stop anywhere.

    Never a checkpoint without its logs, nor logs without the args.yaml that shows whose they are.
    """
    others = (folder / name for name in (_STATUS, _RESULT, _MODEL, SCHEDULE, *_TEMPORARY, _ARGS))
    return [*filter(Path.exists, [folder / _CHECKPOINT]), *_log_files(folder), *filter(Path.exists, others)]


def _refuse_existing(path: Path) -> None:
    # A status or a temporary file alone is what a start that failed leaves behind.
    leftovers = {_STATUS, *_TEMPORARY}
    if all(file.name in leftovers for file in _own_files(path)):
        return
    if not (path / _ARGS).exists():
        raise UserError(f"{path} holds logs of a run without {_ARGS}: move them away, or {_ANEW}")
    status = read_status(path)
    if status == "finished":
        raise UserError(f"{path} holds a finished run{_result_in_words(path)}: {_ANEW}")
    raise UserError(f"{path} holds an unfinished run ({status}): continue it with --resume, {_ANEW}")


def _result_in_words(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, StopIteration, csv.Error):
        with (path / _RESULT).open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        return f" ({', '.join(f'{name} {float(value):.4g}' for name, value in row.items())})"
    return ""


def _lock(path: Path, seconds: float = 0) -> filelock.FileLock:
    lock = filelock.FileLock(path / ".lock", timeout=seconds, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"another process is using {path}: wait for it, or start a run in another folder") from error
    except NotImplementedError as error:
        raise UserError(f"{path} is on a file system without locks: choose another folder") from error
    return lock


def wait_until_free(path: Path | str, seconds: float) -> None:
    """Wait until no process uses the run. Raises UserError where one still does after so many seconds."""
    _lock(Path(path), seconds).release()


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def _save(content: dict, file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch covers what stopped the writing, a full disk or Ctrl-C, with "unexpected pos".
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _read_checkpoint(folder: Path, map_location: Any) -> dict:
    path = folder / _CHECKPOINT
    if not path.exists():
        raise UserError(f"{path.parent} has no checkpoint yet, the run ended too early: {_ANEW}")
    with explaining_os_errors(path, "read"):
        path.open("rb").close()
    try:
        # torch.load does not compare checksums; a flipped bit would go unseen.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damage shows as almost anything: bad zip, pickle, key, seek, …
        raise UserError(f"{path} is damaged or no checkpoint ({_one_line(error)}): {_ANEW}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path} is not a checkpoint of a run: {_ANEW}")
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise UserError(f"{path} has format {found}, this version reads format {FORMAT}: {_ANEW}")
    if not {"state", "logs"} <= content.keys():
        raise UserError(f"{path} lacks the state or the lengths of the logs: {_ANEW}")
    return content


def _refuse_lost_logs(folder: Path, lengths: Mapping[str, int]) -> None:
    for name, length in lengths.items():
        file = folder / name
        found = file.stat().st_size if file.exists() else 0
        if found < length:
            raise UserError(
                f"{file} has {found} bytes, fewer than the {length} that the checkpoint knows of:"
                f" bring the lost part back, or {_ANEW}"
            )


def _rewind(folder: Path, lengths: Mapping[str, int]) -> None:
    for file in _log_files(folder):
        if file.name in lengths:
            os.truncate(file, lengths[file.name])
        else:
            file.unlink()
    for name in (_RESULT, *_TEMPORARY):
        (folder / name).unlink(missing_ok=True)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
