"""Schedules: the values of hyperparameters against weight steps, or against epochs where steps are not known."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import numpy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from stn.figures.drawing import Drawing, Styles, count, groups, line_styles, run_keys, select, shared_style
from stn.figures.style import (
    BAND,
    COLORS,
    COLUMN,
    CONSTANT,
    DASHES,
    MANY,
    STYLE,
    THIN,
    WARM_UP,
    grid,
    key,
    legend,
    set_titles,
    styled,
    wrapped,
)
from stn.runs.folder import ARGS
from stn.runs.history import DISCOUNT, Run, words_for
from stn.schedules import LEARNING_RATE

INITIAL_LABEL = 30  # characters of a line in the legend of initial values
ROW, ONE_ROW = 1.35, 2.2  # heights of panels in inches, of several rows and of one
NARROWEST = 0.01  # of a panel's width: a warm-up that is shorter cannot be seen
RATES = {LEARNING_RATE: "learning rate", DISCOUNT: "discount μ"}  # and what figures call them
WIDE_RANGE = 10  # a learning rate's largest value over its smallest, from which on its axis is logarithmic
WARM_UP_END = {"linewidth": 0.7, "linestyle": (0, (1, 1))}


class Content(NamedTuple):
    """What a panel shows: a hyperparameter, learning rate or discount, of which runs, under which title."""

    name: str
    runs: Sequence[Run]
    title: str


@styled
def schedules(runs: Sequence[Run], order: Sequence[str] = ()) -> Drawing:
    """Each hyperparameter's value against weight steps, a panel each; constants are thin dashed lines.

    A shaded band reaches one scale of a tuned one's perturbation below and above its value; from MANY runs on there are
    thin lines without bands. The warm-up is marked. Where a value changed in a run without steps, all are drawn against
    epochs. What is off in all runs has no panel. Where a run tunes its learning rate, all runs' have one, too, and a
    discount that changed has; runs of one name that start from several learning rates have a panel for each of these.
    order: the hyperparameters whose panels come first. Raises UserError where no run has a row yet.
    """
    by = schedule_axis(runs)
    drawn, skipped = select(runs, partial(lines, by=by, rates=rates_shown(runs)), partial(without_curves, by=by))
    contents = panel_contents(drawn, runs, by, order)
    figure, panels, spare = grid(len(contents), height=ROW if len(contents) > 3 else ONE_ROW)
    set_titles(figure, panels, [content.title for content in contents])
    styles = moving_styles(runs, by)
    marks = draw_schedules(dict(zip(panels, contents, strict=True)), by, styles)
    legend(figure, spare, [*run_keys(drawn, runs, styles), *marks])
    return Drawing(figure, skipped)


@styled
def initial_values(runs: Sequence[Run], name: str, label: str) -> Drawing:
    """One tuned hyperparameter against weight steps, a line for each run.

    Runs from one initial value, or of one name, share a colour and an entry of the legend, and are thinner. The warm-up
    is marked. label: what the hyperparameter is called in the figure. Raises UserError where no run has a step of it
    yet.
    """
    drawn, skipped = select(runs, lambda run: run.tuned(name), partial(without_steps, name=name))
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    panel = figure.subplots()
    named: dict[str, list[Run]] = {}
    for run in sorted(drawn, key=lambda run: run.settings[name]):
        named.setdefault(run.name or f"{run.settings[name]:g}", []).append(run)
    styles, keys = {}, []
    for (called, group), color, dashes in zip(named.items(), cycle(COLORS), cycle(DASHES), strict=False):
        style = {"color": color, "linestyle": dashes} | ({"linewidth": THIN} if len(group) > 1 else {})
        keys.append(key(wrapped(f"{called}{count(group)}", INITIAL_LABEL), **style))
        for run in group:
            styles[run] = style
            start, steps = run.settings[name], run.steps["train_step"]
            # Up to the first hyperparameter step it stays where it starts.
            steps, values = [0, steps.iloc[0], *steps], [start, start, *run.steps[name]]
            panel.plot(steps, values, label=called, **style)
    panel.set(xlabel="iteration", ylabel=label, xlim=(0, None), ylim=(0, None))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    keys += mark_warm_up([panel], drawn, "train_step", styles)
    title = None if any(run.name for run in drawn) else "initial value"
    legend(figure, None, keys, loc="outside upper center", title=title, title_fontsize=STYLE["legend.fontsize"])
    return Drawing(figure, skipped)


def panel_contents(drawn: Sequence[Run], runs: Sequence[Run], by: str, order: Sequence[str] = ()) -> list[Content]:
    """The panels of a figure of schedules: hyperparameters that are ever on, then learning rates, where they are tuned.

    runs: all that were asked for. order: the hyperparameters that come first.
    """
    contents = [Content(name, drawn, words_for(name, drawn)) for name in names_shown(drawn, by, order)]
    return contents + [content for name in rate_names(drawn, by) for content in rate_contents(name, drawn, runs)]


def names_shown(runs: Sequence[Run], by: str, order: Sequence[str] = ()) -> list[str]:
    """The hyperparameters that are ever on; all where none is, unless there are learning rates to show."""
    on = [name for run in runs for name in run.on(by)]
    names = dict.fromkeys(on or [name for run in runs for name in run.curves(by) if not rates_shown(runs)])
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def without_curves(run: Run, by: str) -> str:
    """Why a run has no curves."""
    table = run.epoch if by == "epoch" or run.steps.empty else run.steps
    if table.empty:
        return run.lacks("whole row of values")
    asked = ", ".join(run.hyperparameters) or "none at all"
    return f"{run.path} has no column of its hyperparameters ({asked}): mend its {ARGS}, or leave that run out"


def without_steps(run: Run, name: str) -> str:
    """Why a run cannot show how it tuned this hyperparameter."""
    if run.steps.empty and (run.settings.get("ranges") or run.epoch.empty) and not run.finished:
        return run.lacks(f"steps that tuned {name}")
    if name not in run.settings.get("ranges", {}):
        cause = f"did not tune {name}" if "ranges" in run.settings else "does not say what it tuned, in what range"
    elif run.steps.empty:
        cause = "holds no steps, though it is finished"
    elif name not in run.steps:
        cause = f"has no column {name} in its table of steps"
    else:
        cause = f"does not say from where it tuned {name} ({ARGS} has {run.settings.get(name)!r})"
    return f"{run.path} {cause}: leave that run out"


def schedule_axis(runs: Iterable[Run]) -> str:
    """The axis of some runs' schedules: "train_step", or "epoch" where a run without steps changes a value."""
    runs = list(runs)
    rates = rates_shown(runs)
    placed = [bool(len(run.steps) or (rates and len(run.clock))) for run in runs]
    unknown = [run for run in runs if run.steps.empty and _change(run.curves("epoch"))]
    unknown += [run for run in runs if rates and run.clock.empty and _change(run.rates("epoch"))]
    return "epoch" if unknown or not any(placed) else "train_step"


