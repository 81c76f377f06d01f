"""Figures of any experiment's runs: how they look, schedules, scores, and the command that draws them."""
