"""Runs read back from their folders, as tables to draw.

A run may be under way, interrupted, or killed while it wrote a row: only whole rows count.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pandas

from stn.errors import UserError, one_line
from stn.hyperparameters import neighbourhood
from stn.runs.folder import ARGS, read_settings
from stn.schedules import SCALE

FLAGS_AND_TIME = re.compile(r"(.*)_(\d\d:\d\d:\d\d)")  # how an image classifier's folder is named


@dataclass(frozen=True, eq=False)
class Run:
    """A run's settings and tables.

    hyperparameters: the names of the columns that are hyperparameters, in order; not every table has all of them.
    epoch, steps: the whole rows of epoch.csv and of val.csv (an image classifier's valid.csv), every column a number;
    empty where there are none. words: what people call the hyperparameters, as far as that is known. name: what people
    call the run; without one, figures tell it by its path.
    """

    path: Path
    settings: dict
    hyperparameters: list[str]
    epoch: pandas.DataFrame
    steps: pandas.DataFrame
    words: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None

    def best(self) -> int:
        """Index in `epoch` of the row with the lowest validation loss."""
        return int(self.epoch["val_loss"].to_numpy().argmin())

    def curves(self, by: str) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
        """Each hyperparameter's x and values: by "train_step" from `steps`, by "epoch" from `epoch`.

        A run that has tuned nothing yet has no steps: by "train_step" it has epoch.csv's values with its epochs as x.
        """
        table, x = (self.epoch, "epoch") if by == "epoch" or self.steps.empty else (self.steps, by)
        names = [name for name in self.hyperparameters if name in table and len(table)]
        return {name: (table[x].to_numpy(), table[name].to_numpy()) for name in names}

    def on(self, by: str) -> list[str]:
        """The hyperparameters that are ever other than 0."""
        return [name for name, (_, values) in self.curves(by).items() if values.any()]

    def tuned(self, name: str) -> bool:
        """Whether there are steps that tuned this hyperparameter, and the settings say where it started."""
        known = name in self.settings.get("ranges", {}) and isinstance(self.settings.get(name), int | float)
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
            known = steps is not None and len(self.steps) and len(self.epoch)
            return numpy.interp(self.steps["time"].iloc[0], self.epoch["time"], self.epoch["epoch"]) if known else None
        return self._steps_before_tuning() if steps is None else steps

    def band(self, name: str, by: str) -> tuple[list[float], list[float]] | None:
        """One scale of a tuned hyperparameter's perturbation below and above its curve; None where it is not known.

        A language model's scale is in epoch.csv alone; between the ends of epochs it is interpolated. Raises UserError
        for a value that is not inside its range.
        """
        bounds = self.settings.get("ranges", {}).get(name)
        table = self.epoch if by == "epoch" else self.steps
        known = table if name + SCALE in table else self.epoch
        if not bounds or table.empty or known.empty or name + SCALE not in known:
            return None
        scales = numpy.interp(table["time"], known["time"], known[name + SCALE])
        try:
            return neighbourhood(table[name].tolist(), scales.tolist(), tuple(bounds))
        except UserError as error:
            cause = f"{self.path} holds a value of {name} outside of its range ({error})"
            raise UserError(f"{cause}: mend it, or leave that run out") from error

    def _steps_before_tuning(self) -> float | None:
        """Weight steps before the first round of weight and hyperparameter steps, from the first row of `steps`.

        That row may come some rounds later than the first one.
        """
        weight, hyper = self._setting("train_steps"), self._setting("valid_steps")
        if self.steps.empty or "global_step" not in self.steps or weight is None or not hyper:
            return None
        first = self.steps.iloc[0]
        rounds = math.ceil((first["global_step"] - first["train_step"]) / hyper)
        return max(0.0, first["train_step"] - rounds * weight)

    def _setting(self, name: str) -> float | None:
        """A setting that is a finite number; None where there is no such one."""
        value = self.settings.get(name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None


def read_run(path: Path | str, names: Iterable[str] | None = None, words: Mapping[str, str] | None = None) -> Run:
    """A run from its folder.

    names: which columns are hyperparameters, and words: what people call them, for a run of an older version, whose
    args.yaml does not say. Raises UserError where neither says which they are, where there is no run, or where a file
    of it is not a table of numbers.
    """
    path = Path(path).resolve()
    settings = read_settings(path)
    known = settings.get("hyperparameters")
    names = known if isinstance(known, list) and all(isinstance(name, str) for name in known) else names
    if names is None:
        cause = f"{path / ARGS} does not say which columns are hyperparameters (it is of an older version)"
        raise UserError(f"{cause}: draw it with the save_figures.py of its experiment")
    _check(path, "ranges", settings.get("ranges", {}), _is_range)
    _check(path, "labels", settings.get("labels", {}), lambda label: isinstance(label, str) and label.strip())
    words = {**(words or {}), **settings.get("labels", {})}
    epoch = _read_table(path / "epoch.csv", "epoch")
    steps = [_read_table(path / f"{name}.csv", "train_step") for name in ("val", "valid")]
    return Run(path, settings, [*names], epoch, next((table for table in steps if len(table)), steps[0]), words)


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
    flags = _differing_flags(runs)
    if _tell_apart(flags):
        return flags
    paths = [run.path.resolve().parts for run in runs]
    if len(runs) == 1:
        return ["/".join(paths[0][-2:])]
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
    # Flags hold underscores themselves; the longest that fits is taken first.
    flags = sorted({flag for run in runs for flag in run.settings}, key=len, reverse=True)
    part = re.compile("|".join([*(f"{re.escape(flag)}[^_]*" for flag in flags), "[^_]+"]))
    parts = [part.findall(name[1]) for name in named]
    common = set.intersection(*map(set, parts))
    return [", ".join(part for part in of_run if part not in common) for of_run in parts]


def _tell_apart(names: Sequence[str]) -> bool:
    return all(names) and len({*names}) == len(names)


def _check(path: Path, setting: str, mapping: object, fits: Callable[[object], object]) -> None:
    """Raise UserError for a setting in a run's args.yaml that does not map names to what fits."""
    if not isinstance(mapping, dict) or not all(isinstance(name, str) and fits(of) for name, of in mapping.items()):
        raise UserError(f"{path / ARGS} says {setting}: {one_line(repr(mapping))}: mend it, or leave that run out")


def _is_range(ends: object) -> bool:
    return isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)


def _num_common(paths: Sequence[Sequence[str]]) -> int:
    """How many first folders all paths share."""
    shared = [len({*folders}) == 1 for folders in zip(*paths, strict=False)]
    return shared.index(False) if False in shared else len(shared)


def _read_table(file: Path, position: str) -> pandas.DataFrame:
    """A table of numbers with the columns `position` and time; empty where there is no whole row."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return pandas.DataFrame()
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}): mend this, or leave that run out") from error
    # A row ends with its newline: what follows the last one was cut off.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        table = pandas.read_csv(io.BytesIO(whole), dtype=float).dropna() if whole else pandas.DataFrame()
    except ValueError as error:
        cause = f"{file} is not a table of numbers ({one_line(error)})"
        raise UserError(f"{cause}: mend it, or leave that run out") from error
    for name in (position, "time"):
        if len(table) and name not in table:
            raise UserError(f"{file} has no column {name}: mend it, or leave that run out")
    return table
