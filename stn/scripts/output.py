"""Lines on stdout and stderr."""

import sys


def say(line: str) -> None:
    """One line on stdout, at once."""
    print(line, flush=True)


def complain(script: str, error: object) -> None:
    """One line on stderr that names the script."""
    print(f"{script}: {error}", file=sys.stderr, flush=True)
