"""The image classifiers' own figures: dropout rates by layer, cutout's holes; and the order of their schedules."""

from collections.abc import Sequence
from functools import partial
from itertools import cycle

import numpy
from matplotlib.ticker import MaxNLocator

from cnn import hyperparameters
from cnn.hyperparameters import TABLE
from stn.figures.drawing import Drawing, select, shared_color
from stn.figures.schedules import draw_schedules, draw_values, scale_panels, schedule_axis
from stn.figures.style import COLORS, DASHES, SHADES, STYLE, grid, grow, key, legend, styled, wrapped
from stn.runs.history import Run, labels

# The lines of the layers' dropout rates, by the layers' kind and number.
RATES = {
    "dropout": {"color": SHADES[0]},
    **{f"dropout{layer}": {"color": shade} for layer, shade in enumerate(SHADES)},
    "indropout": {"color": "black", "linestyle": DASHES[3]},
    "fcdropout0": {"color": COLORS[1], "linestyle": DASHES[1]},
    "fcdropout1": {"color": COLORS[4], "linestyle": DASHES[1]},
}
CUTOUT = {name: TABLE[name].label for name in hyperparameters.CUTOUT}
ORDER = (*RATES, "hue", "contrast", "sat", "bright", "inscale", *CUTOUT)  # whatever acts alike is side by side


def rates(run: Run, by: str = "train_step") -> list[str]:
    """The layers' dropout rates that are ever other than 0."""
    return [name for name in RATES if name in run.on(by)]


def cuts_out(run: Run, by: str = "train_step") -> bool:
    return CUTOUT.keys() <= {*run.on(by)}


@styled
def dropouts(runs: Sequence[Run]) -> Drawing:
    """The dropout rates of the layers, a panel for each run; the axis is that of `schedules`.

    Convolutional layers are solid, from dark (the first) to light; fully connected ones dashed; the input dotted.
    Raises UserError where no run has such rates, or all are 0.
    """
    by = schedule_axis(runs)
    drawn, skipped = select(runs, partial(rates, by=by), "holds no dropout rates of layers")
    figure, panels, spare = grid(len(drawn), height=1.7, sharey=True, wide=len(drawn) > 1)
    width = int(12 * figure.get_figwidth() / panels[0].get_gridspec().ncols)  # in characters, some 12 an inch
    titles = [wrapped(label, width) for label in labels(drawn)] if len(drawn) > 1 else [""]
    for panel, run, title in zip(panels, drawn, titles, strict=True):
        for name in rates(run, by):
            draw_values(panel, *run.curves(by)[name], **RATES[name])
        panel.set_title(title, fontsize=STYLE["legend.fontsize"])
    scale_panels(panels, drawn, by)
    grow(figure, max(title.count("\n") for title in titles))
    panels[0].set(ylabel="dropout rate", ylim=(0, 1.08 * max(panel.dataLim.ymax for panel in panels)))
    names = {name for run in drawn for name in rates(run, by)}
    legend(figure, spare, [key(name, **style) for name, style in RATES.items() if name in names])
    return Drawing(figure, skipped)


@styled
def cutout(runs: Sequence[Run]) -> Drawing:
    """Length and number of cutout's holes, before they are rounded down, and rounded down as steps.

    Axis and band are those of `schedules`. Raises UserError where no run cuts out.
    """
    by = schedule_axis(runs)
    drawn, skipped = select(runs, partial(cuts_out, by=by), "cuts no holes")
    figure, panels, _ = grid(len(CUTOUT), height=1.7, wide=len(drawn) > 1)
    lines, bands = draw_schedules(dict(zip(CUTOUT, panels, strict=True)), drawn, by)
    for panel, (name, label) in zip(panels, CUTOUT.items(), strict=True):
        for run, color in zip(drawn, cycle(COLORS)):
            steps = {"color": color, "drawstyle": "steps-mid", "linewidth": 0.6}
            draw_values(panel, *run.curves(by)[name], numpy.floor, **steps)
        panel.set_ylabel(label)
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_ylim(bottom=-0.04 * panel.get_ylim()[1])  # so that no hole is not hidden by the axis
    color = shared_color(drawn)
    rounding = [key("before rounding", color=color), key("rounded down", color=color, linewidth=0.6)]
    legend(figure, None, [*lines, *rounding, *bands])
    return Drawing(figure, skipped)
