"""Draw the figures of language models' runs, those of older versions too."""

import sys
from functools import partial

from lstm.model import HYPERPARAMETERS
from stn.figures import command

main = partial(command.main, script="save_figures.py", names=tuple(HYPERPARAMETERS))

if __name__ == "__main__":
    sys.exit(main())
