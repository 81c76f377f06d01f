"""`python -m stn.report RUN…` writes a page on some runs."""

from stn.scripts.launch import launch

launch("stn.scripts.report", "python -m stn.report")
