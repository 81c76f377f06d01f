"""Draw the figures of language models' runs, those of older versions too."""

import sys
from functools import partial

from lstm.hyperparameters import TABLE
from stn.scripts import figures

main = partial(figures.main, script="save_figures.py", names=tuple(TABLE))

if __name__ == "__main__":
    sys.exit(main())
