"""Draw the figures of some runs, as far as the runs have come."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from stn.errors import UserError
from stn.figures.drawing import Drawing
from stn.figures.schedules import schedules
from stn.figures.scores import accuracies, perplexities
from stn.figures.style import files_of, save
from stn.runs.history import Run, read_run
from stn.scripts.options import ROOT, OneLineParser, exit_status, find, named
from stn.scripts.output import complain, say


class Plot(NamedTuple):
    """fits: whether a run is of the kind that is drawn. Where no run is, there is no such figure."""

    draw: Callable[[Sequence[Run]], Drawing]
    fits: Callable[[Run], object]


NAME = "python -m stn.figures"
# By the names of their files.
PLOTS = {
    "schedules": Plot(schedules, lambda _: True),
    "perplexities": Plot(perplexities, lambda run: len(run.epoch) and "val_ppl" in run.epoch),
    "accuracies": Plot(accuracies, lambda run: len(run.epoch) and "val_acc" in run.epoch),
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
    add_out(parser, "plots", "FOLDER", "where the figures go")
    args = parser.parse_args(argv)

    def draw() -> int:
        runs, left_out = read_runs(args.runs, args.labels, lambda path: read_run(find(path, "the run"), words, words))
        for run in [run for run in runs if run.epoch.empty and run.steps.empty]:
            runs.remove(run)
            left_out.append(f"{run.path} holds no whole row of a table yet: let it train on, or give others")
        for line in left_out:
            complain(script, f"left out: {line}")
        status = 2 if left_out else 0
        for name, plot in plots.items():
            if not any(map(plot.fits, runs)):
                continue
            try:
                figure, skipped = plot.draw(runs)
            except UserError as error:
                complain(script, f"{name}: {error}")
                status = 2
                continue
            for line in skipped:
                complain(script, f"{name}: left out: {line}")
            write(figure, args.out / name)
        return status

    return exit_status(script, draw, "start it again")


def add_labels(parser: ArgumentParser, default: str = "what differs in their folders' names") -> None:
    """--labels, whose names `read_runs` takes."""
    words = f"what the legend calls the runs: after them, a name for each in their order (default: {default})"
    parser.add_argument("--labels", nargs="+", type=named, metavar="NAME", help=words)


def add_out(parser: ArgumentParser, default: str, metavar: str, words: str) -> None:
    """--out. default: below the repository's root."""
    words = f"{words} (default: {default} in the repository)"
    parser.add_argument("--out", type=_path, default=ROOT / default, metavar=metavar, help=words)


def read_runs(
    paths: Sequence[str], labels: Sequence[str] | None, read: Callable[[str], Run]
) -> tuple[list[Run], list[str]]:
    """The runs that these paths lead to, each once, named by their labels; why others could not be read.

    Raises UserError where there are not as many labels as paths.
    """
    if labels is not None and len(labels) != len(paths):
        raise UserError(f"--labels gives {len(labels)} names to {len(paths)} runs: give one for each, in their order")
    runs: dict[Path, Run] = {}
    left_out = []
    for path, label in zip(paths, labels or [None] * len(paths), strict=True):
        try:
            run = read(path)
            runs.setdefault(run.path, replace(run, name=label))
        except UserError as error:
            left_out.append(str(error))
    return [*runs.values()], [*dict.fromkeys(left_out)]


def write(figure: Figure, path: Path) -> None:
    """Save a figure as path.pdf and path.png, and say so on stdout, and which of them replaced a file."""
    there = {file for file in files_of(path) if file.exists()}
    for file in save(figure, path):
        say(f"wrote {file}{' (replaced)' if file in there else ''}")


def _path(text: str) -> Path:
    return Path(named(text))