def rates_shown(runs: Iterable[Run]) -> bool:
    """Whether a figure of these runs shows their learning rates: where one tunes it."""
    return any(run.tunes_rate for run in runs)


def rate_names(runs: Sequence[Run], by: str) -> list[str]:
    """The panels of the learning rate and its discount."""
    if not rates_shown(runs):
        return []
    adapted = any(DISCOUNT in run.rates(by) and not _constant(run.rates(by)[DISCOUNT][1]) for run in runs)
    return [LEARNING_RATE, *([DISCOUNT] if adapted else [])]


def rate_contents(name: str, drawn: Sequence[Run], runs: Sequence[Run]) -> list[Content]:
    """What the panels of the learning rate or its discount show: one for all, or one for each start."""
    starts = {run: run.settings.get("lr") for run in drawn}
    named = [{starts.get(run) for run in group} for group in groups(runs).values()]
    if all(len(of_name) == 1 for of_name in named) or not all(isinstance(start, float) for start in starts.values()):
        return [Content(name, drawn, RATES[name])]
    of_start = {start: [run for run in drawn if starts[run] == start] for start in sorted({*starts.values()})}
    return [Content(name, of, f"{RATES[name]}, from {start:g}") for start, of in of_start.items()]


def lines(run: Run, by: str, rates: bool) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
    """The x and values of a run's hyperparameters, and if so asked of its learning rate and discount."""
    return {**run.curves(by), **(run.rates(by) if rates else {})}


def draw_schedules(panels: Mapping[Axes, Content], by: str, styles: Styles) -> list[Artist]:
    """Each hyperparameter, with the band of its perturbation, in its panel; what the legend says of all runs.

    by: what `schedule_axis` says. styles: those of `moving_styles`.
    """
    drawn = [*dict.fromkeys(run for content in panels.values() for run in content.runs)]
    for panel, (name, of_panel, _) in panels.items():
        for run in of_panel:
            own = lines(run, by, rates=name in RATES)
            if name not in own:
                continue
            x, values = own[name]
            if len(styles) < MANY and (band := run.band(name, by)):
                panel.fill_between(x, *band, color=styles[run]["color"], **BAND)
            held = {} if name not in RATES or run.tunes_rate else {"drawstyle": "steps-pre"}  # for an epoch
            draw_values(panel, x, values, **styles[run] | held | (CONSTANT if _constant(values) else {}))
    scale_rates([panel for panel, content in panels.items() if content.name == LEARNING_RATE])
    scale_panels(panels, drawn, by)
    banded = any(panel.collections for panel in panels)
    color = shared_style(drawn, styles)["color"]
    bands = [Patch(color=color, label="± 1 scale of\nthe perturbation", **BAND)] if banded else []
    return [*bands, *mark_warm_up(panels, drawn, by, styles)]


