"""The figure of how a step's cost grows: a panel for each dimension, time above and memory below."""

from collections.abc import Sequence
from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator
from scaling_model import MIB, AllReduce, Curve
from scaling_sizes import DIMENSIONS, Size

from stn.figures import style

NAMES = {
    "stn": "STN",
    "elementary": "Δ-STN, elementary update",
    "response": "Δ-STN, response update",
    "delta_stn": "Δ-STN, both updates",
}
COLORS = dict(zip(NAMES, style.COLORS, strict=False))
MARKERS = dict(zip(NAMES, style.MARKERS, strict=False))
POINT = {"linestyle": "none", "markersize": 3.2}
LINE = {"linewidth": 0.9, "zorder": 1.5}


@style.styled
def draw(
    size: Size,
    dimensions: Sequence[str],
    times: Sequence[Curve],
    peaks: Sequence[Curve],
    reduce: Curve | None,
    path: Path,
) -> list[Path]:
    """Measured points and models' curves; the files written.

    size, dimensions: what was varied. times: seconds of updates. peaks: MiB of methods. reduce: seconds of all-reduces.
    """
    columns = len(dimensions) + (reduce is not None)
    rows = 2 if dimensions else 1
    figure = Figure(figsize=(min(style.PAGE, 1.6 + 1.2 * columns), 0.75 + 1.35 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.025, h_pad=0.04)
    panels = figure.subplots(rows, columns, squeeze=False)
    for row, curves, unit in zip(panels, (times, peaks), (1, 1024), strict=False):
        for panel, dimension in zip(row, dimensions, strict=False):
            draw_dimension(panel, curves, size, dimension, unit)
            if curves is times:
                log_axis(panel.yaxis, LogLocator(subs=(1, 2, 5)))
        limits = numpy.array([panel.get_ylim() for panel in row[: len(dimensions)]])
        for panel in row[: len(dimensions)]:
            panel.set_ylim(limits.min() if curves is times else 0, limits.max())
            panel.tick_params(labelleft=panel is row[0])
    handles = [key(curve.name) for curve in (*times, *peaks[1:])]
    if dimensions:
        for panel, dimension in zip(panels[1], dimensions, strict=False):
            panel.set_xlabel(DIMENSIONS[dimension].label, fontsize=7)
        panels[0, 0].set_ylabel("seconds an update")
        panels[1, 0].set_ylabel("peak memory (GiB)")
    if reduce is not None:
        handles += draw_reduce(panels[0, -1], reduce)
        if dimensions:
            panels[1, -1].set_axis_off()
    handles.append(style.key("model", color="0.4", linestyle="-", **LINE))
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return style.save(figure, path)


def key(name: str) -> Line2D:
    return style.key(NAMES[name], color=COLORS[name], marker=MARKERS[name], **POINT)


def draw_dimension(panel: Axes, curves: Sequence[Curve], size: Size, dimension: str, unit: float) -> None:
    """Each curve's points along one dimension, in this unit, and its model between them."""
    values, shapes = size.values[dimension], size.shapes(dimension)
    between = sorted({round(x) for x in numpy.geomspace(values[0], values[-1], 60)})
    for curve in curves:
        modelled = [curve.model(size.shape(dimension, value)) / unit for value in between]
        panel.plot(between, modelled, color=COLORS[curve.name], **LINE)
        measured = [curve.measured[shape] / unit for shape in shapes]
        panel.plot(values, measured, color=COLORS[curve.name], marker=MARKERS[curve.name], **POINT)
    ticks = values if len(values) < 4 else [values[0], values[len(values) // 2], values[-1]]
    log_axis(panel.xaxis, FixedLocator(ticks))


def log_axis(axis: Axis, ticks: Locator) -> None:
    """A logarithmic scale in plain numbers."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axis.set_major_locator(ticks)


def draw_reduce(panel: Axes, reduce: Curve) -> list[Line2D]:
    """Seconds of an all-reduce by its bytes, for each number of processes; the legend's entries."""
    handles = []
    for number, ranks in enumerate(sorted({point.ranks for point in reduce.measured})):
        look = {"color": style.COLORS[4 + number], "marker": style.MARKERS[4 + number], **POINT}
        points = {point.size: seconds for point, seconds in reduce.measured.items() if point.ranks == ranks}
        between = numpy.geomspace(min(points), max(points), 60)
        modelled = [1000 * reduce.model(AllReduce(ranks, x)) for x in between]
        panel.plot(between / MIB, modelled, color=look["color"], **LINE)
        panel.plot([size / MIB for size in points], [1000 * seconds for seconds in points.values()], **look)
        handles.append(style.key(f"all-reduce, {ranks} ranks", **look))
    log_axis(panel.xaxis, FixedLocator([size / MIB for size in (min(points), 2**20, max(points))]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"{x:.1g}"))
    log_axis(panel.yaxis, LogLocator())
    panel.set_xlabel("summed MiB", fontsize=7)
    panel.set_ylabel("ms an all-reduce")
    return handles
