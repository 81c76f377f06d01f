"""Draw the figures of image classifiers' runs, those of older versions too."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.save_figures")

from functools import partial

from cnn.figures import ORDER, WORDS, cutout, cuts_out, dropouts, rates
from stn.figures.schedules import schedules
from stn.scripts import figures

PLOTS = {
    **figures.PLOTS,
    "schedules": figures.Plot(partial(schedules, order=ORDER), lambda _: True),
    "dropouts": figures.Plot(dropouts, rates),
    "cutout": figures.Plot(cutout, cuts_out),
}
main = partial(figures.main, script="save_figures.py", plots=PLOTS, words=WORDS)
