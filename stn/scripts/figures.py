"""Draw the figures of some runs, as far as the runs have come."""

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stn.errors import UserError
from stn.figures import style
from stn.figures.drawing import Drawing, groups
from stn.figures.schedules import schedules
from stn.figures.scores import Reference, accuracies, losses, perplexities
from stn.figures.style import COLORS, files_of, save
from stn.files import explaining_os_errors
from stn.runs.folder import ARGS
from stn.runs.history import Run, only_reading, read_run
from stn.scripts.options import ROOT, OneLineParser, exit_status, find, named, positive
from stn.scripts.output import complain, printable, say


class Plot(NamedTuple):
    """fits: whether a run is of the kind that is drawn. Where no run is, there is no such figure.

    refers: whether `draw` takes a reference, too.
    """

    draw: Callable[..., Drawing]
    fits: Callable[[Run], object]
    refers: bool = False


NAME = "python -m stn.figures"
LONGEST_NAME, LONGEST_PATH = 240, 4000  # bytes: of what the usual file systems take, less what is added
REFERENCE = "reference"
FOUND = 3  # runs that are named where a folder of runs was given for a run
SCORES = {"val_loss", "val_ppl", "val_acc"}  # a run has its loss, and one of the others where that means something
# By the names of their files.
PLOTS = {
    "schedules": Plot(schedules, lambda _: True),
    "perplexities": Plot(perplexities, lambda run: len(run.epoch) and "val_ppl" in run.epoch, refers=True),
    "accuracies": Plot(accuracies, lambda run: len(run.epoch) and "val_acc" in run.epoch, refers=True),
    "losses": Plot(losses, lambda run: len(run.epoch) and {*run.epoch} & SCORES == {"val_loss"}, refers=True),
}


def main(
    argv: list[str] | None = None,
    script: str = NAME,
    plots: Mapping[str, Plot] = PLOTS,
    words: Mapping[str, str] | None = None,
) -> int:
    """Draw the runs that the command line names; the exit status, 2 where something could not be drawn.

    script: what calls itself so in its errors. words: the hyperparameters, and what people call them, for runs that do
    not record it.
    """
    parser = OneLineParser(prog=script, description=__doc__)
    parser.usage = "%(prog)s RUN [RUN ...] [flags]"
    parser.add_argument("runs", nargs="+", type=named, metavar="RUN", help="a run's folder")
    add_labels(parser)
    add_reference(parser)
    add_out(parser, "plots", "FOLDER", "where the figures go")
    args = parser.parse_args(argv)

    def draw() -> int:
        reference = reference_of(args.reference, args.reference_label)
        runs, left_out = read_runs(args.runs, args.labels, lambda path: read_run(find_run(path), words, words))
        for run in [run for run in runs if run.epoch.empty and run.steps.empty]:
            runs.remove(run)
            left_out.append(run.lacks("whole row of a table"))
        for line in left_out:
            complain(script, f"left out: {line}")
        drawn = draw_all(script, runs, referring(plots, runs, reference) if reference else plots, args.out)
        return 0 if drawn and not left_out else 2

    return exit_status(script, draw, "start it again")


def draw_all(script: str, runs: Sequence[Run], plots: Mapping[str, Plot], folder: Path) -> bool:
    """Draw and write each figure that has a run; whether all could be, and every run is in one of them.

    What is left out is said.
    """
    told, drawn, figures, failed = set(), set(), [], False
    warn_of_many(script, len(groups(runs)))
    for name, plot in plots.items():
        if not any(map(plot.fits, runs)):
            continue
        try:
            figure, skipped = plot.draw(runs)
        except UserError as error:
            complain(script, f"{name}: {error}")
            told, failed = {*runs}, True
            continue
        for line in filter(None, skipped.values()):
            complain(script, f"{name}: left out: {line}")
        told |= {run for run, line in skipped.items() if line}
        drawn |= {*runs} - {*skipped}
        write(figure, folder / name)
        figures.append(figure)
    warn_of_boxes(script, figures)
    in_none = [run for run in runs if run not in drawn]
    for run in in_none:
        if run not in told:
            complain(script, f"left out: {run.path} has nothing that one of these figures shows: give others")
    return not (failed or in_none)


def add_labels(parser: ArgumentParser, default: str = "what differs in their folders' names") -> None:
    """--labels, whose names `read_runs` takes."""
    shared = "one name for seeds of one configuration"
    words = f"what the legend calls the runs: after them, a name for each in their order, {shared} (default: {default})"
    parser.add_argument("--labels", nargs="+", type=_label, metavar="NAME", help=words)


def add_reference(parser: ArgumentParser) -> None:
    """--reference and --reference_label, of which `reference_of` makes one."""
    words = "a validation perplexity or loss to compare with, such as a published one: a line in the panels of these"
    parser.add_argument("--reference", type=positive, metavar="SCORE", help=words)
    words = f"what the legend calls it (default: {REFERENCE})"
    parser.add_argument("--reference_label", type=_label, metavar="NAME", help=words)


