"""A run's folder: its settings, status and lock, and whatever the run writes into it.

    args.yaml                the settings that the run was started with
    status                   one word of STATUSES
    val.csv, epoch.csv, …    tables of TABLES, one row at a time
    events.out.tfevents.…    scalars for TensorBoard, a file for each time that the run was started or resumed
    checkpoint.pt            the newest checkpoint, with the settings, and how far each table went when it was taken
    result.csv               one row, when the run is done
    model.pt                 the best model, when the run is done
    schedule.csv             what the run replays, if anything
    .lock                    held by the process that uses the folder

A process may be killed at any moment. Whole files are replaced atomically. Tables only grow; a resumed run first cuts
them back to where its checkpoint was taken, so that no step is in them twice; one that was edited is refused.
"""

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import yaml

from stn.errors import Diverged, UserError, one_line
from stn.files import explaining_os_errors, write_atomically
from stn.runs import checkpoints
from stn.runs.checkpoints import CHECKPOINT, NEW_RUN, Checkpoint
from stn.runs.events import EVENT_FILES, Events
from stn.runs.models import MODEL
from stn.runs.tables import TABLES, Table, csv_line, table_files

STATUSES = ("running", "interrupted", "failed", "diverged", "pruned", "finished")
ARGS, SCHEDULE = "args.yaml", "schedule.csv"
STATUS, _RESULT = "status", "result.csv"
_CLAIM_SECONDS = 30.0
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that in C, where there is one, is several times as fast
_TEMPORARY = tuple(f"{name}.tmp" for name in (ARGS, STATUS, CHECKPOINT, _RESULT, MODEL, SCHEDULE))


