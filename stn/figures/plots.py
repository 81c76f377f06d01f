"""Every plot, from run folders alone: `python -m stn.figures RUN…` draws them all, as far as the runs have come."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from stn.errors import UserError
from stn.figures.style import (
    BAND,
    COLORS,
    COLUMN,
    CONSTANT,
    DASHES,
    DEPTHS,
    LABEL,
    MARKERS,
    PAGE,
    STYLE,
    grid,
    grow,
    key,
    legend,
    save,
    wrapped,
)
from stn.runs.history import Run, labels, read_run

ROOT = Path(__file__).resolve().parents[2]
LOG_FACTOR = 4  # perplexities that span more than this get a logarithmic axis
# The order of an image classifier's panels: whatever acts alike is side by side.
FAMILIES = (
    *("dropout", "indropout", "fcdropout"),
    *("hue", "contrast", "sat", "bright", "inscale", "cutlength", "cutholes"),
)
CUTOUT = {"cutlength": "hole length (pixels)", "cutholes": "number of holes"}
MEASURES = {"ppl": "perplexity per token", "loss": "loss (nats)", "acc": "accuracy (%)"}


class Drawing(NamedTuple):
    """A figure, and one line for each run that is not in it: which and why."""

    figure: Figure
    skipped: list[str]


def schedules(runs: Sequence[Run]) -> Drawing:
    """Each hyperparameter's value against weight steps, a panel each; constants are thin dashed lines.

    A shaded band reaches one scale of a tuned one's perturbation below and above its value. Where a value changed in a
    run without steps, all are drawn against epochs. What is off in all runs has no panel. Raises UserError where no
    run has a row yet.
    """
    with matplotlib.rc_context(STYLE):
        by = _schedule_axis(runs)
        curves = {run.path: run.curves(by) for run in runs}
        drawn, skipped = _split(runs, [run for run in runs if curves[run.path]], "holds no whole row of values yet")
        on = _ordered(name for run in drawn for name in run.on(by))
        names = on or _ordered(name for run in drawn for name in curves[run.path])
        styles = _styles(drawn, by)
        figure, panels, spare = grid(len(names))
        for panel, name in zip(panels, names, strict=True):
            for run, color in zip(drawn, cycle(COLORS)):
                _draw_schedule(panel, run, name, by, color, styles[run.path])
            _finish_schedule(panel, name, _longest(drawn, by))
        _label_lowest(panels, by)
        figure.align_ylabels(panels)
        legend(figure, spare, [*_run_keys(drawn, styles), *_band_keys(panels, _key_color(drawn))])
        return Drawing(figure, skipped)


def dropouts(runs: Sequence[Run]) -> Drawing:
    """The dropout rates of an image classifier's layers, a panel for each run; the axis is that of `schedules`.

    Convolutional layers are solid, from dark (the first) to light; fully connected ones dashed; the input dotted.
    Raises UserError where no run has such rates, or all are 0.
    """
    with matplotlib.rc_context(STYLE):
        by = _schedule_axis(runs)
        rates = {run.path: [name for name in run.on(by) if _is_rate(name)] for run in runs}
        drawn, skipped = _split(runs, [run for run in runs if rates[run.path]], "holds no dropout rates of layers")
        names = _ordered(name for run in drawn for name in rates[run.path])
        figure, panels, spare = grid(len(drawn), height=1.7, sharey=True, wide=len(drawn) > 1)
        width = int(12 * figure.get_figwidth() / panels[0].get_gridspec().ncols)  # in characters, some 12 an inch
        titles = [wrapped(label, width) for label in labels(drawn)] if len(drawn) > 1 else [""]
        for panel, run, title in zip(panels, drawn, titles, strict=True):
            for name in rates[run.path]:
                _draw_values(panel, *run.curves(by)[name], **_layer_style(name))
            _finish_schedule(panel, "dropout rate" if panel is panels[0] else "", _longest(drawn, by))
            panel.set_title(title, fontsize=STYLE["legend.fontsize"])
        grow(figure, max(title.count("\n") for title in titles))
        panels[0].set_ylim(0, 1.08 * max(panel.dataLim.ymax for panel in panels))
        _label_lowest(panels, by)
        legend(figure, spare, [key(name, **_layer_style(name)) for name in names])
        return Drawing(figure, skipped)


def cutout(runs: Sequence[Run]) -> Drawing:
    """Length and number of cutout's holes, before they are rounded down, and rounded down as steps.

    Axis and band are those of `schedules`. Raises UserError where no run cuts out.
    """
    with matplotlib.rc_context(STYLE):
        by = _schedule_axis(runs)
        drawn, skipped = _split(runs, [run for run in runs if CUTOUT.keys() <= {*run.on(by)}], "cuts no holes")
        figure, panels, _ = grid(len(CUTOUT), height=1.7, wide=len(drawn) > 1)
        styles = _styles(drawn, by)
        for panel, (name, label) in zip(panels, CUTOUT.items(), strict=True):
            for run, color in zip(drawn, cycle(COLORS)):
                _draw_schedule(panel, run, name, by, color, styles[run.path])
                steps = {"color": color, "drawstyle": "steps-mid", "linewidth": 0.6}
                _draw_values(panel, *run.curves(by)[name], numpy.floor, **steps)
            _finish_schedule(panel, label, _longest(drawn, by))
            panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            panel.set_ylim(bottom=-0.04 * panel.get_ylim()[1])  # so that no hole is not hidden by the axis
        _label_lowest(panels, by)
        color = _key_color(drawn)
        handles = [key("before rounding", color=color), key("rounded down", color=color, linewidth=0.6)]
        legend(figure, None, [*_run_keys(drawn, styles), *handles, *_band_keys(panels, color)])
        return Drawing(figure, skipped)


def initial_values(runs: Sequence[Run], name: str, label: str) -> Drawing:
    """One tuned hyperparameter against weight steps, a line for each run, by its initial value.

    label: what the hyperparameter is called in the figure. Raises UserError where no run has a step of it yet.
    """
    with matplotlib.rc_context(STYLE):
        drawn, skipped = _split(runs, [run for run in runs if run.tuned(name)], f"holds no steps that tuned {name} yet")
        figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
        panel = figure.subplots()
        drawn.sort(key=lambda run: run.settings[name])
        for run, color, dashes in zip(drawn, cycle(COLORS), cycle(DASHES)):
            start, steps = run.settings[name], run.steps["train_step"]
            # Up to the first hyperparameter step it stays where it starts.
            steps, values = [0, steps.iloc[0], *steps], [start, start, *run.steps[name]]
            panel.plot(steps, values, color=color, linestyle=dashes, label=f"{run.settings[name]:g}")
        panel.set(xlabel="iteration", ylabel=label, ylim=(0, None))
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        figure.legend(
            title="initial value",
            title_fontsize=STYLE["legend.fontsize"],
            loc="outside upper center",
            ncols=min(len(drawn), 5),
            handlelength=1.6,
            columnspacing=1.2,
        )
        return Drawing(figure, skipped)


def perplexities(runs: Sequence[Run]) -> Drawing:
    """Training and validation perplexity against epochs and against time; a marker shows each run's best epoch.

    Raises UserError where no run has an epoch's perplexities yet.
    """
    return _scores(runs, [("ppl", "epoch"), ("ppl", "time")], "perplexities")


def accuracies(runs: Sequence[Run]) -> Drawing:
    """Loss and accuracy, of training and validation, against epochs; a marker shows each run's best epoch.

    Raises UserError where no run has an epoch's accuracies yet.
    """
    return _scores(runs, [("loss", "epoch"), ("acc", "epoch")], "accuracies")


def _schedule_axis(runs: Iterable[Run]) -> str:
    """Weight steps wherever they can be told; a run that never changes a value needs no axis."""
    runs = list(runs)
    unknown = [run for run in runs if run.steps.empty and _changes(run.curves("epoch"))]
    return "epoch" if unknown or all(run.steps.empty for run in runs) else "train_step"


def _ordered(names: Iterable[str]) -> list[str]:
    """Each name once, as the runs have them; those of FAMILIES in its order, after all others."""
    rank = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(dict.fromkeys(names), key=lambda name: rank.get(name.rstrip("0123456789"), -1))


def _styles(runs: Iterable[Run], by: str) -> dict[Path, dict]:
    """A line style for each run. Dashes go to those that move: a lone one among constants is solid."""
    dashes = cycle(DASHES)
    return {run.path: {"linestyle": next(dashes)} if _changes(run.curves(by)) else CONSTANT for run in runs}


def _longest(runs: Iterable[Run], by: str) -> float:
    """The end of the schedules' axis, a little after the longest run's last value; constants have no length."""
    having = [run for run in runs if by == "epoch" or not run.steps.empty]
    return 1.02 * max(x[-1] for run in having for x, _ in run.curves(by).values()) or 1


def _is_rate(name: str) -> bool:
    return re.fullmatch(r"(in|fc)?dropout\d*", name) is not None


def _layer_style(name: str) -> dict:
    """The line of a layer's dropout rate, by the layer's kind and number."""
    layer = int(re.search(r"\d*$", name)[0] or 0)
    if name.startswith("in"):
        return {"color": "black", "linestyle": (0, (1, 0.8))}
    if name.startswith("fc"):
        return {"color": ("#D55E00", "#E69F00")[layer % 2], "linestyle": (0, (5, 1))}
    return {"color": DEPTHS[layer % len(DEPTHS)]}


def _changes(curves: dict[str, tuple[numpy.ndarray, numpy.ndarray]]) -> bool:
    return any(not _constant(values) for _, values in curves.values())


def _constant(values: numpy.ndarray) -> bool:
    return bool((values == values[0]).all())


def _split(runs: Sequence[Run], drawn: list[Run], why: str) -> tuple[list[Run], list[str]]:
    """The runs to draw, and a line for each other. Raises UserError where none is to be drawn."""
    skipped = [f"{run.path} {why}" for run in runs if run not in drawn]
    if not drawn:
        raise UserError(f"nothing to draw: {'; '.join(skipped) or 'no run is given'}: let it train on, or give others")
    return drawn, skipped


def _label_lowest(panels: Sequence[Axes], by: str) -> None:
    """Name the axis below the lowest panel of each column."""
    for panel in {panel.get_subplotspec().colspan.start: panel for panel in panels}.values():
        panel.set_xlabel("weight step" if by == "train_step" else "epoch")


def _draw_schedule(panel: Axes, run: Run, name: str, by: str, color: str, style: dict) -> None:
    """A run's hyperparameter with the band of its perturbation, where it has them."""
    if name not in run.curves(by):
        return
    x, values = run.curves(by)[name]
    if band := run.band(name, by):
        panel.fill_between(x, *band, color=color, **BAND)
    _draw_values(panel, x, values, color=color, **(CONSTANT if _constant(values) else style))


