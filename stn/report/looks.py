"""How each run looks in a report: a colour, dashes and a marker, the same in curves, keys and tables."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from stn.figures.drawing import groups, titles
from stn.figures.style import COLORS, DASHES, MARKERS
from stn.runs.history import Run

WIDTH = 2  # of a run's line in pixels, in which its dashes are measured
# matplotlib's markers by plotly's names, with a letter for keys.
SYMBOLS = {
    "o": ("circle", "●"),
    "s": ("square", "■"),
    "^": ("triangle-up", "▲"),
    "D": ("diamond", "◆"),
    "v": ("triangle-down", "▼"),
    "P": ("cross", "✚"),
    "X": ("x", "✖"),
    "*": ("star", "★"),
    "<": ("triangle-left", "◀"),
    "d": ("diamond-tall", "♦"),
    ">": ("triangle-right", "▶"),
    "p": ("pentagon", "⬟"),
}


class Look(NamedTuple):
    """title: what the run is called. dash: lengths in pixels, "" for a solid line. symbol, glyph: the marker's."""

    title: str
    color: str
    dash: str
    symbol: str
    glyph: str

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.color} {self.dash}"


def looks(runs: Sequence[Run]) -> dict[Run, Look]:
    """Of each run; runs of one name, such as seeds of one configuration, look alike."""
    called = dict(zip(runs, titles(runs, runs), strict=True))
    styles = zip(groups(runs).values(), cycle(COLORS), cycle(DASHES), cycle(MARKERS), strict=False)
    found = {}
    for group, color, dashes, marker in styles:
        for run in group:
            found[run] = Look(called[run], color, pixels(dashes), *SYMBOLS[marker])
    return {run: found[run] for run in runs}


def pixels(dashes: str | tuple) -> str:
    """matplotlib's dashes as SVG has them."""
    return "" if dashes == "-" else ",".join(f"{WIDTH * length:g}" for length in dashes[1])
