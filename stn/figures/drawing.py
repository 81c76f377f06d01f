"""A figure of several runs: which of them are in it, and their entries in its legend."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from stn.errors import UserError
from stn.figures.style import COLORS, LABEL, key, wrapped
from stn.runs.history import Run, labels


class Drawing(NamedTuple):
    """A figure, and one line for each run that is not in it: which and why."""

    figure: Figure
    skipped: list[str]


def select(runs: Sequence[Run], fits: Callable[[Run], object], otherwise: str) -> tuple[list[Run], list[str]]:
    """The runs that fit, and a line for each other one; otherwise: what that one does.

    Raises UserError where none fits.
    """
    selected = [run for run in runs if fits(run)]
    skipped = [f"{run.path} {otherwise}" for run in runs if run not in selected]
    if not selected:
        raise UserError(f"nothing to draw: {'; '.join(skipped) or 'no run is given'}: let it train on, or give others")
    return selected, skipped


def run_keys(runs: Sequence[Run], styles: Mapping[Path, Mapping]) -> list[Artist]:
    """The legend's entry for each run; a lone one needs none. styles: of each run, by its path."""
    if len(runs) == 1:
        return []
    entries = zip(runs, labels(runs), cycle(COLORS))
    return [key(wrapped(label, LABEL), color=color, **styles[run.path]) for run, label, color in entries]


def shared_color(runs: Sequence[Run]) -> str:
    """The colour of what the legend says of all runs."""
    return COLORS[0] if len(runs) == 1 else "0.35"
