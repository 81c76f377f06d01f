"""Draw the figures of image classifiers' runs, those of older versions too."""

import sys
from functools import partial

from cnn.figures import ORDER, cutout, cuts_out, dropouts, rates
from stn.figures import command
from stn.figures.command import Plot
from stn.figures.schedules import schedules

PLOTS = {
    **command.PLOTS,
    "schedules": Plot(partial(schedules, order=ORDER), lambda _: True),
    "dropouts": Plot(dropouts, rates),
    "cutout": Plot(cutout, cuts_out),
}
main = partial(command.main, script="save_figures.py", plots=PLOTS, names=ORDER)

if __name__ == "__main__":
    sys.exit(main())
