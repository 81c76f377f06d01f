"""Runs read back from their folders, as tables to draw.

A run may be under way, interrupted, or killed while it wrote a row: only whole rows count.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import pandas

from stn.errors import UserError, one_line
from stn.hyperparameters import neighbourhood
from stn.runs.folder import ARGS, read_settings
from stn.schedules import SCALE


@dataclass(frozen=True, eq=False)
class Run:
    """A run's settings and tables.

    hyperparameters: the names of the columns that are hyperparameters, in order; not every table has all of them.
    epoch, steps: the whole rows of epoch.csv and of val.csv (an image classifier's valid.csv), every column a number;
    empty where there are none.
    """

    path: Path
    settings: dict
    hyperparameters: list[str]
    epoch: pandas.DataFrame
    steps: pandas.DataFrame

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

    def band(self, name: str, by: str) -> tuple[list[float], list[float]] | None:
        """One scale of a tuned hyperparameter's perturbation below and above its curve; None where it is not known.

        A language model's scale is in epoch.csv alone; between the ends of epochs it is interpolated.
        """
        bounds = self.settings.get("ranges", {}).get(name)
        table = self.epoch if by == "epoch" else self.steps
        known = table if name + SCALE in table else self.epoch
        if not bounds or table.empty or known.empty or name + SCALE not in known:
            return None
        scales = numpy.interp(table["time"], known["time"], known[name + SCALE])
        return neighbourhood(table[name].tolist(), scales.tolist(), tuple(bounds))


def read_run(path: Path | str, names: Iterable[str] | None = None) -> Run:
    """A run from its folder.

    names: which columns are hyperparameters, for a run of an older version, whose args.yaml does not say. Raises
    UserError where neither says, where there is no run, or where a file of it is not a table of numbers.
    """
    path = Path(path).resolve()
    settings = read_settings(path)
    known = settings.get("hyperparameters")
    names = known if isinstance(known, list) else names
    if names is None:
        cause = f"{path / ARGS} does not say which columns are hyperparameters (it is of an older version)"
        raise UserError(f"{cause}: draw it with the save_figures.py of its experiment")
    ranges = settings.get("ranges", {})
    if not isinstance(ranges, dict) or not all(isinstance(ends, list) and len(ends) == 2 for ends in ranges.values()):
        raise UserError(f"{path / ARGS} says ranges: {ranges!r}: mend it, or leave that run out")
    epoch = _read_table(path / "epoch.csv", "epoch")
    steps = [_read_table(path / f"{name}.csv", "train_step") for name in ("val", "valid")]
    return Run(path, settings, [*names], epoch, next((table for table in steps if len(table)), steps[0]))


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: of the folders on its path, the fewest that tell it from the others."""
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
        if all(short) and len({*short}) == len(short):
            return short
    return [str(run.path) for run in runs]


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