def draw_values(
    panel: Axes, x: numpy.ndarray, values: numpy.ndarray, rounded: Callable = numpy.asarray, **style
) -> None:
    """A line, across the panel for a constant: a run that tunes nothing has no place on an axis of weight steps."""
    if _constant(values):
        across = numpy.linspace(0, 1, 50)  # of the panel's width: points enough for markers
        height = numpy.full(len(across), rounded(values[0]))
        panel.plot(across, height, transform=panel.get_yaxis_transform(), **style)
    else:
        panel.plot(x, rounded(values), **style)


def mark_warm_up(panels: Iterable[Axes], drawn: Iterable[Run], by: str, styles: Styles) -> list[Artist]:
    """Shade the warm-up in panels whose limits are set; where runs differ in it, a line at the end of each instead.

    Returns the legend's entry for it, if there is anything to see.
    """
    panels = list(panels)
    width = panels[0].get_xlim()[1]
    ends = {run: end for run in drawn if (end := run.warm_up(by)) is not None}
    if len({*ends.values()}) == 1:
        end = next(iter(ends.values()))
        if end < NARROWEST * width:
            return []
        for panel in panels:
            panel.axvspan(0, end, **WARM_UP)
        return [Patch(**WARM_UP, label="warm-up")]
    shown = {run: end for run, end in ends.items() if NARROWEST * width <= end <= width}
    for panel in panels:
        for run, end in shown.items():
            panel.axvline(end, color=styles[run]["color"], **WARM_UP_END)
    upright = {"marker": "|", "markersize": 8, "markeredgewidth": WARM_UP_END["linewidth"], "linestyle": "none"}
    return [key("end of the warm-up", color="0.35", **upright)] if shown else []


def scale_panels(panels: Iterable[Axes], runs: Iterable[Run], by: str) -> None:
    """Limits and ticks of panels of schedules, and the name of the axis that they share."""
    runs = list(runs)
    found = [run.curves(by) for run in runs if by == "epoch" or len(run.steps)]  # a constant has no length
    found += [run.rates(by) for run in runs if rates_shown(runs) and (by == "epoch" or len(run.clock))]
    longest = max(x[-1] for curves in found for x, _ in curves.values())
    lowest = {}
    for panel in panels:
        panel.margins(y=0.08)
        panel.set_xlim(0, 1.02 * longest or 1)  # from 0, so that the warm-up shows
        if panel.get_yscale() == "linear":
            low, high = panel.dataLim.intervaly
            if low >= 0:
                panel.set_ylim(0, 1.08 * high) if high else panel.set_ylim(-0.04, 1)
            panel.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        lowest[panel.get_subplotspec().colspan.start] = panel
    for panel in lowest.values():
        panel.set_xlabel("weight step" if by == "train_step" else "epoch")


def scale_rates(panels: Sequence[Axes]) -> None:
    """One axis for the panels of learning rates, a logarithmic one where these differ widely."""
    for panel in panels[1:]:
        panel.sharey(panels[0])
    values = numpy.concatenate([line.get_ydata() for panel in panels for line in panel.lines] or [[]])
    values = values[values > 0]
    if not len(values) or values.max() <= WIDE_RANGE * values.min():
        return
    few = values.max() < WIDE_RANGE**2 * values.min()  # decades
    for panel in panels:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("e-0", "e-"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def moving_styles(runs: Sequence[Run], by: str) -> dict[Run, dict]:
    """How each run is drawn. Dashes go to the names of those that move: a lone one among constants is solid."""
    dashes, rates = cycle(DASHES), rates_shown(runs)
    styles = line_styles(runs)
    for group in groups(runs).values():
        moves = any(_change(lines(run, by, rates)) for run in group)
        line = {"linestyle": next(dashes)} if moves else CONSTANT
        styles |= {run: styles[run] | line for run in group}
    return styles


def _change(curves: Mapping[str, tuple[numpy.ndarray, numpy.ndarray]]) -> bool:
    return any(not _constant(values) for _, values in curves.values())


def _constant(values: numpy.ndarray) -> bool:
    return bool((values == values[0]).all())
