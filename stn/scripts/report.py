"""Write a report of some runs, as far as they have come: one HTML file that needs nothing else, not even a network.

It shows their results, curves, schedules with scales, settings, environment, the commands that make them again, and an
image augmentation*.png that lies in a run's folder. Runs are only read, those under way too.
"""

import contextlib
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from stn.errors import UserError
from stn.figures.drawing import groups
from stn.files import explaining_os_errors, read, write_atomically
from stn.report.entries import KILLED, TRAINING, Entry, Sheet
from stn.report.page import page
from stn.runs.folder import is_unused, read_status
from stn.runs.history import LEAVE_OUT, Run, read_result, read_run
from stn.runs.tables import TABLES
from stn.scripts.figures import add_labels, find_run, new_folder, read_runs, warn_of_many
from stn.scripts.options import ROOT, OneLineParser, exit_status, named
from stn.scripts.output import complain, printable, say
from stn.scripts.reproduce import commands

NAME = "python -m stn.report"
DEFAULT = ROOT / "plots" / "report.html"
SUFFIXES = (".html", ".htm")
PNG = b"\x89PNG\r\n\x1a\n"
SHEETS = "augmentation*.png"


def main(argv: list[str] | None = None) -> int:
    """Write the report; the exit status, 2 where a run had to be left out or nothing could be written."""
    parser = OneLineParser(prog=NAME, description=__doc__)
    parser.usage = "%(prog)s RUN [RUN ...] [flags]"
    parser.add_argument("runs", nargs="+", type=named, metavar="RUN", help="a run's folder")
    add_labels(parser)
    words = "where the report goes (default: plots/report.html in the repository)"
    parser.add_argument("--out", type=html_file, default=DEFAULT, metavar="FILE", help=words)
    args = parser.parse_args(argv)

    def work() -> int:
        runs, left_out = read_runs(args.runs, args.labels, lambda path: drawable(read_run(find_run(path))))
        entries = []
        for run in runs:
            try:
                found, without = sheets(run.path)
                entries.append(entry_of(run, found))
                left_out += without
            except UserError as error:
                left_out.append(str(error))
        for problem in left_out:
            complain(NAME, f"left out: {problem}")
        if not entries:
            return 2
        warn_of_many(NAME, len(groups([entry.run for entry in entries])))
        write(page(entries, datetime.now().astimezone()), args.out)
        return 2 if left_out else 0

    return exit_status(NAME, work, "start it again")


def html_file(text: str) -> Path:
    """A page's path, to which .html is added where it has another ending."""
    path = new_folder(text)
    if text.endswith("/") or path.is_dir() or path.name in ("", ".."):
        raise ArgumentTypeError(f"{text} is a folder: add the report's name to it")
    return path if path.suffix in SUFFIXES else path.with_name(f"{path.name}.html")


def drawable(run: Run) -> Run:
    """The run. Raises UserError where a tuned value is not inside its range."""
    for by in ("epoch", "train_step"):
        for name in run.curves(by):
            run.band(name, by)
    return run


def entry_of(run: Run, images: Sequence[Sheet]) -> Entry:
    """What the report tells of a run. Raises UserError where its result cannot be read."""
    result = read_result(run.path, not run.finished, LEAVE_OUT)
    return Entry(run, state(run.path), result, commands(run), images, age(run.path))


def state(path: Path) -> str:
    """The run's status; where that is "running", whether a process uses the folder."""
    status = read_status(path)
    if status != "running":
        return status
    if not (path / ".lock").exists():
        return KILLED
    with contextlib.suppress(OSError):  # of somebody else's folder only its owner can tell
        return KILLED if is_unused(path) else TRAINING
    return TRAINING


def sheets(path: Path) -> tuple[list[Sheet], list[str]]:
    """The images SHEETS in a run's folder, and why others cannot be shown."""
    found, problems = [], []
    for file in sorted(path.glob(SHEETS)):
        try:
            content = read(file, "an image", "draw it again")
            if not content.startswith(PNG):
                raise UserError(f"{file} is no PNG image: draw it again, or move it away")
            found.append(Sheet(file.name, content))
        except UserError as error:
            problems.append(str(error))
    return found, problems


def age(path: Path) -> float | None:
    """Seconds since a row was last written; None where there is no table."""
    with explaining_os_errors(path, "read"):
        times = [(path / f"{table}.csv").stat().st_mtime for table in TABLES if (path / f"{table}.csv").exists()]
    return max(0.0, time.time() - max(times)) if times else None


def write(text: str, file: Path) -> None:
    """Write the page, making its folder, and say so on stdout."""
    content = text.encode("utf-8", "replace")  # a path may be of bytes that are no text
    with explaining_os_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
    write_atomically(file, lambda new: new.write(content))
    say(f"wrote {printable(str(file))}{' (replaced)' if there else ''}")
