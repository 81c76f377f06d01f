"""The image classifiers' own figures: dropout rates by layer, cutout's holes; and the order of their schedules."""

from collections.abc import Sequence
from functools import partial

import numpy
from matplotlib.ticker import MaxNLocator

from cnn.hyperparameters import AFFINE, CUTOUT, DECAY, JITTER, LAYERS, TABLE
from stn.figures.drawing import Drawing, run_keys, select, shared_style, titles
from stn.figures.schedules import (
    Content,
    draw_schedules,
    draw_values,
    mark_warm_up,
    moving_styles,
    scale_panels,
    schedule_axis,
)
from stn.figures.style import COLORS, DASHES, SHADES, grid, key, legend, set_titles, styled
from stn.runs.history import Run

CONVOLUTIONAL = LAYERS["dropout"]  # their rates, in the order of the layers
RATES = ("dropout", *CONVOLUTIONAL, "indropout", "indropout2d", *LAYERS["fc_dropout"])
# The lines of the rates that are no convolutional layer's own.
OTHERS = {
    "dropout": {"color": SHADES[0]},
    "indropout": {"color": "black", "linestyle": DASHES[3]},
    "indropout2d": {"color": "black", "linestyle": DASHES[3]},  # no network has both
    "fcdropout0": {"color": COLORS[1], "linestyle": DASHES[1]},
    "fcdropout1": {"color": COLORS[4], "linestyle": DASHES[2]},
    "fcdropout2": {"color": COLORS[3], "linestyle": DASHES[5]},
}
STEPS = 0.5  # width of the line of rounded values
WORDS = {name: declared.label for name, declared in TABLE.items()}
ORDER = (*RATES, *JITTER, *AFFINE, "inscale", *CUTOUT, DECAY)  # whatever acts alike is side by side


def rates(run: Run, by: str = "train_step") -> list[str]:
    """The layers' dropout rates that are ever other than 0."""
    return [name for name in RATES if name in run.on(by)]


def cuts_out(run: Run, by: str = "train_step") -> bool:
    return {*CUTOUT} <= {*run.on(by)}


def _all_off(run: Run, names: Sequence[str], by: str, reason: str) -> str | None:
    """Why a run whose hyperparameters of these names are off is left out; None for one that has no such ones."""
    return f"{run.path} {reason}" if {*names} & {*run.curves(by)} else None


@styled
def dropouts(runs: Sequence[Run]) -> Drawing:
    """The dropout rates of the layers, a panel for each run; the axis is that of `schedules`.

    Convolutional layers are solid, from dark (the first) to light; fully connected ones dashed; the input dotted. The
    warm-up of each run is marked. Raises UserError where no run has such rates, or all are 0.
    """
    by = schedule_axis(runs)
    reason = "has no dropout rate of a layer that is ever other than 0: give others"
    drawn, skipped = select(runs, partial(rates, by=by), partial(_all_off, names=RATES, by=by, reason=reason))
    figure, panels, spare = grid(len(drawn), height=1.7, sharey=True, wide=len(drawn) > 1)
    if len(drawn) > 1:
        set_titles(figure, panels, titles(drawn, runs))
    lines = rate_lines(drawn, by)
    for panel, run in zip(panels, drawn, strict=True):
        for name in rates(run, by):
            draw_values(panel, *run.curves(by)[name], **lines[name])
    scale_panels(panels, drawn, by)
    panels[0].set(ylabel="dropout rate", ylim=(0, 1.08 * max(panel.dataLim.ymax for panel in panels)))
    warm = [mark_warm_up([panel], [run], by, {}) for panel, run in zip(panels, drawn, strict=True)]
    used = {name for run in drawn for name in rates(run, by)}
    keys = [key(WORDS[name], **style) for name, style in lines.items() if name in used]
    legend(figure, spare, [*keys, *next(filter(None, warm), [])])
    return Drawing(figure, skipped)


def rate_lines(runs: Sequence[Run], by: str) -> dict[str, dict]:
    """The line of each rate; the shades of the convolutional layers are spread over as many as the runs have."""
    layers = [name for name in CONVOLUTIONAL if any(name in run.curves(by) for run in runs)]
    last = max(len(layers) - 1, 1)
    shades = {name: SHADES[round(layer * (len(SHADES) - 1) / last)] for layer, name in enumerate(layers)}
    lines = {**OTHERS, **{name: {"color": shade} for name, shade in shades.items()}}
    return {name: lines[name] for name in RATES if name in lines}


@styled
def cutout(runs: Sequence[Run]) -> Drawing:
    """Length and number of cutout's holes, before they are rounded down, and rounded down as steps.

    Axis and band are those of `schedules`. Raises UserError where no run cuts out.
    """
    by = schedule_axis(runs)
    reason = "cuts no holes: give others"
    drawn, skipped = select(runs, partial(cuts_out, by=by), partial(_all_off, names=CUTOUT, by=by, reason=reason))
    figure, panels, _ = grid(len(CUTOUT), height=1.7, wide=len(drawn) > 1)
    contents = [Content(name, drawn, WORDS[name]) for name in CUTOUT]
    set_titles(figure, panels, [content.title for content in contents])
    styles = moving_styles(runs, by)
    marks = draw_schedules(dict(zip(panels, contents, strict=True)), by, styles)
    for panel, name in zip(panels, CUTOUT, strict=True):
        for run in drawn:
            steps = {"color": styles[run]["color"], "drawstyle": "steps-mid", "linewidth": STEPS}
            draw_values(panel, *run.curves(by)[name], numpy.floor, **steps)
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_ylim(bottom=-0.04 * panel.get_ylim()[1])  # so that no hole is not hidden by the axis
    shared = shared_style(drawn, styles)
    rounding = [key("before rounding", **shared), key("rounded down", **shared | {"linewidth": STEPS})]
    legend(figure, None, [*run_keys(drawn, runs, styles), *rounding, *marks])
    return Drawing(figure, skipped)