def _draw_values(
    panel: Axes, x: numpy.ndarray, values: numpy.ndarray, rounded: Callable = numpy.asarray, **style
) -> None:
    """A line, across the panel for a constant: a run that tunes nothing has no place on an axis of weight steps."""
    if _constant(values):
        panel.axhline(rounded(values[0]), **style)
    else:
        panel.plot(x, rounded(values), **style)


def _finish_schedule(panel: Axes, name: str, longest: float) -> None:
    panel.set_ylabel(name)
    panel.margins(y=0.08)
    panel.set_xlim(0, longest)  # from 0, so that the warm-up shows
    low, high = panel.dataLim.intervaly
    if low >= 0:
        panel.set_ylim(0, 1.08 * high) if high else panel.set_ylim(-0.04, 1)
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))


def _scores(runs: Sequence[Run], curves: Sequence[tuple[str, str]], what: str) -> Drawing:
    """Measures of training and validation, a panel each. curves: (one of MEASURES, "epoch" or "time")."""
    with matplotlib.rc_context(STYLE):
        wanted = {"epoch", "time", "val_loss"}
        wanted |= {f"{split}_{measure}" for split in ("train", "val") for measure, _ in curves}
        having = [run for run in runs if len(run.epoch) and wanted <= {*run.epoch.columns}]
        drawn, skipped = _split(runs, having, f"holds no {what} of a whole epoch yet")
        same = len({measure for measure, _ in curves}) == 1
        figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=same)
        for panel, (measure, by) in zip(panels, curves, strict=True):
            unit = _scale_x(panel, by, drawn)
            for run, color, marker in zip(drawn, cycle(COLORS), cycle(MARKERS)):
                _draw_score(panel, run, measure, run.epoch[by].to_numpy() / unit, color, marker)
            if by == "time":
                panel.set_xlim(left=0)
            _scale_score(panel, measure, drawn)
            if panel is panels[0] or not same:
                panel.set_ylabel(MEASURES[measure])
        markers = {run.path: {"marker": marker, "markersize": 4} for run, marker in zip(drawn, cycle(MARKERS))}
        handles = [
            key("validation", color="0.35"),
            key("training", color="0.35", **CONSTANT),
            key("best epoch", color="0.35", linestyle="none", marker="o", markersize=4),
        ]
        legend(figure, None, [*_run_keys(drawn, markers), *handles])
        return Drawing(figure, skipped)