def reference_of(value: float | None, label: str | None) -> Reference | None:
    """What --reference and --reference_label say. Raises UserError for a label alone."""
    if value is None and label is not None:
        raise UserError("--reference_label names a line that is not drawn: give --reference, too")
    return None if value is None else Reference(value, label or REFERENCE)


def referring(plots: Mapping[str, Plot], runs: Sequence[Run], reference: Reference) -> dict[str, Plot]:
    """The plots, those of scores with this reference. Raises UserError where the runs have several kinds of scores."""
    scores = [name for name, plot in plots.items() if plot.refers and any(map(plot.fits, runs))]
    if len(scores) > 1:
        raise UserError(f"--reference is one score, and these runs have {' and '.join(scores)}: draw them one by one")
    own = {name: plots[name]._replace(draw=partial(plots[name].draw, reference=reference)) for name in scores}
    return {**plots, **own}


def add_out(parser: ArgumentParser, default: str, metavar: str, words: str) -> None:
    """--out: "FOLDER" or the "PATH" of a figure. default: below the repository's root."""
    words = f"{words} (default: {default} in the repository)"
    check = new_folder if metavar == "FOLDER" else _figure_path
    parser.add_argument("--out", type=check, default=ROOT / default, metavar=metavar, help=words)


def find_run(path: str) -> Path:
    """A run's folder that the user gave. Raises UserError where it is none: with the runs below it, if there are."""
    with only_reading("check the path"):
        folder = find(path, "the run")
        with explaining_os_errors(folder, "read"):
            if (folder / ARGS).exists() or not folder.is_dir():
                return folder
            # A run is at most three folders below: <experiment>/<name>/<date>.
            below = (file.parent for depth in range(1, 4) for file in folder.glob("*/" * depth + ARGS))
            found = sorted(map(str, islice(below, FOUND + 1)))
    if not found:
        return folder
    others = ", …" if len(found) > FOUND else ""
    raise UserError(f"{folder} is no run itself, but holds runs: give {', '.join(found[:FOUND])}{others}")


def read_runs(
    paths: Sequence[str], labels: Sequence[str] | None, read: Callable[[str], Run]
) -> tuple[list[Run], list[str]]:
    """The runs that these paths lead to, each once, named by their labels; why others could not be read.

    Raises UserError where there are not as many labels as paths, or a run that is to have a label is given twice.
    """
    names = names_for(paths, labels)
    runs: dict[Path, Run] = {}
    left_out = []
    for path, label in zip(paths, names, strict=True):
        try:
            run = read(path)
        except UserError as error:
            left_out.append(str(error))
            continue
        if labels and run.path in runs:
            raise UserError(f"{run.path} is given twice, and --labels has two names for it: give it once")
        runs.setdefault(run.path, replace(run, name=label))
    return [*runs.values()], [*dict.fromkeys(left_out)]


def names_for(paths: Sequence[str], labels: Sequence[str] | None) -> Sequence[str | None]:
    """What --labels calls each path; None where it is not given. Raises UserError for another number of them."""
    if labels is None:
        return [None] * len(paths)
    if len(labels) != len(paths):
        raise UserError(f"--labels gives {len(labels)} names to {len(paths)} runs: give one for each, in their order")
    return labels


def warn_of_many(script: str, count: int) -> None:
    """Say so where there are more lines than colours."""
    if count > len(COLORS):
        complain(script, f"more than {len(COLORS)} runs: colours repeat")


def warn_of_boxes(script: str, figures: Iterable[style.Figure]) -> None:
    """Say so where figures hold letters that are drawn as boxes."""
    if letters := sorted({letter for figure in figures for letter in style.boxes(figure)}):
        complain(script, f"the font does not have {' '.join(letters)}: drawn as boxes")


def write(figure: style.Figure, path: Path) -> None:
    """Save a figure as path.pdf and path.png, and say so on stdout, and which of them replaced a file."""
    with explaining_os_errors(path):
        there = {file for file in files_of(path) if file.exists()}
    for file in save(figure, path):
        say(f"wrote {printable(str(file))}{' (replaced)' if file in there else ''}")


def _label(text: str) -> str:
    """A name that is neither blank nor of bytes that are no text."""
    if not text.strip():
        raise ArgumentTypeError("it is empty")
    if not text.isprintable():
        raise ArgumentTypeError(f"{printable(text)!r} holds what cannot be printed, marked by '?': leave that out")
    return text


def new_folder(text: str) -> Path:
    """A folder that may be made, with files in it."""
    path = Path(named(text))
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        raise ArgumentTypeError("the path is too long: choose a shorter one")
    return path


def _figure_path(text: str) -> Path:
    """A figure's path, to which .pdf and .png are added; where it ends so already, without that."""
    path = new_folder(text)
    if text.endswith(os.sep) or path.is_dir():
        raise ArgumentTypeError(f"{text} is a folder: add the figure's name to it")
    return path.with_suffix("") if path.suffix in (".pdf", ".png") and path.stem else path
