"""List the runs in a folder, at any depth: what they have come to, and in which settings they differ.

Runs that differ in nothing but their seed are one line: the means over the seeds that are finished, and the sample
standard deviation of their scores; "2/3 finished" is the mean of two seeds of three. --each shows the runs themselves.
Scores are the best epoch's, on validation and test data; test only where the run has evaluated it. The columns: best is
that epoch, counted from 0; done is the number of epochs so far; time is that of training, in hours, minutes and
seconds; the settings that differ come last. Nothing is written, and runs under way are not disturbed.
"""

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.runs.history import only_reading
from stn.runs.summary import COLUMNS, Summary, common_start, summarize
from stn.scripts.options import ROOT, OneLineParser, exit_status, find, named
from stn.scripts.output import complain, printable, say

SCRIPT = "python -m stn.runs"
UNKNOWN = "–"
GAP = "  "
INDENT = 4  # of what does not fit beside the numbers
NARROWEST = 28  # columns beside the numbers that suffice for a path and settings
SHORTEST = 24  # characters of a path that are always shown


def main(argv: list[str] | None = None) -> int:
    """Print the table; the exit status, 2 where a run had to be left out or there is none."""
    parser = OneLineParser(prog=SCRIPT, description=__doc__)
    parser.usage = "%(prog)s [FOLDER] [flags]"
    parser.add_argument("folder", nargs="?", type=named, metavar="FOLDER", help="where the runs lie (default: logs)")
    parser.add_argument("--each", action="store_true", help="a line for each run, with its seed")
    by = "order by this column, settings too (default: by script, then val); val and test the best first"
    parser.add_argument("--sort", type=named, metavar="COLUMN", help=by)
    parser.add_argument("--csv", action="store_true", help="print CSV, every number in full, time in seconds")
    args = parser.parse_args(argv)

    def work() -> int:
        summaries, problems = summarize(existing_folder(args.folder))
        for problem in problems:
            complain(SCRIPT, f"left out: {problem}")
        if not (summaries or problems):
            raise UserError(f"there is no run in {args.folder or ROOT / 'logs'}: check the folder's name")
        chosen = [summary if args.each else summary.gathered() for summary in summaries]
        if chosen:
            show(in_order(chosen, args.sort), args.csv)
        return 2 if problems else 0

    return exit_status(SCRIPT, work, "nothing was changed")


def existing_folder(path: str | None) -> Path:
    """The folder that the user gave, or the default one. Raises UserError where it is none."""
    with only_reading("check the folder's name"), explaining_os_errors(Path(path or "logs"), "read"):
        folder = find(path, "the folder") if path else ROOT / "logs"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: name a folder of runs")
    return folder


def in_order(summaries: Sequence[Summary], column: str | None) -> list[Summary]:
    """Each by the column, where it has it. Raises UserError where none has."""
    columns = [{*summary.scores, *summary.settings} for summary in summaries]
    if column and not any(column in own for own in columns):
        if column == "seed":
            raise UserError("--sort seed: a line stands for several seeds: add --each")
        others = sorted(set().union(*columns) - {*COLUMNS})
        raise UserError(f"--sort {column}: there is no such column: give one of {', '.join([*COLUMNS, *others])}")
    return [summary.ordered(column if column in own else None) for summary, own in zip(summaries, columns, strict=True)]


