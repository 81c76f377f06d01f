"""A figure of several runs: which of them are in it, how each looks, and their entries in its legend."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from stn.errors import UserError
from stn.figures.style import COLORS, LABEL, MANY, MARKERS, STYLE, THIN, key, wrapped
from stn.runs.history import Run, labels

Styles = Mapping[Run, Mapping]  # how each run's line is drawn


class Drawing(NamedTuple):
    """A figure, and the runs that are not in it: of each a line that says why, or None where it has no place there."""

    figure: Figure
    skipped: dict[Run, str | None]


def select(
    runs: Sequence[Run], fits: Callable[[Run], object], why_not: Callable[[Run], str | None]
) -> tuple[list[Run], dict[Run, str | None]]:
    """The runs that fit, and why the others do not: in a line that names the run, or None for one of another kind.

    Raises UserError where none fits.
    """
    selected = [run for run in runs if fits(run)]
    skipped = {run: why_not(run) for run in runs if run not in selected}
    if not selected:
        lines = [line or f"{run.path} is of another kind: give others" for run, line in skipped.items()]
        raise UserError(f"nothing to draw: {'; '.join(lines) or 'no run is given'}")
    return selected, skipped


def line_styles(runs: Sequence[Run]) -> dict[Run, dict]:
    """A colour for each run, and from MANY runs on a thin line with markers now and then, which tell it in grey, too.

    runs: all that were asked for, so that one that is left out of a figure does not change how the others look.
    """
    styles = {run: {"color": color} for run, color in zip(runs, cycle(COLORS), strict=False)}
    if len(runs) >= MANY:
        for place, (run, marker) in enumerate(zip(runs, cycle(MARKERS), strict=False)):
            # Markers of several runs beside each other. matplotlib counts in diagonals of the panel.
            every = 0.3
            apart = {"marker": marker, "markersize": 3, "markevery": (every * place / len(runs), every)}
            styles[run] |= {**apart, "markeredgewidth": 0, "linewidth": THIN}
    return styles


def run_keys(drawn: Sequence[Run], runs: Sequence[Run], styles: Styles) -> list[Artist]:
    """The legend's entry for each run that is drawn; a lone one needs none. runs: all that were asked for."""
    names = dict(zip(runs, labels(runs), strict=True))
    return [key(wrapped(names[run], LABEL), **styles[run]) for run in drawn] if len(drawn) > 1 else []


def shared_style(drawn: Sequence[Run], styles: Styles) -> dict:
    """Colour and width of the line with which the legend says something of all runs."""
    color = styles[drawn[0]]["color"] if len(drawn) == 1 else "0.35"
    return {"color": color, "linewidth": THIN if len(styles) >= MANY else STYLE["lines.linewidth"]}
