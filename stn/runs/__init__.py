"""A run's folder: its settings, logs and checkpoints, reading them back, finding runs."""
