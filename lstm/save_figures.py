"""Draw the figures of language models' runs, those of older versions too."""

import sys

from lstm.model import HYPERPARAMETERS
from stn.figures import command

NAME = "save_figures.py"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status, 2 where something could not be drawn."""
    return command.main(argv, NAME, names=tuple(HYPERPARAMETERS))


if __name__ == "__main__":
    sys.exit(main())
