"""`python -m stn.runs [FOLDER]` lists the runs in a folder."""

from stn.scripts.launch import launch

launch("stn.scripts.runs", "python -m stn.runs")
