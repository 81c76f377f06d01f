"""A report of runs: one HTML page that holds all it needs, from runs that were read back to its text."""