class RunFolder:
    """One run's folder, locked against other processes from `create` or `open` until `close`.

    Attributes: path; settings, as args.yaml holds them; resumed: whether the run was there before; changes: settings
    that will be others from `load_checkpoint` on.
    """

    def __init__(self, path: Path, settings: dict, resumed: bool = False):
        """Use `create` or `open`. Raises UserError where another process uses the folder."""
        self.path = path
        self.settings = settings
        self.resumed = resumed
        self.changes: Mapping[str, Any] = {}
        self._checkpoint: Checkpoint | None = None  # read, and not gone back to yet
        self._ready = not resumed  # whether a table may grow
        self._marked = ""  # the status that this process has set
        self._tables: dict[str, Table] = {}
        self._events = Events(path)
        self._lock = _lock(path)

    @classmethod
    def create(cls, path: Path | str, settings: Mapping[str, Any], overwrite: bool = False) -> "RunFolder":
        """Start a run: the folder, its lock, args.yaml, status "running".

        settings: plain values (numbers, strings, lists, …), for YAML. overwrite: remove the run that is
        there, but no file that a run does not write. Raises UserError where a run is there and overwrite is
        False, where another process uses the folder, or where it cannot be written.
        """
        if not str(path):
            raise UserError("the path of the run's folder is empty: name a folder")
        path = Path(path)
        with explaining_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, {})
            with contextlib.ExitStack() as undo:
                undo.callback(run.close)
                if not overwrite:
                    _refuse_existing(path)
                for file in _own_files(path):
                    file.unlink()
                # args.yaml last: it is what makes the folder a run.
                run.mark("running")
                run.change_settings(settings)
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
            return cls(path, settings, resumed=True)

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        """Set some settings anew, in `settings` and args.yaml."""
        text = yaml.safe_dump({**self.settings, **changes}, sort_keys=False, allow_unicode=True)
        self.settings = yaml.load(text, Loader=LOADER)  # as whoever reads the file has them
        write_atomically(self.path / ARGS, lambda file: file.write(text.encode()))

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
        write_atomically(self.path / STATUS, lambda file: file.write(f"{status}\n".encode()))
        self._marked = status

    def log(self, table: str, row: Mapping[str, Any]) -> None:
        """Append a row to <table>.csv, the header before the first; with the operating system on return.

        Raises ValueError for a table that is not in TABLES or columns other than the header's; UserError where the
        row cannot be written, and then the table ends with the row before.
        """
        if table not in TABLES:
            raise ValueError(f"table {table!r} is none of {TABLES}")
        path = self.path / f"{table}.csv"
        with explaining_os_errors(path):
            self._table(path).append(row)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers for TensorBoard, at this step; what cannot be written costs a warning, and not the run."""
        self._require_open()
        self._events.log(step, values)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, after all rows are on disk.

        state: tensors, numbers, strings and containers of them, as `torch.load(weights_only=True)` asks.
        Raises UserError where it cannot be written; the previous checkpoint is then as it was.
        """
        self._require_open()
        self._events.flush()
        with explaining_os_errors(self.path):
            files = {*table_files(self.path), *(table.path for table in self._tables.values())}
            tables = {file.name: self._table(file).sync() for file in sorted(files)}
        self._checkpoint, checkpoint = None, Checkpoint(dict(state), self.settings, tables, self._events.files())
        checkpoints.write_checkpoint(self.path, checkpoint)

    def read_checkpoint(self) -> Checkpoint:
        """What `load_checkpoint` will go back to, leaving the folder as it is.

        Raises UserError where there is no checkpoint, it is damaged, foreign or of another format, or a table does not
        hold what it held when the checkpoint was taken.
        """
        if self._checkpoint is None:
            checkpoint = checkpoints.read_checkpoint(self.path)
            with explaining_os_errors(self.path, "read"):
                checkpoints.refuse_changed_tables(self.path, checkpoint.tables)
            self._checkpoint = checkpoint
        return self._checkpoint

    def load_checkpoint(self) -> dict:
        """Return the state last saved and take the folder back to that moment; status becomes "running".

        Rows logged since are cut off, TensorBoard hides the scalars logged since once there are new ones, a result
        and left-over temporary files are removed. Raises UserError as `read_checkpoint` does; the folder is then as it
        was.
        """
        self._require_open()
        checkpoint, self._checkpoint = self.read_checkpoint(), None
        self._close_tables()
        status = self.status
        try:
            self.mark("running")
            with explaining_os_errors(self.path):
                checkpoints.rewind_tables(self.path, checkpoint.tables)
                for name in (_RESULT, *_TEMPORARY):
                    (self.path / name).unlink(missing_ok=True)
            if any(checkpoint.settings.get(name) != value for name, value in self.changes.items()):
                # The checkpoint first: it is what counts where a process is killed in between.
                changed = {**checkpoint.settings, **self.changes}
                checkpoints.write_checkpoint(self.path, replace(checkpoint, settings=changed))
            self.settings = checkpoint.settings
            self.change_settings(self.changes)
        except BaseException:
            with contextlib.suppress(UserError):
                self.mark(status)
            self._marked = ""  # it is as it was, also if that is "running" of a process that was killed
            raise
        self._ready = True
        self._events.rewind(checkpoint.events)
        return checkpoint.state

    def write_result(self, row: Mapping[str, Any]) -> None:
        """Write result.csv: a header and this one row; what it says of the losses also goes to TensorBoard."""
        text = csv_line(row) + csv_line(row.values())
        write_atomically(self.path / _RESULT, lambda file: file.write(text.encode()))
        self._require_open()
        self._events.result(self.settings, {name: row[name] for name in row if name.startswith(("val_", "test_"))})

    def save_model(self, state: Mapping[str, Any], name: str = MODEL) -> None:
        """Write a model's state to a file of this name in the folder, or at an absolute path."""
        write_atomically(self.path / name, lambda file: checkpoints.save(dict(state), file))

    def close(self) -> None:
        """Close the files and let go of the lock; the status stays as it is. Closing again does nothing."""
        try:
            self._events.close()
            with explaining_os_errors(self.path):
                self._close_tables()
        finally:
            self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close, and say how a run ended that still says "running", if this process has said so."""
        try:
            if self._marked == "running":
                with contextlib.suppress(UserError):
                    self.mark(_ending(kind))
        finally:
            self.close()

    def _table(self, path: Path) -> Table:
        if path.stem not in self._tables:
            self._require_open()
            if not self._ready:
                raise ValueError(
                    f"the run in {self.path} was there before: go back to its checkpoint before it goes on"
                )
            with explaining_os_errors(path):
                self._tables[path.stem] = Table(path)
        return self._tables[path.stem]

    def _require_open(self) -> None:
        if not self._lock.is_locked:
            raise ValueError(f"run folder {self.path} is closed")

    def _close_tables(self) -> None:
        tables, self._tables = self._tables, {}
        for table in tables.values():
            table.close()


def _ending(kind: type[BaseException] | None) -> str:
    """The status of a run that ends with this exception, or with none."""
    if kind is None:
        return "finished"
    if issubclass(kind, KeyboardInterrupt):
        return "interrupted"
    return "diverged" if issubclass(kind, Diverged) else "failed"


def read_settings(path: Path | str) -> dict:
    """The settings in a run's args.yaml. Raises UserError where there is no run or they cannot be read."""
    file = Path(path) / ARGS
    with explaining_os_errors(file, "read"):
        if not file.is_file():
            remedy = f"restore {ARGS}" if (Path(path) / CHECKPOINT).exists() else "check the folder's name"
            raise UserError(f"there is no run in {path} (no {ARGS}): {remedy}")
    return read_yaml(file)


