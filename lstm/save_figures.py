"""Draw the figures of language models' runs, those of older versions too."""

import sys
from functools import partial

from lstm.hyperparameters import TABLE
from stn.scripts import figures

WORDS = {name: declared.label for name, declared in TABLE.items()}
main = partial(figures.main, script="save_figures.py", words=WORDS)

if __name__ == "__main__":
    sys.exit(main())
