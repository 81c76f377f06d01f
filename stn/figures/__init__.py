"""Figures of runs: how they look, and every plot."""