def read_yaml(file: Path, remedy: str = f"mend it, or {NEW_RUN}") -> dict:
    """The values in a YAML file, by name. Raises UserError where it cannot be read, or does not map names to values."""
    with explaining_os_errors(file, "read"):
        try:
            settings = yaml.load(file.read_text(encoding="utf-8"), Loader=LOADER)
            repr(settings)  # fails where it is nested too deeply to be compared or told
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{file} is not valid YAML ({one_line(error)}): {remedy}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise UserError(f"{file} does not map names to values: {remedy}")
    return settings


def read_status(path: Path | str) -> str:
    """One of STATUSES, without taking the lock; "interrupted" where the folder does not say."""
    file = Path(path) / STATUS
    with contextlib.suppress(OSError, UnicodeDecodeError):
        word = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        if word in STATUSES:
            return word
    return "interrupted"


@contextlib.contextmanager
def claimed(
    parent: Path | str, names: Iterable[str], same: Callable[[Mapping[str, Any]], bool] = lambda _: False
) -> Iterator[Path]:
    """The first folder in parent, of these names, in which no run is, or one of the same configuration.

    same: whether a run with these settings is one. Runs that are started at the same time choose one after another: a
    run should be created within the context.
    """
    parent = Path(parent)
    with explaining_os_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(parent, _CLAIM_SECONDS)
    try:
        with explaining_os_errors(parent):
            path = next(path for path in (parent / name for name in names) if _holds(path, same) or _is_free(path))
        yield path
    finally:
        lock.release()


def _holds(path: Path, same: Callable[[Mapping[str, Any]], bool]) -> bool:
    with contextlib.suppress(UserError):
        return same(read_settings(path))
    return False


def _is_free(path: Path) -> bool:
    """Whether no run is there, nor a process that is about to start one."""
    return not _holds_run(path) and (not path.exists() or is_unused(path))


def _holds_run(path: Path) -> bool:
    """Whether there is anything that a run could go on from; settings alone are what a start that failed leaves."""
    return not {file.name for file in _own_files(path)} <= {STATUS, ARGS, SCHEDULE, *_TEMPORARY}


def is_unused(path: Path) -> bool:
    """Whether no process uses a folder that is there."""
    with contextlib.suppress(UserError):
        _lock(path).release()
        return True
    return False


def wait_until_free(path: Path | str, seconds: float) -> None:
    """Wait until no process uses the run. Raises UserError where one still does after so many seconds."""
    _lock(Path(path), seconds).release()


def _own_files(folder: Path) -> list[Path]:
    """All that a run writes, but the lock, in an order of removal that may stop anywhere.

    Never a checkpoint without its tables, nor tables without the args.yaml that shows whose they are.
    """
    others = (folder / name for name in (STATUS, _RESULT, MODEL, SCHEDULE, *_TEMPORARY, ARGS))
    files = [folder / CHECKPOINT, *table_files(folder), *folder.glob(EVENT_FILES), *others]
    return [file for file in files if file.exists()]


def _refuse_existing(path: Path) -> None:
    if not _holds_run(path):
        return
    redo = "redo it with --overwrite, or tell the new run from it by another --seed or --prefix"
    if not (path / ARGS).exists():
        raise UserError(f"{path} holds logs of a run without {ARGS}: move them away, or {redo}")
    status = read_status(path)
    if status == "finished":
        longer = "train it on with --resume and more epochs"
        raise UserError(f"{path} holds a finished run{_result_in_words(path)}: {longer}, or {redo}")
    raise UserError(f"{path} holds an unfinished run ({status}): continue it with --resume, or {redo}")


def _result_in_words(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, StopIteration, csv.Error):
        with (path / _RESULT).open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        scores = {name: float(value) for name, value in row.items() if name.startswith(("val_", "test_"))}
        return f" ({', '.join(f'{name} {value:.4g}' for name, value in scores.items())})"
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
