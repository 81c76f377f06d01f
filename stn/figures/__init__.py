"""Figures of any experiment's runs: how they look, schedules, scores, and the command that draws them."""

import os

# matplotlib fails on import where this names what is not installed, as in a shell that a notebook started. No figure
# needs it. Whatever draws imports matplotlib through modules of this package, and so after this line.
os.environ.pop("MPLBACKEND", None)
