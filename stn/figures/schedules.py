"""Schedules: the values of hyperparameters against weight steps, or against epochs where steps are not known."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from stn.figures.drawing import Drawing, run_keys, select, shared_color
from stn.figures.style import BAND, COLORS, COLUMN, CONSTANT, DASHES, STYLE, grid, legend, styled
from stn.runs.history import Run


@styled
def schedules(runs: Sequence[Run], order: Sequence[str] = ()) -> Drawing:
    """Each hyperparameter's value against weight steps, a panel each; constants are thin dashed lines.

    A shaded band reaches one scale of a tuned one's perturbation below and above its value. Where a value changed in a
    run without steps, all are drawn against epochs. What is off in all runs has no panel. order: the hyperparameters
    whose panels come first. Raises UserError where no run has a row yet.
    """
    by = schedule_axis(runs)
    drawn, skipped = select(runs, lambda run: run.curves(by), "holds no whole row of values yet")
    on = [name for run in drawn for name in run.on(by)]
    names = dict.fromkeys(on or [name for run in drawn for name in run.curves(by)])
    names = sorted(names, key=lambda name: order.index(name) if name in order else len(order))
    figure, panels, spare = grid(len(names))
    lines, bands = draw_schedules(dict(zip(names, panels, strict=True)), drawn, by)
    figure.align_ylabels(panels)
    legend(figure, spare, [*lines, *bands])
    return Drawing(figure, skipped)


@styled
def initial_values(runs: Sequence[Run], name: str, label: str) -> Drawing:
    """One tuned hyperparameter against weight steps, a line for each run, by its initial value.

    label: what the hyperparameter is called in the figure. Raises UserError where no run has a step of it yet.
    """
    drawn, skipped = select(runs, lambda run: run.tuned(name), f"holds no steps that tuned {name} yet")
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    panel = figure.subplots()
    drawn.sort(key=lambda run: run.settings[name])
    for run, color, dashes in zip(drawn, cycle(COLORS), cycle(DASHES)):
        start, steps = run.settings[name], run.steps["train_step"]
        # Up to the first hyperparameter step it stays where it starts.
        steps, values = [0, steps.iloc[0], *steps], [start, start, *run.steps[name]]
        panel.plot(steps, values, color=color, linestyle=dashes, label=f"{start:g}")
    panel.set(xlabel="iteration", ylabel=label, xlim=(0, None), ylim=(0, None))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    title = {"title": "initial value", "title_fontsize": STYLE["legend.fontsize"]}
    figure.legend(**title, loc="outside upper center", ncols=min(len(drawn), 5), handlelength=1.6, columnspacing=1.2)
    return Drawing(figure, skipped)


def schedule_axis(runs: Iterable[Run]) -> str:
    """The axis of some runs' schedules: "train_step", or "epoch" where a run without steps changes a value."""
    runs = list(runs)
    unknown = [run for run in runs if run.steps.empty and _changes(run, "epoch")]
    return "epoch" if unknown or all(run.steps.empty for run in runs) else "train_step"


def draw_schedules(panels: Mapping[str, Axes], runs: Sequence[Run], by: str) -> tuple[list[Artist], list[Artist]]:
    """Each hyperparameter, with the band of its perturbation, in its panel; the legend's entries of runs and of bands.

    by: what `schedule_axis` says.
    """
    styles = _line_styles(runs, by)
    for name, panel in panels.items():
        for run, color in zip(runs, cycle(COLORS)):
            if name not in run.curves(by):
                continue
            x, values = run.curves(by)[name]
            if band := run.band(name, by):
                panel.fill_between(x, *band, color=color, **BAND)
            draw_values(panel, x, values, color=color, **(CONSTANT if _constant(values) else styles[run.path]))
        panel.set_ylabel(name)
    scale_panels(panels.values(), runs, by)
    banded = any(panel.collections for panel in panels.values())
    bands = [Patch(color=shared_color(runs), label="± 1 scale of\nthe perturbation", **BAND)] if banded else []
    return run_keys(runs, styles), bands


def draw_values(
    panel: Axes, x: numpy.ndarray, values: numpy.ndarray, rounded: Callable = numpy.asarray, **style
) -> None:
    """A line, across the panel for a constant: a run that tunes nothing has no place on an axis of weight steps."""
    if _constant(values):
        panel.axhline(rounded(values[0]), **style)
    else:
        panel.plot(x, rounded(values), **style)


def scale_panels(panels: Iterable[Axes], runs: Iterable[Run], by: str) -> None:
    """Limits and ticks of panels of schedules, and the name of the axis that they share."""
    having = [run for run in runs if by == "epoch" or not run.steps.empty]  # a constant has no length
    longest = max(x[-1] for run in having for x, _ in run.curves(by).values())
    lowest = {}
    for panel in panels:
        panel.margins(y=0.08)
        panel.set_xlim(0, 1.02 * longest or 1)  # from 0, so that the warm-up shows
        low, high = panel.dataLim.intervaly
        if low >= 0:
            panel.set_ylim(0, 1.08 * high) if high else panel.set_ylim(-0.04, 1)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))
        lowest[panel.get_subplotspec().colspan.start] = panel
    for panel in lowest.values():
        panel.set_xlabel("weight step" if by == "train_step" else "epoch")


def _line_styles(runs: Iterable[Run], by: str) -> dict[Path, dict]:
    """A line style for each run. Dashes go to those that move: a lone one among constants is solid."""
    dashes = cycle(DASHES)
    return {run.path: {"linestyle": next(dashes)} if _changes(run, by) else CONSTANT for run in runs}


def _changes(run: Run, by: str) -> bool:
    return any(not _constant(values) for _, values in run.curves(by).values())


def _constant(values: numpy.ndarray) -> bool:
    return bool((values == values[0]).all())
