"""Every plot, from run folders alone: `python -m stn.figures RUN…` draws them all.

A run may be under way, interrupted or killed while it wrote: whole rows are drawn. Nothing here needs a display, nor
touches pyplot's global state.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from stn.errors import UserError
from stn.files import mendable, write_atomically
from stn.hyperparameters import neighbourhood
from stn.runs import read_settings
from stn.schedules import BOOKKEEPING, SCALE

ROOT = Path(__file__).resolve().parent.parent
COLUMN, PAGE = 3.3, 7.0  # widths in inches of a paper's column and of its page
# Okabe & Ito (2008): told apart with any colour vision; the line styles tell runs apart in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1)), (0, (4, 1, 1, 1)), (0, (1, 0.8)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CONSTANT = {"linestyle": (0, (2, 2)), "linewidth": 0.8}
LOG_FACTOR = 4  # perplexities that span more than this get a logarithmic axis

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters, not outlines, as journals ask
}


@dataclass(frozen=True, eq=False)
class Run:
    """What is drawn of a run.

    epoch, val: the whole rows of epoch.csv and val.csv, every column a number; empty where there are none.
    """

    path: Path
    settings: dict
    epoch: pandas.DataFrame
    val: pandas.DataFrame

    @property
    def name(self) -> str:
        """<save_dir>/<folder>, or the last two folders where the settings do not say (or say a machine's path)."""
        save_dir = Path(str(self.settings.get("save_dir") or self.path.parent.name))
        return f"{save_dir.name if save_dir.is_absolute() else save_dir}/{self.path.name}"

    def best(self) -> int:
        """Index in `epoch` of the row with the lowest validation loss."""
        return int(self.epoch["val_loss"].to_numpy().argmin())

    def curves(self, by: str) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
        """Each hyperparameter's x and values: by "train_step" from val.csv, by "epoch" from epoch.csv.

        A run that tunes nothing has no val.csv: by "train_step" it has epoch.csv's values with its epochs as x.
        """
        table, x = (self.epoch, "epoch") if by == "epoch" or self.val.empty else (self.val, by)
        names = [name for name in table.columns if name not in BOOKKEEPING and not name.endswith(SCALE)]
        return {name: (table[x].to_numpy(), table[name].to_numpy()) for name in names} if len(table) else {}

    def tuned(self, name: str) -> bool:
        """Whether there are steps that tuned this hyperparameter, and the settings say where it started."""
        known = name in self.settings.get("ranges", {}) and isinstance(self.settings.get(name), int | float)
        return known and len(self.val) > 0 and {"train_step", name} <= {*self.val.columns}

    def band(self, name: str, by: str) -> tuple[list[float], list[float]] | None:
        """One scale of a tuned hyperparameter's perturbation below and above its curve; None where it is not known.

        The scale is in epoch.csv alone; between the ends of epochs it is interpolated.
        """
        bounds = self.settings.get("ranges", {}).get(name)
        if not bounds or name + SCALE not in self.epoch or self.epoch.empty:
            return None
        table = self.epoch if by == "epoch" else self.val
        scales = numpy.interp(table["time"], self.epoch["time"], self.epoch[name + SCALE])
        return neighbourhood(table[name].tolist(), scales.tolist(), tuple(bounds))


class Drawing(NamedTuple):
    """A figure, and one line for each run that is not in it: which and why."""

    figure: Figure
    skipped: list[str]


def read_run(path: Path | str) -> Run:
    """A run from its folder. Raises UserError where there is no run or a file of it is not a table of numbers."""
    path = Path(path).resolve()
    return Run(path, read_settings(path), _read_table(path / "epoch.csv"), _read_table(path / "val.csv"))


def schedules(runs: Sequence[Run]) -> Drawing:
    """Each hyperparameter's value against weight steps, a panel each; constants are thin dashed lines.

    A shaded band reaches one scale of a tuned one's perturbation below and above its value. Where a value changed in a
    run without val.csv, all are drawn against epochs. Raises UserError where no run has a row yet.
    """
    with matplotlib.rc_context(STYLE):
        by = _schedule_axis(runs)
        curves = {run.path: run.curves(by) for run in runs}
        drawn, skipped = _split(runs, [run for run in runs if curves[run.path]], "holds no whole row of values yet")
        names = list(dict.fromkeys(name for run in drawn for name in curves[run.path]))
        # Dashes go to runs that move: a lone one among constants is solid.
        moving = [run.path for run in drawn if _changes(curves[run.path])]
        styles = {path: {"linestyle": dashes} for path, dashes in zip(moving, cycle(DASHES))}
        longest = 1.02 * max(x[-1] for run in drawn for x, _ in curves[run.path].values()) or 1
        figure, panels, spare = _grid(len(names))
        for panel, name in zip(panels, names, strict=True):
            for run, color in zip(drawn, cycle(COLORS)):
                if name in curves[run.path]:
                    if band := run.band(name, by):
                        panel.fill_between(curves[run.path][name][0], *band, color=color, alpha=0.15, linewidth=0)
                    _draw_schedule(panel, *curves[run.path][name], color, styles.get(run.path, CONSTANT))
            _finish_schedule(panel, name, longest)
        for panel in _lowest(panels):
            panel.set_xlabel("weight step" if by == "train_step" else "epoch")
        figure.align_ylabels(panels)
        handles = [
            _key(label, color=color, **styles.get(run.path, CONSTANT))
            for run, label, color in zip(drawn, labels(drawn), cycle(COLORS))
        ]
        _legend(figure, spare, handles)
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
            start, steps = run.settings[name], run.val["train_step"]
            # Up to the first hyperparameter step it stays where it starts.
            steps, values = [0, steps.iloc[0], *steps], [start, start, *run.val[name]]
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
    with matplotlib.rc_context(STYLE):
        wanted = {"epoch", "time", "train_ppl", "val_ppl", "val_loss"}
        having = [run for run in runs if len(run.epoch) and wanted <= {*run.epoch.columns}]
        drawn, skipped = _split(runs, having, "holds no perplexities of a whole epoch yet")
        seconds, unit = _time_unit(max(run.epoch["time"].max() for run in drawn))
        figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
        by_epoch, by_time = figure.subplots(1, 2, sharey=True)
        for run, color, marker in zip(drawn, cycle(COLORS), cycle(MARKERS)):
            for panel, x in ((by_epoch, run.epoch["epoch"]), (by_time, run.epoch["time"] / seconds)):
                _draw_perplexity(panel, x.to_numpy(), run, color, marker)
        _scale_perplexity(by_epoch, drawn)
        by_epoch.set(xlabel="epoch", ylabel="perplexity per token")
        by_time.set_xlim(left=0)
        by_time.set_xlabel(f"time ({unit})")
        by_epoch.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        handles = [
            _key(label, color=color, marker=marker, markersize=4)
            for label, color, marker in zip(labels(drawn), cycle(COLORS), cycle(MARKERS))
        ]
        handles += [
            _key("validation", color="0.35"),
            _key("training", color="0.35", **CONSTANT),
            _key("best epoch", color="0.35", linestyle="none", marker="o", markersize=4),
        ]
        _legend(figure, None, handles)
        return Drawing(figure, skipped)


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Write path.pdf and path.png, making the folder; the files written. Raises UserError where it cannot."""
    path = Path(path)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("pdf", "png")]
    with mendable(path.parent), matplotlib.rc_context(STYLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            write_atomically(file, lambda new, file=file: figure.savefig(new, format=file.suffix[1:]))
    return files


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: what its name has beyond the folders that all the runs' names begin or end with."""
    parts = [run.name.split("/") for run in runs]
    if len(runs) > 1:
        head = _num_common(parts)
        tail = _num_common([name[head:][::-1] for name in parts])
        parts = [name[head : len(name) - tail] for name in parts]
    short = ["/".join(name) for name in parts]
    distinct = all(short) and len({*short}) == len(short)
    return short if distinct else [str(run.path) for run in runs]


def _num_common(names: Sequence[Sequence[str]]) -> int:
    """How many first parts all names share."""
    shared = [len({*parts}) == 1 for parts in zip(*names, strict=False)]
    return shared.index(False) if False in shared else len(shared)


def _read_table(file: Path) -> pandas.DataFrame:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return pandas.DataFrame()
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}): mend this, or leave that run out") from error
    # A row ends with its newline: what follows the last one was cut off.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        return pandas.read_csv(io.BytesIO(whole), dtype=float).dropna() if whole else pandas.DataFrame()
    except ValueError as error:
        cause = " ".join(str(error).split())[:150]
        raise UserError(f"{file} is not a table of numbers ({cause}): mend it, or leave that run out") from error


