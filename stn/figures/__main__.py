"""`python -m stn.figures RUN…` draws every figure of some runs, as far as the runs have come."""

import sys

from stn.figures.plots import main

sys.exit(main())
