"""Black-box search: the best so far against compute, the trials' values, the hyperparameters' importances."""

from collections.abc import Collection, Mapping, Sequence

import numpy
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from optuna.study import Study

from stn.figures.style import BAND, COLORS, COLUMN, DASHES, PAGE, SHADES, grow, key, legend, styled, wrapped
from stn.search.history import curve, importances, lowest
from stn.search.space import Range, Space
from stn.search.studies import current

AXES = {"steps": "weight steps", "epochs": "epochs", "seconds": "seconds of training"}
SHADED = LinearSegmentedColormap.from_list("shades", SHADES)
ENDS = 11  # points below an axis that its lower end takes
WORDS = 14  # characters of a line below an axis
MANY = 8  # axes from which on words stand upright
WORST = 1.0  # how far above the worst end a comparison reaches, in widths of what lies between the ends
FAINT = {"alpha": 0.06}
BEST = {"color": COLORS[1], "linewidth": 1.6, "zorder": 3}


@styled
def best_so_far(study: Study, kind: str = "steps") -> Figure:
    """The lowest validation loss so far against what all trials have cost."""
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    panel = figure.subplots()
    spent, best = curve(study.get_trials(deepcopy=False), kind)
    panel.plot(spent, best, drawstyle="steps-post", color=COLORS[0])
    panel.set(xlabel=AXES[kind], ylabel="lowest validation loss (nats)", xlim=(0, None))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


@styled
def lowest_losses(
    curves: Mapping[str, Sequence[tuple[numpy.ndarray, numpy.ndarray]]],
    until: float,
    axis: str,
    whole: bool = False,
    faint: Collection[str] = (),
) -> Figure:
    """The lowest validation loss so far of several methods against cost: means over seeds, and bands to the extremes.

    curves: of each method, what was spent and the lowest loss by then, for each seed; a method without any keeps its
    colour. until: where the axis ends. axis: what it is called. whole: show what they began with, too, which may take
    most of the figure. faint: methods with fainter bands, such as those of many searches, which lie on each other.
    """
    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    panel = figure.subplots()
    for (name, seeds), color, dashes in zip(curves.items(), COLORS, DASHES, strict=False):
        if not seeds:
            continue
        x = numpy.linspace(max(spent[0] for spent, _ in seeds), until, 400)
        values = numpy.array([best[numpy.searchsorted(spent, x, side="right") - 1] for spent, best in seeds])
        panel.plot(x, values.mean(axis=0), label=name, color=color, linestyle=dashes)
        panel.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=color, **BAND | (FAINT if name in faint else {})
        )
    panel.set(xlabel=axis, ylabel="lowest validation loss (nats)", xlim=(0, until))
    ends = [line.get_ydata()[-1] for line in panel.lines]
    if not whole and min(ends) < max(ends):
        panel.set_ylim(top=max(ends) + WORST * (max(ends) - min(ends)))
    figure.legend(loc="outside right center")
    return figure


@styled
def parallel_coordinates(study: Study, space: Space, words: Mapping[str, str]) -> Figure:
    """A line for each trial across an axis for each hyperparameter; the darker the lower its validation loss.

    The best trial's is thick. words: what hyperparameters are called. The ends of each range stand above and below its
    axis, where no line crosses them.
    """
    trials = sorted(
        (trial for trial in current(study.get_trials(deepcopy=False)) if trial.intermediate_values), key=lowest
    )
    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    panel = figure.subplots()
    losses = [lowest(trial) for trial in trials]
    # The scale ends at the upper quartile: the worst trials would take all of it.
    scale = Normalize(min(losses), max(numpy.quantile(losses, 0.75), min(losses) + 1e-9), clip=True)
    for trial in reversed(trials):
        heights = [_height(own, trial.params[name]) for name, own in space.items()]
        look = BEST if trial is trials[0] else {"color": SHADED(scale(lowest(trial))), "linewidth": 0.8}
        panel.plot(range(len(space)), heights, **look)
    panel.set(ylim=(0, 1), xlim=(-0.2, len(space) - 0.8), yticks=[])
    upright = len(space) >= MANY
    labels = [wrapped(words.get(name, name) + " (log)" * own.log, WORDS) for name, own in space.items()]
    panel.set_xticks(range(len(space)), labels, rotation=90 if upright else 0)
    grow(figure, 4 if upright else 0)
    panel.tick_params(axis="x", length=0, pad=ENDS)
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.grid(axis="x", color="0.7", linewidth=0.8)
    beside = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
    for place, own in enumerate(space.values()):
        panel.annotate(f"{own.low:g}", (place, 0), (0, -2), va="top", **beside)
        panel.annotate(f"{own.high:g}", (place, 1), (0, 2), va="bottom", **beside)
    shown = {"pad": 0.01, "extend": "max" if losses[-1] > scale.vmax else "neither"}
    bar = figure.colorbar(ScalarMappable(scale, SHADED), ax=panel, label="validation loss (nats)", **shown)
    bar.formatter.set_useOffset(False)
    legend(figure, None, [key("best trial", **BEST)], loc="outside upper center")
    return figure


def _height(own: Range, value: float) -> float:
    """Where a value lies on an axis from the range's lowest value to its highest, also where they are whole numbers."""
    low, high = own.place(own.low), own.place(own.high)
    return (own.place(value) - low) / (high - low) if low < high else 0.5


@styled
def importance(study: Study, words: Mapping[str, str]) -> Figure | None:
    """How much each hyperparameter decides whether a trial is among the best; None where too few trials tell."""
    found = importances(study)
    if not found:
        return None
    figure = Figure(figsize=(COLUMN, 0.5 + 0.22 * len(found)), layout="constrained")
    panel = figure.subplots()
    names = [*reversed(found)]
    panel.barh([words.get(name, name) for name in names], [found[name] for name in names], color=COLORS[0], height=0.6)
    panel.set(xlabel="importance (share)", xlim=(0, None))
    panel.grid(visible=False, axis="y")
    return figure