def _schedule_axis(runs: Iterable[Run]) -> str:
    """Weight steps wherever they can be told; a run that never changes a value needs no axis."""
    runs = list(runs)
    unknown = [run for run in runs if run.val.empty and _changes(run.curves("epoch"))]
    return "epoch" if unknown or all(run.val.empty for run in runs) else "train_step"


def _changes(curves: dict[str, tuple[numpy.ndarray, numpy.ndarray]]) -> bool:
    return any(not _constant(values) for _, values in curves.values())


def _constant(values: numpy.ndarray) -> bool:
    return bool((values == values[0]).all())


def _split(runs: Sequence[Run], drawn: list[Run], why: str) -> tuple[list[Run], list[str]]:
    """The runs to draw, and a line for each other. Raises UserError where none is to be drawn."""
    skipped = [f"{run.path} {why}" for run in runs if run not in drawn]
    if not drawn:
        raise UserError(f"nothing to draw: {'; '.join(skipped) or 'no run is given'}: let it train first")
    return drawn, skipped


def _grid(count: int) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure of `count` panels, and the cell that is left over for the legend, if any."""
    columns = min(count, 4) if count != 4 else 2
    rows = -(-count // columns)
    width = COLUMN if columns < 3 else PAGE
    figure = Figure(figsize=(width, 0.35 + 1.35 * rows), layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for cell in cells[count:]:
        cell.set_axis_off()
    return figure, cells[:count], cells[count] if count < len(cells) else None


def _lowest(panels: Sequence[Axes]) -> list[Axes]:
    """The lowest panel of each column."""
    return list({panel.get_subplotspec().colspan.start: panel for panel in panels}.values())


def _draw_schedule(panel: Axes, x: numpy.ndarray, values: numpy.ndarray, color: str, style: dict) -> None:
    if _constant(values):
        panel.axhline(values[0], color=color, **CONSTANT)
    else:
        panel.plot(x, values, color=color, **style)


def _finish_schedule(panel: Axes, name: str, longest: float) -> None:
    panel.set_ylabel(name)
    panel.margins(y=0.08)
    panel.set_xlim(0, longest)  # from 0, so that the warm-up shows
    low, high = panel.dataLim.intervaly
    if low >= 0:
        panel.set_ylim(0, 1.08 * high) if high else panel.set_ylim(-0.04, 1)
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.yaxis.set_major_locator(MaxNLocator(4))


def _draw_perplexity(panel: Axes, x: numpy.ndarray, run: Run, color: str, marker: str) -> None:
    best = run.best()
    panel.plot(x, run.epoch["train_ppl"], color=color, **CONSTANT)
    panel.plot(x, run.epoch["val_ppl"], color=color)
    panel.plot(x[best], run.epoch["val_ppl"].iloc[best], color=color, marker=marker, markersize=4, clip_on=False)


def _scale_perplexity(panel: Axes, runs: Sequence[Run]) -> None:
    values = numpy.concatenate([run.epoch[["train_ppl", "val_ppl"]].to_numpy().ravel() for run in runs])
    values = values[numpy.isfinite(values)]
    if not len(values) or values.max() < LOG_FACTOR * values.min():
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


def _key(label: str, **style) -> Line2D:
    """A legend's entry."""
    return Line2D([], [], label=label, **style)


def _legend(figure: Figure, cell: Axes | None, handles: list[Line2D]) -> None:
    """In the cell that is left over; without one, or with labels too long for it, below the panels."""
    if cell is not None and max(len(handle.get_label()) for handle in handles) <= 22 and len(handles) <= 7:
        cell.legend(handles=handles, loc="center")
    else:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, int(figure.get_figwidth() / (0.45 + 0.06 * longest)))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


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
    for draw in (schedules, perplexities):
        try:
            figure, skipped = draw(runs)
            for line in skipped:
                _complain(f"{draw.__name__}: left out: {line}")
            for file in save(figure, args.out / draw.__name__):
                print(file)
        except UserError as error:
            status = _complain(f"{draw.__name__}: {error}")
    return status


def _find(path: str) -> Path:
    """From the caller's folder, or else from the repository's root."""
    return Path(path) if Path(path).exists() else ROOT / path


def _complain(error: object) -> int:
    print(f"figures: {error}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
