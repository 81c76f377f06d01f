"""Scores of training and validation: perplexities, losses and accuracies, after each epoch."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from stn.figures.drawing import Drawing, Styles, groups, line_styles, run_keys, select, shared_style
from stn.figures.style import CONSTANT, LABEL, MANY, MARKERS, PAGE, key, legend, styled, wrapped
from stn.runs.history import Run

LOG_FACTOR = 2  # perplexities and losses that span more than this get a logarithmic axis
NARROW_FACTOR = 5  # such a span has more ticks
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
MEASURES = {"ppl": "perplexity per token", "loss": "loss (nats)", "acc": "accuracy (%)"}
UNKNOWN_LOSS = {"loss": "loss"}  # of a task whose loss may be no likelihood
REFERENCE = {"color": "0.2", "linestyle": (0, (6, 2, 1, 2)), "linewidth": 0.8}


class Reference(NamedTuple):
    """A validation score to compare with, such as a published one: a perplexity or a loss, above 0."""

    value: float
    label: str


def perplexities(runs: Sequence[Run], reference: Reference | None = None) -> Drawing:
    """Training and validation perplexity against epochs and against time; a marker shows each run's best epoch.

    reference: a horizontal line. Raises UserError where no run has an epoch's perplexities yet.
    """
    return _scores(runs, [("ppl", "epoch"), ("ppl", "time")], "perplexities", reference)


def accuracies(runs: Sequence[Run], reference: Reference | None = None) -> Drawing:
    """Training and validation loss against epochs and time, and accuracy; a marker shows each run's best epoch.

    reference: a horizontal line in the panels of losses. Raises UserError where no run has an epoch's accuracies yet.
    """
    return _scores(runs, [("loss", "epoch"), ("loss", "time"), ("acc", "epoch")], "accuracies", reference)


def losses(runs: Sequence[Run], reference: Reference | None = None) -> Drawing:
    """Training and validation loss against epochs and against time; a marker shows each run's best epoch.

    reference: a horizontal line. Raises UserError where no run has an epoch's losses yet.
    """
    return _scores(runs, [("loss", "epoch"), ("loss", "time")], "losses", reference, UNKNOWN_LOSS)


@styled
def _scores(
    runs: Sequence[Run],
    curves: Sequence[tuple[str, str]],
    what: str,
    reference: Reference | None,
    labels: Mapping[str, str] = MEASURES,
) -> Drawing:
    """Measures of training and validation, a panel each. curves: (one of the labels, "epoch" or "time")."""
    needed = needed_for(*(measure for measure, _ in curves))
    missing = partial(without_scores, needed=needed, what=what)
    drawn, skipped = select(runs, partial(has_scores, needed=needed), missing)
    styles = line_styles(runs)
    bests = best_markers(runs, styles)
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    first: dict[str, Axes] = {}  # panel of a measure, whose axis the others share
    for place, (measure, by) in enumerate(curves, 1):
        panel = figure.add_subplot(1, len(curves), place, sharey=first.get(measure))
        unit = scale_x(panel, by, drawn)
        for run in drawn:
            x = run.epoch[by].to_numpy() / unit
            panel.plot(x, run.epoch[f"train_{measure}"], color=styles[run]["color"], **CONSTANT)
            draw_validation(panel, x, run, measure, styles[run], bests[run])
        if reference and measure != "acc":
            panel.axhline(reference.value, **REFERENCE)
        if by == "time":
            panel.set_xlim(left=0)
        if measure in first:
            panel.tick_params(labelleft=False)
            continue
        first[measure] = panel
        _scale_score(panel, measure, drawn, [reference.value] if reference else [])
        panel.set_ylabel(labels[measure])
    handles = [
        key("validation", **shared_style(drawn, styles) | {"color": "0.35"}),
        key("training", color="0.35", **CONSTANT),
        best_key(bests[drawn[0]]),
        *([key(wrapped(reference.label, LABEL), **REFERENCE)] if reference else []),
    ]
    legend(figure, None, [*run_keys(drawn, runs, {run: styles[run] | bests[run] for run in drawn}), *handles])
    return Drawing(figure, skipped)


def needed_for(*measures: str) -> list[str]:
    """The columns of epoch.csv that curves of these measures need."""
    return sorted({"epoch", "time", "val_loss", *(f"{split}_{own}" for split in ("train", "val") for own in measures)})


def has_scores(run: Run, needed: Sequence[str]) -> bool:
    """Whether a run has a whole epoch, with these columns."""
    return len(run.epoch) > 0 and {*needed} <= {*run.epoch}


def draw_validation(panel: Axes, x: numpy.ndarray, run: Run, measure: str, style: Mapping, best: Mapping) -> None:
    """A run's validation curve and, above it, the marker of its best epoch."""
    place, valid = run.best(), run.epoch[f"val_{measure}"]
    panel.plot(x, valid, **style)
    panel.plot(x[place], valid.iloc[place], clip_on=False, **best)


def best_key(look: Mapping) -> Line2D:
    """The legend's entry for the markers of best epochs. look: that of one of them."""
    return key("best epoch", linestyle="none", **{**look, "color": "0.35", "marker": "o"})


def without_scores(run: Run, needed: Sequence[str], what: str) -> str | None:
    """Why a run has no such scores; None for one of another kind."""
    if run.epoch.empty:
        return run.lacks(f"{what} of a whole epoch")
    own = [name for name in needed if name.startswith("val_") and name != "val_loss"]
    if not {*own} & {*run.epoch}:
        return None
    lacking = next(name for name in needed if name not in run.epoch)
    return f"{run.path / 'epoch.csv'} has no column {lacking}: mend it, or leave that run out"


def best_markers(runs: Sequence[Run], styles: Styles) -> dict[Run, dict]:
    """The marker of each run's best epoch, one for each name: hollow and larger where the lines have markers too."""
    hollow = {"markersize": 5, "markerfacecolor": "white", "markeredgewidth": 0.8}
    named = groups(runs).values()
    look = hollow if len(named) >= MANY else {"markersize": 4}
    marked = [(run, marker) for group, marker in zip(named, cycle(MARKERS), strict=False) for run in group]
    return {run: {"color": styles[run]["color"], "marker": marker, **look} for run, marker in marked}


def scale_x(panel: Axes, by: str, runs: Sequence[Run]) -> float:
    """Set up a score's axis of epochs or of time; what its numbers are to be divided by."""
    if by == "epoch":
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        return 1.0
    seconds, words = time_unit(runs)
    panel.set_xlabel(words)
    return seconds


def time_unit(runs: Iterable[Run]) -> tuple[float, str]:
    """Seconds of the largest unit of which the longest run has three, and how the axis names it."""
    longest = max((run.epoch["time"].max() for run in runs), default=0.0)
    seconds, unit = next((unit for unit in UNITS if longest >= 3 * unit[0]), (1.0, "seconds"))
    return seconds, f"time ({unit})"


def _scale_score(panel: Axes, measure: str, runs: Sequence[Run], others: Sequence[float]) -> None:
    if measure == "acc":
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        return
    of_runs = [run.epoch[[f"train_{measure}", f"val_{measure}"]].to_numpy().ravel() for run in runs]
    values = numpy.concatenate([*of_runs, others])
    values = values[numpy.isfinite(values)]
    if not len(values) or values.min() <= 0 or values.max() < LOG_FACTOR * values.min():
        return
    panel.set_yscale("log")
    close = values.max() < NARROW_FACTOR * values.min()
    panel.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if close else (1, 2, 3, 5)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.minorticks_off()
