"""How a score depends on settings: a heat map of two of them, curves and points of one.

What is drawn is a table with a line for each run: a column for each setting, the run's `score`, whether it has
`diverged`, and whether it has the `default` settings. Runs of one setting are its seeds.
"""

from collections.abc import Mapping, Sequence

import pandas
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from stn.figures.style import BAND, COLORS, COLUMN, CONSTANT, key, styled

SHADES = colormaps["viridis"]
DARK = 0.43  # share of the shades on which text is white
REACH = 2.0  # how far the colours go, in distances of the median from the best
DIVERGED = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "////", "linewidth": 0}
CROSS = {"marker": "x", "color": "0.35", "markersize": 5, "markeredgewidth": 1.2, "linestyle": "none"}
RING = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": "0.35", "markeredgewidth": 0.8}
RING |= {"linestyle": "none"}
DOTS = {"marker": "o", "markersize": 3.5, "markeredgewidth": 0}


@styled
def heat_map(runs: pandas.DataFrame, rows: str, columns: str, words: Mapping[str, str]) -> Figure:
    """Mean scores, the lower the darker, over the settings `rows` (upwards) and `columns`; the default's is framed.

    words: what the two settings and the score are called. Outliers share the lightest shade.
    """
    ups, rights = (sorted(runs[name].unique()) for name in (rows, columns))
    figure = Figure(figsize=(COLUMN, 0.75 + 0.5 * len(ups)), layout="constrained")
    panel = figure.subplots()
    shades = _shades(runs[~runs["diverged"]].groupby([rows, columns])["score"].mean())
    for (up, right), own in runs.groupby([rows, columns]):
        _cell(panel, (rights.index(right), ups.index(up)), own, shades)
    panel.set(xlabel=words[columns], ylabel=words[rows], xlim=(-0.5, len(rights) - 0.5), ylim=(-0.5, len(ups) - 0.5))
    panel.set_xticks(range(len(rights)), [f"{value:g}" for value in rights])
    panel.set_yticks(range(len(ups)), [f"{value:g}" for value in ups])
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    beyond = "max" if runs["score"].max() > shades.vmax else "neither"
    bar = figure.colorbar(ScalarMappable(shades, SHADES), ax=panel, label=words["score"], pad=0.02, extend=beyond)
    bar.outline.set_visible(False)
    return figure


def _shades(means: pandas.Series) -> Normalize:
    """Colours up to REACH times as far from the best as the median is: outliers would take all of them."""
    if means.empty:
        return Normalize(0, 1)
    best, median, worst = means.min(), means.median(), means.max()
    return Normalize(best, max(min(worst, best + REACH * (median - best)), best + 1e-9), clip=True)


def _cell(panel: Axes, place: tuple[int, int], runs: pandas.DataFrame, shades: Normalize) -> None:
    scores, lost = runs["score"][~runs["diverged"]], int(runs["diverged"].sum())
    corner, ink = (place[0] - 0.5, place[1] - 0.5), "black"
    if scores.empty:
        look = DIVERGED
    else:
        shade = float(shades(scores.mean()))
        look, ink = {"facecolor": SHADES(shade), "linewidth": 0}, "white" if shade < DARK else "black"
    panel.add_patch(Rectangle(corner, 1, 1, **look))
    words = [] if scores.empty else [f"{scores.mean():.1f}"]
    words += [f"± {scores.std():.1f}"] if len(scores) > 1 else []
    words += ["diverged" if scores.empty else f"{lost} diverged"] if lost else []
    panel.text(*place, "\n".join(words), color=ink, ha="center", va="center", fontsize=7)
    if runs["default"].any():
        inner = corner[0] + 0.04, corner[1] + 0.04
        panel.add_patch(Rectangle(inner, 0.92, 0.92, fill=False, edgecolor=ink, linewidth=0.9))


def curve(panel: Axes, runs: pandas.DataFrame, setting: str, color: str = COLORS[0], log: bool = False) -> None:
    """Mean scores against a setting that is a number, in a band to the extremes; crosses where all runs diverged."""
    means, lows, highs = _spread(runs, setting)
    if log:
        panel.set_xscale("log")
    values = sorted(runs[setting].unique())
    panel.plot(means.index, means, color=color, **DOTS)
    panel.fill_between(means.index, lows, highs, color=color, **BAND)
    panel.xaxis.set_major_locator(FixedLocator(values))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _mark(panel, runs, setting, {value: value for value in values})


def points(panel: Axes, runs: pandas.DataFrame, setting: str, order: Sequence[str], color: str = COLORS[0]) -> None:
    """Mean scores of a setting that is a choice, in this order, with bars to the extremes."""
    means, lows, highs = _spread(runs, setting)
    places = {name: place for place, name in enumerate(order)}
    x = [places[name] for name in means.index]
    panel.errorbar(x, means, yerr=(means - lows, highs - means), color=color, fmt="o", markersize=3.5, elinewidth=1)
    panel.set_xticks(range(len(order)), order)
    panel.set_xlim(-0.5, len(order) - 0.5)
    panel.grid(visible=False, axis="x")
    _mark(panel, runs, setting, places)


def across(panel: Axes, runs: pandas.DataFrame, setting: str, low: str, high: str, **look) -> None:
    """The mean of runs that chose a setting themselves: a point with bars to the extremes.

    setting, low, high: columns with what a run chose, and with the ends of its range.
    """
    runs = runs[~runs["diverged"]]
    if runs.empty:
        return
    x, y = runs[setting].mean(), runs["score"].mean()
    panel.plot([runs[low].min(), x, runs[high].max()], [y] * 3, markevery=[1], **look)
    panel.plot([x] * 2, [runs["score"].min(), runs["score"].max()], **{**look, "marker": None})


def keys(runs: pandas.DataFrame) -> list:
    """The legend's entries for the marks of `curve` and `points`."""
    found = [key("default settings", **RING)] if runs["default"].any() else []
    return found + ([key("diverged", **CROSS)] if runs["diverged"].any() else [])


def reference(panel: Axes, runs: pandas.DataFrame) -> None:
    """A line at the mean score of the default settings."""
    own = runs[runs["default"] & ~runs["diverged"]]
    if len(own):
        panel.axhline(own["score"].mean(), color="0.6", zorder=0.8, **CONSTANT)


def _spread(runs: pandas.DataFrame, setting: str) -> tuple[pandas.Series, pandas.Series, pandas.Series]:
    """Mean, lowest and highest score of each value, of the runs that did not diverge."""
    scores = runs[~runs["diverged"]].groupby(setting)["score"]
    return scores.mean(), scores.min(), scores.max()


def _mark(panel: Axes, runs: pandas.DataFrame, setting: str, places: Mapping) -> None:
    """A ring around the default's mean; a cross at the top where runs diverged."""
    default = runs[runs["default"] & ~runs["diverged"]]
    for value, own in default.groupby(setting):
        panel.plot(places[value], own["score"].mean(), zorder=3, **RING)
    for value in runs[setting][runs["diverged"]].unique():
        panel.plot(places[value], 0.97, transform=panel.get_xaxis_transform(), zorder=3, **CROSS)
