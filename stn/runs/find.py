"""Where a run's folder lies, and which run below a folder is the newest."""

import re
from datetime import date as Date
from pathlib import Path

from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.runs.folder import ARGS, read_status


def run_path(parent: Path | str, prefix: str | None, date: Date) -> Path:
    """parent/YYYY-MM-DD[-prefix]. Raises UserError for a prefix that is no part of a file name."""
    if prefix and "/" in prefix:
        raise UserError(f"--prefix {prefix} holds a slash: it is part of one folder's name, leave it out")
    return Path(parent) / f"{date:%Y-%m-%d}{_suffix(prefix)}"


def runs_below(parent: Path | str, pattern: str = "*") -> list[Path]:
    """The runs whose paths from parent match a glob pattern ("**": at any depth), sorted by path."""
    with explaining_os_errors(Path(parent), "read"):
        return sorted(file.parent for file in Path(parent).glob(f"{pattern}/{ARGS}"))


def newest_run(parent: Path | str, prefix: str | None) -> Path:
    """The run in parent of the last date and exactly this prefix. Raises UserError without one."""
    return _runs_of(parent, prefix)[-1]


def newest_unfinished(parent: Path | str, prefix: str | None) -> Path:
    """The newest run in parent, of exactly this prefix, that is not finished. Raises UserError without one."""
    runs = _runs_of(parent, prefix)
    if not (unfinished := _unfinished(runs)):
        raise UserError(
            f"no run to resume: {runs[-1]} is finished, and so are all before it; "
            "start one without --resume, or train it on with more --epochs"
        )
    return unfinished[-1]


def newest_of_any_prefix(parent: Path | str) -> Path:
    """The run in parent whose folder's name is the last. Raises UserError without one."""
    if not (runs := runs_below(parent)):
        raise UserError(f"there is no run in {parent}: check the folder's name")
    return runs[-1]


def last_started(parent: Path | str, unfinished: bool = False) -> Path:
    """The run at any depth below parent whose settings were written last: it was started or resumed last.

    unfinished: of those that are not finished. Raises UserError where there is none.
    """
    runs = runs_below(parent, "**")
    runs = _unfinished(runs) if unfinished else runs
    if not runs:
        kind = "no unfinished run" if unfinished else "no run"
        raise UserError(f"there is {kind} in {parent}: check --logdir and the folders in it, or name the run's")
    with explaining_os_errors(Path(parent), "read"):
        return max(runs, key=lambda run: (run / ARGS).stat().st_mtime)


def _runs_of(parent: Path | str, prefix: str | None) -> list[Path]:
    """The runs in parent of exactly this prefix, oldest first; at least one."""
    name = re.compile(r"\d{4}-\d{2}-\d{2}" + re.escape(_suffix(prefix)), re.ASCII)
    runs = [run for run in runs_below(parent) if name.fullmatch(run.name)]
    if not runs:
        raise UserError(
            f"there is no run {parent}/YYYY-MM-DD{_suffix(prefix)}: check --save_dir and --prefix, or name its folder"
        )
    return runs


def _suffix(prefix: str | None) -> str:
    return f"-{prefix}" if prefix else ""


def _unfinished(runs: list[Path]) -> list[Path]:
    return [run for run in runs if read_status(run) != "finished"]