def show(summaries: Sequence[Summary], as_csv: bool) -> None:
    """Print tables: at most as wide as the terminal, or else whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    texts = [in_csv(summaries)] if as_csv else ["\n".join(lines(summary, width)) for summary in summaries]
    encoding = sys.stdout.encoding or "utf-8"
    # A file may be called what cannot be printed, and there are terminals without ±.
    say("\n\n".join(texts).encode(encoding, "replace").decode(encoding))


def in_csv(summaries: Sequence[Summary]) -> str:
    """All tables as one, with the measure and the unit of each row first."""
    tables = [pandas.concat([summary.scores, summary.settings], axis=1) for summary in summaries]
    for table, summary in zip(tables, summaries, strict=True):
        table.insert(0, "measure", summary.kind.measure)
        table.insert(1, "unit", summary.kind.unit)
    return pandas.concat(tables).to_csv(index=False).rstrip("\n")


def lines(summary: Summary, width: int | None) -> list[str]:
    """The table with its heading; where it is wider than the width, if any, with the settings as words."""
    scores, settings = summary.scores, summary.settings
    names = [printable(name) for name in scores["run"]]
    folder = common_folder(names) if width else ""
    paths = [name.removeprefix(folder) for name in names]
    numbers = beside([*numeric(summary), column("status", scores["status"], str.ljust)])
    own = [column(printable(name), map(in_words, settings[name]), str.rjust) for name in settings]
    table = [line.rstrip() for line in beside([numbers, column("run", paths, str.ljust), *own])]
    if width and max(map(len, table)) > width:
        words = [settings_in_words(row) for row in settings.to_dict("records")]
        table = packed(numbers, paths, words, width)
    place = f" in {folder}" if folder else ""
    spread = ", mean ± standard deviation of seeds" if scores["val_deviation"].notna().any() else ""
    return [f"{summary.kind.unit.capitalize()}{place}{spread}", *table]


def numeric(summary: Summary) -> list[list[str]]:
    """The columns of numbers, with their heads."""
    scores = summary.scores
    marks = [score(name, scores[name], scores[f"{name}_deviation"], summary.kind.decimals) for name in ("val", "test")]
    counts = [column(name, (number(value, 0) for value in scores[name]), str.rjust) for name in ("best", "done")]
    seeds = [column(name, map(str, scores[name]), str.rjust) for name in ("seed",) if name in scores]
    return [*marks, *counts, column("time", map(clock, scores["time"]), str.rjust), *seeds]


def score(head: str, means: Iterable[float], deviations: Iterable[float], decimals: int) -> list[str]:
    """A column of means, with their deviations where there are any, each aligned by itself."""
    values = column("", (number(value, decimals) for value in means), str.rjust)
    signed = ("" if math.isnan(value) else f" ± {number(value, decimals)}" for value in deviations)
    spreads = column("", signed, str.rjust)
    joined = [value + spread for value, spread in zip(values, spreads, strict=True)]
    return column(head, joined[1:], str.rjust)


def column(head: str, cells: Iterable[str], align: Callable[[str, int], str]) -> list[str]:
    """Head and cells, all of one width."""
    texts = [head, *cells]
    width = max(map(len, texts))
    return [align(text, width) for text in texts]


def beside(columns: Sequence[Sequence[str]]) -> list[str]:
    return [GAP.join(cells) for cells in zip(*columns, strict=True)]


def packed(numbers: Sequence[str], paths: Sequence[str], words: Sequence[list[str]], width: int) -> list[str]:
    """The numbers, and beside them, or where that is too narrow below them, path and settings in lines that fit."""
    room = width - len(numbers[0]) - len(GAP)
    below = room < NARROWEST
    short = shortened(paths, max(SHORTEST, width - INDENT if below else room // 2))
    names = ["run", *short] if below else column("run", short, str.ljust)
    head = ["settings"] if any(words) else []
    table = []
    for row, name, items in zip(numbers, names, [head, *words], strict=True):
        texts = filled([name, *items], width - INDENT if below else room)
        indent = " " * (INDENT if below else len(row) + len(GAP))
        indented = [indent + text for text in texts]
        table += [row, *indented] if below else [row + GAP + texts[0], *indented[1:]]
    return [line.rstrip() for line in table]


def filled(items: Sequence[str], width: int) -> list[str]:
    """The items in as few lines as hold them, none broken."""
    texts = [items[0]]
    for item in items[1:]:
        if len(texts[-1]) + len(GAP) + len(item) <= width:
            texts[-1] += GAP + item
        else:
            texts.append(item)
    return texts


def common_folder(paths: Sequence[str]) -> str:
    """The folders, with a slash at the end, that all paths begin with."""
    head = common_start([path.partition("{")[0] for path in paths])  # braces hold the ends of several paths
    return head[: head.rfind("/") + 1]


def shortened(paths: Sequence[str], limit: int) -> list[str]:
    """With the middle of long ones left out, as far as they remain different."""
    for length in range(limit, max(map(len, paths)) + 1):
        short = [
            path if len(path) <= length else f"{path[: length // 2]}…{path[len(path) - (length - 1) // 2 :]}"
            for path in paths
        ]
        if len({*short}) == len({*paths}):
            return short
    return list(paths)


def settings_in_words(settings: Mapping[str, Any]) -> list[str]:
    """As on the command line: switches that are on, and other flags with their values."""
    told = {printable(name): value for name, value in settings.items() if value is not None and value is not False}
    return [name if value is True else f"{name} {in_words(value)}" for name, value in told.items()]


def in_words(value: Any) -> str:
    """A setting, without what says nothing."""
    if value is None or isinstance(value, bool):
        return {None: UNKNOWN, True: "yes", False: "no"}[value]
    return printable(str(value).removesuffix(".0")) or '""'


def number(value: float, decimals: int) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.{decimals}f}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, of 0 or more."""
    if not math.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
