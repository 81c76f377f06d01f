"""Draw the figures of some runs, as far as the runs have come."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stn.errors import UserError
from stn.figures.drawing import Drawing
from stn.figures.schedules import schedules
from stn.figures.scores import accuracies, perplexities
from stn.figures.style import save
from stn.runs.history import Run, read_run
from stn.scripts.options import OneLineParser, exit_status, find
from stn.scripts.output import complain, say


class Plot(NamedTuple):
    """fits: whether a run is of the kind that is drawn. Where no run is, there is no such figure."""

    draw: Callable[[Sequence[Run]], Drawing]
    fits: Callable[[Run], object]


# By the names of their files.
PLOTS = {
    "schedules": Plot(schedules, lambda _: True),
    "perplexities": Plot(perplexities, lambda run: "val_ppl" in run.epoch),
    "accuracies": Plot(accuracies, lambda run: "val_acc" in run.epoch),
}


def main(
    argv: list[str] | None = None,
    script: str = "figures",
    plots: Mapping[str, Plot] = PLOTS,
    names: Sequence[str] | None = None,
) -> int:
    """Draw the runs that the command line names; the exit status, 2 where something could not be drawn.

    script: what calls itself so in its errors. names: the hyperparameters, for runs that do not record which they are.
    """
    parser = OneLineParser(prog=script, description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", type=Path, default=Path("plots"), metavar="FOLDER", help="where the figures go")
    args = parser.parse_args(argv)

    def draw() -> int:
        runs, status = [], 0
        for path in dict.fromkeys(args.runs):
            try:
                runs.append(read_run(find(path, "the run"), names))
            except UserError as error:
                complain(script, f"left out: {error}")
                status = 2
        for name, plot in plots.items():
            if not any(map(plot.fits, runs)):
                continue
            try:
                figure, skipped = plot.draw(runs)
                for line in skipped:
                    complain(script, f"{name}: left out: {line}")
                for file in save(figure, args.out / name):
                    say(str(file))
            except UserError as error:
                complain(script, f"{name}: {error}")
                status = 2
        return status

    return exit_status(script, draw, "start it again")
