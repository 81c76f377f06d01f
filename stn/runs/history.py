"""Runs read back from their folders, as tables to draw or to list.

A run may be under way, interrupted, or killed while it wrote a row: only whole rows count. Whatever else is not as this
version writes it is an error, and never drawn or listed as something else.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pandas

from stn.errors import UserError, one_line
from stn.files import cause
from stn.hyperparameters import neighbourhood
from stn.runs.checkpoints import NEW_RUN
from stn.runs.folder import ARGS, read_settings, read_status
from stn.schedules import HYPER_LR, LEARNING_RATE, SCALE

AXES = ("epoch", "time", "global_step", "train_step")  # columns that hold numbers of 0 or more
DISCOUNT = "mu"  # of a tuned learning rate's hypergradients
LARGEST = 1e30  # what is drawn: beyond it the arithmetic of a figure, some of it in float32, overflows
LEAVE_OUT = "leave that run out"
UNSET = ("best_epoch", "best_time", "time")  # of result.csv: a run without an epoch has no best one
FLAGS_AND_TIME = re.compile(r"(.*)_(\d\d:\d\d:\d\d)")  # how an image classifier's folder is named


@dataclass(frozen=True, eq=False)
class Run:
    """A run's settings and tables.

    hyperparameters: the names of the columns that are hyperparameters, in order; not every table has all of them.
    epoch, steps: the whole rows of epoch.csv and of val.csv (an image classifier's valid.csv), every column a number,
    NaN for a score that is infinite or beyond LARGEST; empty where there are none. words: what people call the
    hyperparameters, as far as that is known. name: what people call the run; without one, figures tell it by its path.
    finished: it trains no more. train: the rows of an image classifier's train.csv.
    """

    path: Path
    settings: dict
    hyperparameters: list[str]
    epoch: pandas.DataFrame
    steps: pandas.DataFrame
    words: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    finished: bool = False
    train: pandas.DataFrame = field(default_factory=pandas.DataFrame)

    def best(self) -> int:
        """Index in `epoch` of the row with the lowest validation loss; 0 where none is finite."""
        return int(self.epoch["val_loss"].fillna(math.inf).to_numpy().argmin())

    def lacks(self, what: str) -> str:
        """One line that names the run: it holds no such rows, and what to do."""
        remedy = "though it is finished: leave it out" if self.finished else "yet: let it train on"
        return f"{self.path} holds no {what} {remedy}"

    def curves(self, by: str) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
        """Each hyperparameter's x and values: by "train_step" from `steps`, by "epoch" from `epoch`.

        A run that has tuned nothing yet has no steps: by "train_step" it has epoch.csv's values with its epochs as x.
        """
        table, x = (self.epoch, "epoch") if by == "epoch" or self.steps.empty else (self.steps, by)
        names = [name for name in self.hyperparameters if name in table and len(table)]
        return {name: (table[x].to_numpy(), table[name].to_numpy()) for name in names}

    @property
    def tunes_rate(self) -> bool:
        """Whether it tunes its learning rate, or replays one that was tuned."""
        return any(HYPER_LR in table for table in (self.epoch, self.steps, self.train))

    @property
    def clock(self) -> pandas.DataFrame:
        """The table that says which weight steps were taken when; empty where there is none."""
        return self.steps if self.train.empty else self.train

    def rates(self, by: str) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
        """The learning rate, and of one that is tuned its discount if it has one, like `curves`.

        One that is not tuned is in epoch.csv alone. By "train_step" the epochs' ends are found by their time.
        """
        if by == "train_step" and LEARNING_RATE in self.clock:
            table, x = self.clock, self.clock["train_step"].to_numpy()
        elif self.epoch.empty:
            return {}
        elif by == "epoch" or self.clock.empty:
            table, x = self.epoch, self.epoch["epoch"].to_numpy()
        else:
            times, steps = ([0, *self.clock[name]] for name in ("time", "train_step"))
            ends = numpy.interp(self.epoch["time"], times, steps)
            table, x = self.epoch.iloc[[0, *range(len(ends))]], numpy.array([0, *ends])  # from the first step on
        return {name: (x, table[name].to_numpy()) for name in (LEARNING_RATE, DISCOUNT) if name in table}

    def on(self, by: str) -> list[str]:
        """The hyperparameters that are ever other than 0."""
        return [name for name, (_, values) in self.curves(by).items() if values.any()]

    def tuned(self, name: str) -> bool:
        """Whether there are steps that tuned this hyperparameter, and the settings say where it started."""
        known = name in self.settings.get("ranges", {}) and self._setting(name) is not None
        return known and len(self.steps) > 0 and {"train_step", name} <= {*self.steps.columns}

    def warm_up(self, by: str) -> float | None:
        """Where on the axis of `curves` the warm-up ended and the tuning started; 0 where that was at its left end.

        None for a run that tunes nothing, or that does not say. by: "train_step" or "epoch", whose row 0 is at the end
        of the first epoch.
        """
        steps, epochs = self._setting("warmup_steps"), self._setting("warmup_epochs")
        if not self.settings.get("ranges"):
            return None
        if by == "epoch" and epochs is not None:
            return max(0.0, epochs - 1.0)
        if by == "epoch":
            first = self._first_tuning()
            known = steps is not None and first is not None and len(self.epoch)
            return numpy.interp(first["time"], self.epoch["time"], self.epoch["epoch"]) if known else None
        return self._steps_before_tuning() if steps is None else steps

    def scales(self, name: str, by: str) -> numpy.ndarray | None:
        """The scale of a tuned hyperparameter's perturbation at each point of its curve; None where it is not known.

        A language model's is in epoch.csv alone; between the ends of epochs it is interpolated.
        """
        table = self.epoch if by == "epoch" else self.steps
        known = table if name + SCALE in table else self.epoch
        if name not in self.settings.get("ranges", {}) or table.empty or known.empty or name + SCALE not in known:
            return None
        return numpy.interp(table["time"], known["time"], known[name + SCALE])

    def band(self, name: str, by: str) -> list[numpy.ndarray] | None:
        """One scale of a tuned hyperparameter's perturbation below and above its curve; None where it is not known.

        NaN where that is beyond LARGEST. Raises UserError for a value that is not inside its range.
        """
        if name in self.settings.get("own_transforms", ()) or (scales := self.scales(name, by)) is None:
            return None
        values, (low, high) = (self.epoch if by == "epoch" else self.steps)[name], self.settings["ranges"][name]
        for value in values[~values.between(low, high, inclusive="neither")]:
            cause = f"{self.path} holds a {name} of {value:g}, not inside its range ({low:g}, {high:g})"
            raise UserError(f"{cause}: mend it, or {LEAVE_OUT}")
        sides = map(numpy.array, neighbourhood(values.tolist(), scales.tolist(), (low, high)))
        return [numpy.where(abs(side) <= LARGEST, side, math.nan) for side in sides]

    def _steps_before_tuning(self) -> float | None:
        """Weight steps before the first round of weight and hyperparameter steps, from the first row of `steps`.

        That row may come some rounds later than the first one.
        """
        weight, hyper = self._setting("train_steps"), self._setting("valid_steps")
        first = self._first_tuning()
        if first is None or "global_step" not in first or weight is None or not hyper:
            return None
        rounds = math.ceil((first["global_step"] - first["train_step"]) / hyper)
        return max(0.0, first["train_step"] - rounds * weight)

    def _first_tuning(self) -> pandas.Series | None:
        """The first row of `steps` that is of a hyperparameter step; those of a tuned learning rate may come before."""
        steps = self.steps
        if "global_step" in steps:
            steps = steps[steps["global_step"] > steps["train_step"]]
        return None if steps.empty else steps.iloc[0]

    def _setting(self, name: str) -> float | None:
        """A setting that is a number of a size that can be drawn; None where there is no such one."""
        value = self.settings.get(name)
        return value if _is_small(value) else None


def read_run(path: Path | str, names: Iterable[str] | None = None, words: Mapping[str, str] | None = None) -> Run:
    """A run from its folder.

    names: which columns are hyperparameters, and words: what people call them, for a run of an older version, whose
    args.yaml does not say. Raises UserError where neither says which they are, where there is no run, or where a file
    of it is not a table of numbers.
    """
    path = Path(path).resolve()
    with only_reading(LEAVE_OUT):
        settings = read_settings(path)
    known = settings.get("hyperparameters")
    names = known if isinstance(known, list) and all(isinstance(name, str) for name in known) else names
    if names is None:
        cause = f"{path / ARGS} does not say which columns are hyperparameters (it is of an older version)"
        raise UserError(f"{cause}: draw it with the save_figures.py of its experiment")
    names = [*names]
    _check(path, "ranges", settings.get("ranges", {}), _is_range)
    _check(path, "labels", settings.get("labels", {}), lambda label: isinstance(label, str) and label.strip())
    words = {**(words or {}), **settings.get("labels", {})}
    finished = read_status(path) == "finished"
    epoch = _drawable(path / "epoch.csv", read_epochs(path, finished, LEAVE_OUT), "epoch", names)
    *steps, train = (_read_steps(path / f"{name}.csv", finished, names) for name in ("val", "valid", "train"))
    steps = next((table for table in steps if len(table)), steps[0])
    return Run(path, settings, names, epoch, steps, words, finished=finished, train=train)


def read_epochs(path: Path, finished: bool, remedy: str) -> pandas.DataFrame:
    """A run's epoch.csv, as `read_table` reads it; empty where no epoch has ended.

    Raises UserError where a run that is finished has none, too.
    """
    table = read_table(path / "epoch.csv", not finished, remedy)
    if finished and (table is None or table.empty):
        raise UserError(f"{path / 'epoch.csv'} has no rows, though the run is finished: restore it, or {remedy}")
    return pandas.DataFrame() if table is None else table


def read_table(file: Path, growing: bool, remedy: str, may_be_empty: Collection[str] = ()) -> pandas.DataFrame | None:
    """A table of a run, every column as numbers, NaN and infinity among them; None where it is not there.

    growing: what follows the last newline was cut off, or is being written, and does not count. may_be_empty: columns
    whose cells may be empty, which are NaN then. Raises UserError, which ends with the remedy, where the file cannot be
    read, a row is of another width than the header or holds what is no number, or one of AXES is not 0 or more.
    """
    text = _read_text(file, growing, remedy)
    if text is None:
        return None
    try:
        header, *rows = list(csv.reader(text.splitlines(), strict=True)) or [[]]
        if len({*header}) < len(header):
            raise ValueError("two columns have one name")
        for line, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise ValueError(f"line {line} has {len(row)} cells, the header {len(header)}")
            if any(not cell and name not in may_be_empty for name, cell in zip(header, row, strict=True)):
                raise ValueError(f"line {line} has an empty cell")
        cells = [[float(cell or "nan") for cell in row] for row in rows]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is not a table of numbers ({one_line(error)}): mend it, or {remedy}") from error
    table = pandas.DataFrame(cells, columns=header, dtype=float)
    for name in set(AXES) & set(header):
        for value in table[name][~table[name].between(0, LARGEST)]:
            if not (name in may_be_empty and math.isnan(value)):
                raise UserError(f"{file} holds {value:g} as {name}: mend it, or {remedy}")
    return table


def read_result(path: Path, growing: bool, remedy: str) -> dict[str, float]:
    """The row of a run's result.csv, empty without one.

    growing: the file may be under way. Raises UserError where it cannot be read, or is there and has not just one row.
    """
    file = path / "result.csv"
    table = read_table(file, growing, remedy, UNSET)
    if table is None or (growing and table.empty):
        return {}
    if len(table) != 1:
        raise UserError(f"{file} has not just one row of results: restore it, or {remedy}")
    return table.iloc[0].to_dict()


def require(file: Path, table: pandas.DataFrame | Mapping[str, float], names: Iterable[str], remedy: str) -> None:
    """Raise UserError where a table that has rows, or a row, lacks a column."""
    for name in names:
        if len(table) and name not in table:
            raise UserError(f"{file} has no column {name}: mend it, or {remedy}")


@contextmanager
def only_reading(remedy: str) -> Iterator[None]:
    """Give what other modules say of files the remedy of those who write nothing there."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(NEW_RUN, remedy)
        if isinstance(error.__cause__, OSError):
            text = text.replace(cause(error.__cause__), f"{error.__cause__.strerror}; {remedy}")
        raise UserError(text) from error.__cause__


def labels(runs: Sequence[Run]) -> list[str]:
    """What to call each run: its name, or without one what tells it from the others.

    That is of the folders on its path the fewest; of folders named after flags and the time, the flags that differ.
    """
    found = _labels_of_paths(runs)
    return [label if run.name is None else run.name for run, label in zip(runs, found, strict=True)]


def words_for(name: str, runs: Iterable[Run]) -> str:
    """What people call a hyperparameter of these runs, as far as one of them knows; else its column's name."""
    return next((run.words[name] for run in runs if name in run.words), name)


def _labels_of_paths(runs: Sequence[Run]) -> list[str]:
    paths = [run.path.resolve().parts for run in runs]
    if len(runs) < 2:
        return ["/".join(path[-2:]) for path in paths]
    flags = _differing_flags(runs)
    if _tell_apart(flags):
        return flags
    if _num_common(paths) <= 1:  # nothing but the root
        paths = [path[-3:] for path in paths]
    head = _num_common(paths)
    tail = _num_common([path[head:][::-1] for path in paths])
    own = [path[head : len(path) - tail] for path in paths]
    for count in range(1, max(map(len, own)) + 1):
        short = ["/".join(folders[:count]) for folders in own]
        if _tell_apart(short):
            return _with_times(short, flags) if count == 1 else short
    return [str(run.path) for run in runs]


def _with_times(folders: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Folders by the flags that not all have, and by their time where that does not tell them apart."""
    if not all(map(FLAGS_AND_TIME.fullmatch, folders)):
        return [*folders]
    times = [FLAGS_AND_TIME.fullmatch(folder)[2] for folder in folders]
    short = [
        own if own and flags.count(own) == 1 else f"{own}, {time}".removeprefix(", ")
        for own, time in zip(flags, times, strict=True)
    ]
    return short if _tell_apart(short) else [*folders]


def _differing_flags(runs: Sequence[Run]) -> list[str]:
    """Of runs' folders that are all named after flags and the time the flags that not all have; else nothing."""
    named = [FLAGS_AND_TIME.fullmatch(run.path.name) for run in runs]
    if not all(named):
        return [""] * len(named)
    # Flags and values hold underscores themselves; the longest that fits is taken first.
    flags = sorted({flag for run in runs for flag in run.settings}, key=len, reverse=True)
    whole = sorted({f"{flag}{run.settings.get(flag)}" for run in runs for flag in flags}, key=len, reverse=True)
    known = [f"{re.escape(words)}(?=_|$)" for words in whole]
    part = re.compile("|".join([*known, *(f"{re.escape(flag)}[^_]*" for flag in flags), "[^_]+"]))
    parts = [part.findall(name[1]) for name in named]
    common = set.intersection(*map(set, parts))
    return [", ".join(part for part in of_run if part not in common) for of_run in parts]


def _tell_apart(names: Sequence[str]) -> bool:
    return all(names) and len({*names}) == len(names)


def _check(path: Path, setting: str, mapping: object, fits: Callable[[object], object]) -> None:
    """Raise UserError for a setting in a run's args.yaml that does not map names to what fits."""
    if not isinstance(mapping, dict) or not all(isinstance(name, str) and fits(of) for name, of in mapping.items()):
        raise UserError(f"{path / ARGS} says {setting}: {one_line(repr(mapping))}: mend it, or {LEAVE_OUT}")


def _is_range(ends: object) -> bool:
    """Whether these are two numbers, either of which may be infinite."""
    return isinstance(ends, list) and len(ends) == 2 and all(type(end) is float or _is_small(end) for end in ends)


def _is_small(value: object) -> bool:
    """Whether this is a number that a figure can do with."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _num_common(paths: Sequence[Sequence[str]]) -> int:
    """How many first folders all paths share."""
    shared = [len({*folders}) == 1 for folders in zip(*paths, strict=False)]
    return shared.index(False) if False in shared else len(shared)


def _read_steps(file: Path, finished: bool, names: Sequence[str]) -> pandas.DataFrame:
    table = read_table(file, not finished, LEAVE_OUT)
    return _drawable(file, pandas.DataFrame() if table is None else table, "train_step", names)


def _drawable(file: Path, table: pandas.DataFrame, position: str, names: Sequence[str]) -> pandas.DataFrame:
    """The table, NaN for scores that are too large to draw, as those of a run that diverged may be.

    Raises UserError where it has no axis, or a hyperparameter that is not finite, which training never writes.
    """
    require(file, table, (position, "time"), LEAVE_OUT)
    small = table.abs() <= LARGEST
    for name in table.columns.intersection([*names, *(name + SCALE for name in names)]):
        for value in table[name][~small[name]]:
            raise UserError(f"{file} holds {value:g} as {name}: mend it, or {LEAVE_OUT}")
    return table.where(small)


def _read_text(file: Path, growing: bool, remedy: str) -> str | None:
    """The whole lines of a text file; None where it is not there."""
    try:
        if not file.exists():
            return None
        if not file.is_file():  # reading a pipe would wait for whoever writes to it
            raise UserError(f"{file} is a folder or a pipe, not a table: restore the table, or {remedy}")
        content = file.read_bytes()
        # A byte order mark is what some editors leave.
        whole = content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file} ({os.strerror(error.errno)}): mend this, or {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a table of numbers ({one_line(error)}): mend it, or {remedy}") from error
    if not (growing or content.endswith(b"\n") or not content):
        raise UserError(f"{file} is cut off within a row: restore it, or {remedy}")
    return whole
