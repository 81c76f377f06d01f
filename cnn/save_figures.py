"""Draw the figures of image classifiers' runs, those of older versions too."""

import sys
from functools import partial

from cnn.figures import ORDER, cutout, cuts_out, dropouts, rates
from stn.figures import command
from stn.figures.command import Plot
from stn.figures.schedules import schedules

NAME = "save_figures.py"
PLOTS = {
    **command.PLOTS,
    "schedules": Plot(partial(schedules, order=ORDER), lambda _: True),
    "dropouts": Plot(dropouts, rates),
    "cutout": Plot(cutout, cuts_out),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status, 2 where something could not be drawn."""
    return command.main(argv, NAME, PLOTS, ORDER)


if __name__ == "__main__":
    sys.exit(main())
