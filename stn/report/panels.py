"""Panels of curves, as plotly draws them: scores, schedules with their scales, learning rates."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from stn.figures.schedules import RATES, WIDE_RANGE, lines, names_shown, rate_names, rates_shown, schedule_axis
from stn.figures.scores import LOG_FACTOR, MEASURES, UNKNOWN_LOSS, time_unit
from stn.report.looks import WIDTH, Look
from stn.runs.history import Run, words_for
from stn.schedules import LEARNING_RATE

MOST_POINTS = 1000  # of a curve: more are neither seen nor quick to draw
FEW_POINTS = 30  # a curve of no more has a marker at each
FEW_TICKS = 7  # epochs, each of which has a tick
DIGITS = 6  # of a band's edges and of scales
FORMATS = {"ppl": ":,.2f", "loss": ":.4f", "acc": ":.2%"}
VALUE = ":.4~g"
BAND, WARM_UP = 0.15, "rgba(0,0,0,0.07)"

Looks = Mapping[Run, Look]


class Panel(NamedTuple):
    """title: in words. column: of the tables, where the title does not say it. data, layout: for `Plotly.newPlot`."""

    title: str
    column: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def score_panels(looks: Looks) -> list[Panel]:
    """Each measure against epochs, the first against time, too; what it is of training is a thin dotted line."""
    measures = measures_of(looks)
    panels = [_scores(looks, measure, "epoch") for measure in measures]
    return panels + [_scores(looks, measure, "time") for measure in measures[:1]]


def measures_of(runs: Iterable[Run]) -> list[str]:
    """The measures of these runs; the loss is left out where all have the perplexity, which is its exponential."""
    trained = [run for run in runs if len(run.epoch)]
    found = [measure for measure in ("ppl", "acc") if any(f"val_{measure}" in run.epoch for run in trained)]
    return found if trained and all("val_ppl" in run.epoch for run in trained) else [*found, *["loss"] * bool(trained)]


def _scores(looks: Looks, measure: str, by: str) -> Panel:
    drawn = {run: look for run, look in looks.items() if len(run.epoch) and {by, f"val_{measure}"} <= {*run.epoch}}
    unit, unit_name = time_unit(drawn) if by == "time" else (1.0, "epoch")
    data, values = [], []
    for run in drawn:
        x = run.epoch[by].to_numpy() / unit
        for split, word in (("val", ""), ("train", ", training")):
            if (name := f"{split}_{measure}") not in run.epoch:
                continue
            y = run.epoch[name].to_numpy()
            values.append(y)
            line = {} if split == "val" else {"width": 1, "dash": "dot"}
            hover = f"%{{y{FORMATS[measure]}}}"
            data.append(trace(run, looks, x, y, hover, line, word))
        data.append(_best(run, looks, x, run.epoch[f"val_{measure}"].to_numpy()))
    labels = MEASURES if any("val_ppl" in run.epoch or "val_acc" in run.epoch for run in drawn) else UNKNOWN_LOSS
    label = "accuracy" if measure == "acc" else labels[measure]
    title = f"{label} by {'epoch' if by == 'epoch' else 'time'}"
    longest = max((run.epoch[by].max() for run in drawn), default=1.0)
    layout = axes(unit_name, longest, logarithmic(values, LOG_FACTOR) if measure != "acc" else {})
    if by == "time":
        layout["hovermode"] = "closest"
    if measure == "acc":
        layout["yaxis"]["tickformat"] = ".0%"
    return Panel(title, f"val_{measure}, train_{measure}", data, layout)


def _best(run: Run, looks: Looks, x: numpy.ndarray, y: numpy.ndarray) -> dict[str, Any]:
    """A ring around the best epoch."""
    at = run.best()
    ring = {"symbol": "circle-open", "size": 13, "color": looks[run].color, "line": {"width": 2}}
    own = {"x": plain(x[at : at + 1]), "y": plain(y[at : at + 1]), "mode": "markers", "marker": ring}
    return {**own, "meta": meta(run, looks, "best"), "hoverinfo": "skip"}


def schedule_panels(looks: Looks, order: Sequence[str] = ()) -> list[Panel]:
    """Each hyperparameter that is ever on, with the band of its perturbation, and the learning rate."""
    trained = {run: look for run, look in looks.items() if len(run.epoch) or len(run.steps)}
    if not trained:
        return []
    by = schedule_axis(trained)
    drawn = {run: look for run, look in looks.items() if lines(run, by, rates=rates_shown(trained))}
    rates = rate_names([*drawn], by)
    panels = [_schedule(drawn, name, words_for(name, drawn), by) for name in names_shown([*drawn], by, order)]
    panels += [_schedule(drawn, name, RATES[name], by) for name in rates]
    by_epoch = {run: look for run, look in looks.items() if LEARNING_RATE in run.epoch and len(run.epoch)}
    return panels if rates or not by_epoch else [*panels, _schedule(by_epoch, LEARNING_RATE, "learning rate", "epoch")]


def _schedule(looks: Looks, name: str, title: str, by: str) -> Panel:
    is_rate = name in RATES
    drawn = [run for run in looks if name in lines(run, by, is_rate)]
    placed = [run for run in looks if by == "epoch" or len(run.steps) or (is_rate and len(run.clock))]
    longest = max((x[-1] for run in placed for x, _ in lines(run, by, is_rate).values()), default=1.0)
    data, values = [], []
    for run in drawn:
        x, y = lines(run, by, is_rate)[name]
        values.append(y)
        kept = rows_to_draw(len(x))
        band = None if is_rate else run.band(name, by)
        scales = None if is_rate else run.scales(name, by)
        if by == "train_step" and len({*y}) == 1:  # a run that tunes nothing has no place on this axis
            x, y, kept, band, scales = numpy.array([0.0, longest]), y[:1].repeat(2), slice(None), None, None
        line = {"shape": "hv"} if is_rate and not run.tunes_rate and by == "epoch" else {}
        hover = f"%{{y{VALUE}}}"
        own = {}
        if band is not None:
            low, high = (rounded(side[kept]) for side in band)
            hover += f" (scale %{{customdata[0]{VALUE}}}: %{{customdata[1]{VALUE}}} to %{{customdata[2]{VALUE}}})"
            own["customdata"] = [*map(list, zip(rounded(scales[kept]), low, high, strict=True))]
            data += _band(run, looks, plain(x[kept]), low, high)
        elif scales is not None:
            hover += f" (scale %{{customdata{VALUE}}})"
            own["customdata"] = rounded(scales[kept])
        data.append({**trace(run, looks, x[kept], y[kept], hover, line), **own})
    layout = axes(
        "weight step" if by == "train_step" else "epoch", longest, logarithmic(values, WIDE_RANGE) if is_rate else {}
    )
    if layout["yaxis"].get("type") != "log" and all((y >= 0).all() for y in values):
        layout["yaxis"]["rangemode"] = "tozero"
    layout["shapes"] = warm_up([*looks], looks, by) if not is_rate else []
    return Panel(title, name, data, layout)


def _band(run: Run, looks: Looks, x: list, low: list, high: list) -> list[dict[str, Any]]:
    """Two edges that cannot be seen, and what is between them."""
    edge = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": translucent(looks[run].color, BAND)}
    below, above = (meta(run, looks, role) for role in ("low", "high"))
    return [{**edge, "y": low, "meta": below}, {**edge, **fill, "y": high, "meta": above}]


def trace(
    run: Run, looks: Looks, x: numpy.ndarray, y: numpy.ndarray, hover: str, line: Mapping[str, Any], word: str = ""
) -> dict[str, Any]:
    """A run's curve. word: what follows the run's name where the pointer rests."""
    look = looks[run]
    few = len(x) <= FEW_POINTS and not word
    return {
        "x": plain(x),
        "y": plain(y),
        "name": html.escape(look.title + word),  # plotly takes names for a kind of HTML
        "mode": "lines+markers" if few else "lines",
        "line": {"color": look.color, "width": WIDTH, "dash": dashed(look.dash), **line},
        "marker": {"symbol": look.symbol, "size": 6},
        "hovertemplate": hover,
        "meta": meta(run, looks, f"curve{word}"),
    }


def warm_up(runs: Sequence[Run], looks: Looks, by: str) -> list[dict[str, Any]]:
    """The warm-up that all share as an area, or else a line at the end of each run's."""
    ends = {run: float(end) for run in runs if (end := run.warm_up(by)) is not None and end > 0}
    whole = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    if len({*ends.values()}) == 1 and len(ends) == sum(bool(run.settings.get("ranges")) for run in runs):
        end = next(iter(ends.values()))
        return [{**whole, "type": "rect", "x0": 0, "x1": end, "line": {"width": 0}, "fillcolor": WARM_UP}]
    dotted = {run: {"color": looks[run].color, "width": 1, "dash": "dot"} for run in ends}
    return [{**whole, "type": "line", "x0": end, "x1": end, "line": dotted[run]} for run, end in ends.items()]


