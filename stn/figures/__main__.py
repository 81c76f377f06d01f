"""`python -m stn.figures RUN…` draws the figures of some runs."""

import sys

from stn.scripts.figures import main

sys.exit(main())
