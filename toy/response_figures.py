"""The figures of the exact best response: responses, the errors of their Jacobians, and hypergradients."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from stn.figures.style import COLORS, DASHES, MARKERS, PAGE, STYLE, key, legend, styled

EXACT = {"color": "0.0", "linewidth": 2.2, "alpha": 0.75}
LOOKS = {
    "local hypernetwork": {"color": COLORS[4], "linestyle": DASHES[0]},
    "STN": {"color": COLORS[0], "linestyle": DASHES[1]},
    "Δ-STN": {"color": COLORS[1], "linestyle": DASHES[2]},
    "global hypernetwork": {"color": COLORS[2], "linestyle": DASHES[3]},
}
SHARE = 0.25  # of a panel's height for the density


class Learned(NamedTuple):
    """A response that was learned at some scale of the perturbation.

    response: its weight along the direction that is drawn, on the grid of λ. errors: ‖J − ∂w*/∂λ‖ / ‖∂w*/∂λ‖ by weight
    steps; optimum: of the response to which the training tends, where that is known.
    """

    scale: float
    response: Sequence[float]
    errors: Mapping[int, float]
    optimum: float = math.nan


Panels = Mapping[str, Mapping[str, Learned]]  # what a panel's scale is called, and of each method what it learned there


@styled
def responses(grid: numpy.ndarray, exact: numpy.ndarray, lam: float, panels: Panels) -> Figure:
    """Exact and approximate responses over the density of the λ that these were trained on: a panel for each scale."""
    figure, cells = _row(panels, height=2.0)
    margin = 0.12 * (exact.max() - exact.min())
    low, high = exact.min() - margin, exact.max() + 2 * margin
    bottom = low - SHARE * (high - low)
    for cell, found in zip(cells, panels.values(), strict=True):
        cell.plot(grid, exact, **EXACT)
        for name, learned in found.items():
            cell.plot(grid, learned.response, **LOOKS[name])
        scale = found["STN"].scale
        fine = numpy.union1d(grid, lam + scale * numpy.linspace(-5, 5, 101))
        density = numpy.exp(-(((fine - lam) / scale) ** 2) / 2)
        cell.fill_between(fine, bottom, bottom + 0.85 * (low - bottom) * density, color="0.75", linewidth=0)
        cell.plot(lam, numpy.interp(lam, grid, exact), marker="o", markersize=4, color="0.0", zorder=5)
        cell.set(xlim=(grid[0], grid[-1]), ylim=(bottom, high), xlabel="λ, log of the penalty")
    cells[0].set_ylabel("weight along one direction")
    keys = [key("exact best response w*(λ)", **EXACT), *_keys()]
    legend(figure, None, [*keys, key("density p(λ | λ₀)", color="0.75", linewidth=5)])
    return figure


@styled
def errors(panels: Panels) -> Figure:
    """Errors of the responses' Jacobians by weight steps, and the one to which each tends as a thin line."""
    figure, cells = _row(panels, height=1.8)
    for cell, found in zip(cells, panels.values(), strict=True):
        for name, learned in found.items():
            cell.plot([*learned.errors], [*learned.errors.values()], **LOOKS[name])
            if name in ("STN", "Δ-STN") and learned.optimum > 1e-3:
                cell.axhline(learned.optimum, color=LOOKS[name]["color"], linewidth=0.7)
        cell.set(xscale="log", yscale="log", xlabel="weight steps")
        _plain_ticks(cell)
    cells[0].set_ylabel("relative error of ∂ŵ/∂λ")
    legend(figure, None, _keys())
    return figure


@styled
def hypergradients(methods: Mapping[str, Sequence[tuple[int, int, float]]], optimum: float) -> Figure:
    """Angles to the exact hypergradient in degrees by cost, with the training of the weights and without it.

    methods: of each, gradient evaluations of the training, those beyond it, and the angle, one after another. optimum:
    the angle of the Δ-STN's, at its scale.
    """
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    keys = []
    whole, beyond = cells = [*figure.subplots(1, 2, sharey=True, sharex=True)]
    others_colors = iter(COLORS[2:])
    for name, marker in zip(methods, MARKERS, strict=False):
        color = LOOKS[name]["color"] if name in LOOKS else next(others_colors)
        look = {"color": color, "marker": marker, "markersize": 3}
        trained, others, angles = zip(*methods[name], strict=True)
        whole.plot(numpy.add(trained, others), angles, **look)
        beyond.plot(others, angles, **look)
        keys.append(key(name, **look))
    line = {"color": "0.4", "linestyle": DASHES[1], "linewidth": 0.8}
    for cell in cells:
        cell.axhline(optimum, **line)
        cell.set(xscale="log", yscale="log", ylim=(0.1, 180))
        _plain_ticks(cell)
    whole.set(title="from weights of 0", ylabel="angle to the exact one (°)")
    beyond.set_title("beyond training the weights")
    figure.supxlabel("gradient evaluations", fontsize=STYLE["axes.labelsize"])
    figure.legend(handles=[*keys, key("Δ-STN at its optimum", **line)], loc="outside right center")
    return figure


def _row(panels: Panels, height: float) -> tuple[Figure, list[Axes]]:
    """A page's width of panels that share their axes, titled by their scales."""
    figure = Figure(figsize=(PAGE, 0.35 + height), layout="constrained")
    cells = [*figure.subplots(1, len(panels), sharey=True)]
    for cell, (title, found) in zip(cells, panels.items(), strict=True):
        cell.set_title(f"{title}: scale {found['STN'].scale:g}")
    return figure, cells


def _plain_ticks(cell: Axes) -> None:
    """On logarithmic axes: 0.1, not a power of ten, as letters are drawn as they are."""
    for axis in (cell.xaxis, cell.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _keys() -> list:
    return [key(name, **look) for name, look in LOOKS.items()]
