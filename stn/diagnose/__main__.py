"""`python -m stn.diagnose RUN` measures the hypergradients of a run."""

from stn.scripts.launch import launch

launch("stn.scripts.diagnose", "python -m stn.diagnose")
