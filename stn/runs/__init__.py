"""A run's folder and the files in it: written while it trains, read back to resume or to draw it."""
