"""Where a run's folder lies, and which run below a folder is the newest."""

import os
import re
from collections.abc import Iterator
from datetime import date as Date
from itertools import chain, count
from pathlib import Path

from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.runs.folder import ARGS, read_status


def run_names(prefix: str | None, date: Date) -> Iterator[str]:
    """YYYY-MM-DD[-prefix], YYYY-MM-DD.2[-prefix], … Raises UserError for a prefix that is no part of a file name."""
    if prefix and "/" in prefix:
        raise UserError(f"--prefix {prefix} holds a slash: it is part of one folder's name, leave it out")
    return (f"{date:%Y-%m-%d}{number}{_suffix(prefix)}" for number in chain([""], (f".{n}" for n in count(2))))


def newest_run(parent: Path | str, prefix: str | None, unfinished: bool = False) -> Path:
    """The run in parent of the last date and exactly this prefix; unfinished: of those that are not finished.

    Raises UserError where there is none.
    """
    name = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?" + re.escape(_suffix(prefix)), re.ASCII)
    with explaining_os_errors(Path(parent), "read"):
        _require_access(Path(parent))
        named = [(name.fullmatch(file.parent.name), file.parent) for file in Path(parent).glob(f"*/{ARGS}")]
    runs = [path for _, _, path in sorted((own[1], int(own[2] or 1), path) for own, path in named if own)]
    if not runs:
        cause = f"there is no run {parent}/YYYY-MM-DD{_suffix(prefix)}"
        raise UserError(f"{cause}: check --save_dir and --prefix, or name its folder")
    wanted = [run for run in runs if not (unfinished and read_status(run) == "finished")]
    if not wanted:
        cause = f"no run to resume: {runs[-1]} is finished, and so are all before it"
        raise UserError(f"{cause}; start one without --resume, or train it on with more --epochs")
    return wanted[-1]


def last_started(parent: Path | str, unfinished: bool = False, remedy: str = "check the folder's name") -> Path:
    """The run at any depth below parent, or parent itself, whose settings were written last.

    So it was started or resumed last. unfinished: of those that are not finished. Raises UserError, with the remedy,
    where there is none.
    """
    with explaining_os_errors(Path(parent), "read"):
        _require_access(Path(parent))
        files = sorted(sorted(Path(parent).glob(f"**/{ARGS}")), key=lambda file: file.stat().st_mtime)
    runs = [file.parent for file in files if not (unfinished and read_status(file.parent) == "finished")]
    if not runs:
        kind = "no unfinished run" if unfinished else "no run"
        longer = "; to train a finished one on, give it more epochs" if files else ""
        raise UserError(f"there is {kind} in {parent}: {remedy}{longer}")
    return runs[-1]


def _require_access(folder: Path) -> None:
    """Raise OSError for a folder that cannot be listed, in which `glob` would find nothing."""
    if folder.is_dir():
        os.scandir(folder).close()


def _suffix(prefix: str | None) -> str:
    return f"-{prefix}" if prefix else ""
