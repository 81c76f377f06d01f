"""Draw the figures of language models' runs, those of older versions too."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.save_figures")

from functools import partial

from lstm.hyperparameters import TABLE
from stn.scripts import figures

WORDS = {name: declared.label for name, declared in TABLE.items()}
main = partial(figures.main, script="save_figures.py", words=WORDS)
