"""Hypergradients by the best response beside those by training on, and how far the response has been learned."""

from collections.abc import Sequence
from itertools import cycle

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from stn.figures.style import COLORS, COLUMN, LABEL, MARKERS, PAGE, key, legend, set_titles, styled, wrapped

SIDE_BY_SIDE = 3  # panels of a row
UNIT = 1000  # thousandths of a nat
RESPONSE = {"color": COLORS[0], "marker": "o", "markersize": 3.5}
TRAINING = {"color": COLORS[1], "marker": "s", "markersize": 3.5}
NOISE = {"color": "0.8", "linewidth": 3.0}
BARS = {"linewidth": 1.0}

Tables = Sequence[tuple[str, pandas.DataFrame]]  # what the figure calls them, and as `stn.diagnose.tables` makes them


@styled
def hypergradients(tables: Tables) -> Figure:
    """Each hyperparameter's −dL/dλ, the downhill slope of the validation loss: a panel for each table.

    Bars are two standard errors long on either side; grey ones reach one standard deviation of a single
    hyperparameter step. The axis is linear near 0 and logarithmic further out.
    """
    columns = 2 if len(tables) == 4 else min(len(tables), SIDE_BY_SIDE)
    rows = -(-len(tables) // columns)
    names = [*dict.fromkeys(name for _, table in tables for name in table.index)]
    height = 0.7 + rows * (0.25 + 0.155 * len(names))
    figure = Figure(figsize=(PAGE if columns > 1 else COLUMN, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    set_titles(figure, panels[: len(tables)], _titles(tables))
    for panel, (_, table) in zip(panels, tables, strict=False):
        _draw_slopes(panel, table, names)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    _scale_slopes(panels[0], tables)
    for panel in panels[len(tables) :]:
        panel.set_axis_off()
    for panel in panels[len(tables) - columns : len(tables)]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("−dL/dλ (thousandths of a nat)")
    keys = [key("by the best response", **RESPONSE, **BARS), key("by training on", **TRAINING, **BARS)]
    legend(figure, None, [*keys, key("one step's standard deviation", **NOISE)])
    return figure


def _titles(tables: Tables) -> list[str]:
    """The tables' names, with the weight steps of those that share one."""
    names = [name for name, _ in tables]
    steps = [f", {table['train_step'].iloc[0]:,.0f} steps" for _, table in tables]
    return [name + (step if names.count(name) > 1 else "") for name, step in zip(names, steps, strict=True)]


def _draw_slopes(panel: Axes, table: pandas.DataFrame, names: list[str]) -> None:
    lines = numpy.array([names.index(name) for name in table.index], dtype=float)
    response, noise = UNIT * table["response"], UNIT * table["noise"]
    panel.hlines(lines - 0.17, response - noise, response + noise, **NOISE)
    panel.axvline(0, color="0.3", linewidth=0.6)
    for which, shift, style in (("response", -0.17, RESPONSE), ("training", 0.17, TRAINING)):
        errors = 2 * UNIT * table[f"{which}_error"]
        panel.errorbar(
            UNIT * table[which], lines + shift, xerr=errors, linestyle="none", elinewidth=BARS["linewidth"], **style
        )


def _scale_slopes(panel: Axes, tables: Tables) -> None:
    """Linear up to the power of ten that half of the errors are above."""
    errors = numpy.concatenate([table[["response_error", "training_error"]].to_numpy().ravel() for _, table in tables])
    smallest = 10.0 ** numpy.floor(numpy.log10(max(UNIT * numpy.median(errors), 1e-9)))
    panel.set_xscale("symlog", linthresh=smallest)
    low, high = panel.get_xlim()
    decades = smallest * 10.0 ** numpy.arange(0, 12)
    ticks = [side * decade for side in (-1, 1) for decade in decades if low <= side * decade <= high]
    panel.xaxis.set_major_locator(FixedLocator([0.0, *ticks]))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


@styled
def gates(tables: Tables) -> Figure:
    """Root mean square of the gates' weights for each hyperparameter against its value, a marker for each name."""
    figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
    panel = figure.subplots()
    keys, names = [], dict.fromkeys(name for name, _ in tables)
    for name, color, marker in zip(names, cycle(COLORS), cycle(MARKERS), strict=False):
        style = {"color": color, "marker": marker, "markersize": 3.5, "linestyle": "none", "markeredgewidth": 0}
        for table in (table for called, table in tables if called == name):
            panel.plot(table["value"], table["gate"], **style)
        keys.append(key(wrapped(name, LABEL), **style))
    panel.set(xscale="log", yscale="log", xlabel="value of the hyperparameter", ylabel="its gates' weights (r.m.s.)")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    legend(figure, None, keys)
    return figure
