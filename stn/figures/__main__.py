"""`python -m stn.figures RUN…` draws the figures of some runs."""

from stn.scripts.launch import launch

launch("stn.scripts.figures", "python -m stn.figures")