def _draw_score(panel: Axes, run: Run, measure: str, x: numpy.ndarray, color: str, marker: str) -> None:
    best, valid = run.best(), run.epoch[f"val_{measure}"]
    panel.plot(x, run.epoch[f"train_{measure}"], color=color, **CONSTANT)
    panel.plot(x, valid, color=color)
    panel.plot(x[best], valid.iloc[best], color=color, marker=marker, markersize=4, clip_on=False)


def _scale_x(panel: Axes, by: str, runs: Sequence[Run]) -> float:
    """Set up a score's axis of epochs or of time; what its numbers are to be divided by."""
    if by == "epoch":
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        return 1.0
    seconds, unit = _time_unit(max(run.epoch["time"].max() for run in runs))
    panel.set_xlabel(f"time ({unit})")
    return seconds


def _scale_score(panel: Axes, measure: str, runs: Sequence[Run]) -> None:
    if measure == "acc":
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    values = numpy.concatenate([run.epoch[[f"train_{measure}", f"val_{measure}"]].to_numpy().ravel() for run in runs])
    values = values[numpy.isfinite(values)]
    if measure != "ppl" or not len(values) or values.max() < LOG_FACTOR * values.min():
        return
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 3, 5, 7)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())


def _time_unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit that suits a time of `longest` seconds, and its name."""
    for seconds, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if longest >= 3 * seconds:
            return seconds, unit
    return 1.0, "seconds"


def _run_keys(runs: Sequence[Run], styles: dict[Path, dict]) -> list[Artist]:
    """An entry for each run; a lone one needs none."""
    if len(runs) == 1:
        return []
    entries = zip(runs, labels(runs), cycle(COLORS))
    return [key(wrapped(label, LABEL), color=color, **styles[run.path]) for run, label, color in entries]


def _band_keys(panels: Sequence[Axes], color: str) -> list[Artist]:
    """The entry of the bands, where a panel has one."""
    banded = any(panel.collections for panel in panels)
    return [Patch(color=color, label="± 1 scale of\nthe perturbation", **BAND)] if banded else []


def _key_color(runs: Sequence[Run]) -> str:
    """The colour of what the legend says of all runs."""
    return COLORS[0] if len(runs) == 1 else "0.35"


def main(argv: list[str] | None = None) -> int:
    """Draw every figure of the runs given; the exit status, 2 where something could not be drawn."""
    parser = argparse.ArgumentParser(prog="python -m stn.figures", description="Draw the figures of some runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", type=Path, default=Path("plots"), metavar="FOLDER", help="default: %(default)s")
    args = parser.parse_args(argv)
    runs, status = [], 0
    for path in dict.fromkeys(args.runs):
        try:
            runs.append(read_run(_find(path)))
        except UserError as error:
            status = _complain(f"left out: {error}")
    if not runs:
        return status
    for draw in _drawings(runs):
        try:
            figure, skipped = draw(runs)
            for line in skipped:
                _complain(f"{draw.__name__}: left out: {line}")
            for file in save(figure, args.out / draw.__name__):
                print(file)
        except UserError as error:
            status = _complain(f"{draw.__name__}: {error}")
    return status


def _drawings(runs: Sequence[Run]) -> list[Callable[[Sequence[Run]], Drawing]]:
    """Which figures the runs have columns for."""
    columns = {name for run in runs for name in run.epoch.columns}
    on = {name for run in runs for name in run.on(_schedule_axis(runs))}
    wanted = {
        schedules: True,
        dropouts: any(map(_is_rate, on)),
        cutout: CUTOUT.keys() <= on,
        perplexities: "val_ppl" in columns,
        accuracies: "val_acc" in columns,
    }
    return [draw for draw, drawn in wanted.items() if drawn]


def _find(path: str) -> Path:
    """From the caller's folder, or else from the repository's root."""
    return Path(path) if Path(path).exists() else ROOT / path


def _complain(error: object) -> int:
    print(f"figures: {error}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
