"""`python -m stn.figures RUN…` draws the figures of some runs."""

import sys

from stn.figures.command import main

sys.exit(main())
