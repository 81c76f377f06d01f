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


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by what figures call them. Those of one name, such as seeds of one configuration, look alike."""
    found: dict[str, list[Run]] = {}
    for run, name in zip(runs, labels(runs), strict=True):
        found.setdefault(name, []).append(run)
    return found


def line_styles(runs: Sequence[Run]) -> dict[Run, dict]:
    """A colour for each name, and from MANY names on a marker now and then, which tells them in grey, too.

    From MANY runs on, lines are thin.
    runs: all that were asked for, so that one that is left out of a figure does not change how the others look.
    """
    styles = {}
    named = groups(runs).values()
    for place, (group, color, marker) in enumerate(zip(named, cycle(COLORS), cycle(MARKERS), strict=False)):
        style = {"color": color}
        if len(runs) >= MANY:
            style["linewidth"] = THIN
        if len(named) >= MANY:
            # Markers of several names beside each other. matplotlib counts in diagonals of the panel.
            every = 0.3
            apart = (every * place / len(named), every)
            style |= {"marker": marker, "markersize": 3, "markevery": apart, "markeredgewidth": 0}
        styles |= dict.fromkeys(group, style)
    return styles


def run_keys(drawn: Sequence[Run], runs: Sequence[Run], styles: Styles) -> list[Artist]:
    """The legend's entry for each name that is drawn; a lone one needs none. runs: all that were asked for."""
    found = {name: [run for run in group if run in drawn] for name, group in groups(runs).items()}
    keys = [key(wrapped(f"{name}{count(group)}", LABEL), **styles[group[0]]) for name, group in found.items() if group]
    return keys if len(drawn) > 1 else []


def count(group: Sequence[Run]) -> str:
    """How many runs of one name there are, if several: seeds, where it is these that tell them apart."""
    return f" ({len(group)} {'seeds' if _differ_in_seed(group) else 'runs'})" if len(group) > 1 else ""


def titles(drawn: Sequence[Run], runs: Sequence[Run]) -> list[str]:
    """What a panel of each run's own is called: the run's name, and its seed or number where others have that name."""
    called = {}
    for name, group in groups(runs).items():
        seeds = [f", seed {run.settings.get('seed')}" for run in group]
        numbers = [f", run {number}" for number in range(1, len(group) + 1)]
        own = [""] if len(group) == 1 else seeds if _differ_in_seed(group) else numbers
        called |= {run: name + words for run, words in zip(group, own, strict=True)}
    return [called[run] for run in drawn]


def _differ_in_seed(group: Sequence[Run]) -> bool:
    return len({str(run.settings.get("seed")) for run in group}) == len(group)


def shared_style(drawn: Sequence[Run], styles: Styles) -> dict:
    """Colour and width of the line with which the legend says something of all runs."""
    color = styles[drawn[0]]["color"] if len(drawn) == 1 else "0.35"
    return {"color": color, "linewidth": THIN if len(styles) >= MANY else STYLE["lines.linewidth"]}