def axes(x: str, longest: float, y: dict[str, Any]) -> dict[str, Any]:
    """The layout of a panel with this axis below, up to the longest, and that one at its side."""
    whole = {"dtick": 1} if x == "epoch" and longest <= FEW_TICKS else {}
    return {
        "xaxis": {"title": {"text": x}, "rangemode": "tozero", **whole},
        "yaxis": y,
        "hovermode": "x unified",
    }


def logarithmic(values: Sequence[numpy.ndarray], factor: float) -> dict[str, Any]:
    """A logarithmic axis with round ticks, where these are above 0 and differ by more than the factor."""
    every = numpy.concatenate([*values, []])
    every = every[numpy.isfinite(every)]
    if not len(every) or every.min() <= 0 or every.max() <= factor * every.min():
        return {}
    low, high = math.floor(math.log10(every.min())), math.ceil(math.log10(every.max()))
    steps = (1, 1.5, 2, 3, 5, 7) if every.max() < 10 * every.min() else (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def rows_to_draw(count: int) -> numpy.ndarray:
    """Which of so many rows are drawn: all, or MOST_POINTS at equal distances, the first and the last among them."""
    return numpy.unique(numpy.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))


def thinned(runs: Iterable[Run]) -> bool:
    """Whether some rows of these runs' steps are not drawn."""
    return any(len(run.steps) > MOST_POINTS or len(run.clock) > MOST_POINTS for run in runs)


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them, in full; None for what is not finite."""
    return [float(value) if math.isfinite(value) else None for value in values]


def rounded(values: Iterable[float]) -> list[float | None]:
    return [None if value is None else float(f"{value:.{DIGITS}g}") for value in plain(values)]


def dashed(dash: str) -> str:
    """Dashes as plotly has them."""
    return dash.replace(",", "px,") + "px" if dash else "solid"


def translucent(color: str, share: float) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def meta(run: Run, looks: Looks, role: str) -> dict[str, str]:
    """Whose trace this is, and what it shows: "curve", "curve, training", "best", "low" or "high".

    Runs that look alike have one key, which shows and hides them together.
    """
    return {"run": str(run.path), "key": looks[run].key, "role": role}
