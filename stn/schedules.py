"""Where a value comes from that is not tuned, a hyperparameter's or the learning rate's: a schedule known beforehand.

A schedule is a pure function of where training is, so that a run can be repeated, and resumed, from its seed alone.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy

from stn.errors import UserError

LEARNING_RATE, HYPER_LR = "lr", "hyper_lr"  # a table that has the latter, too, is of a learning rate that was tuned
# The columns of a run's tables that are no hyperparameters, besides the perturbation's scales, <name>_scale.
BOOKKEEPING = frozenset(
    {"global_step", "train_step", "epoch", "time", "loss", "ppl", "acc", "entropy", LEARNING_RATE, "mu", HYPER_LR}
    | {f"{split}_{measure}" for split in ("train", "val", "valid", "test") for measure in ("loss", "ppl", "acc")}
)
SCALE = "_scale"
_WANTED = "give a run's epoch.csv, val.csv or valid.csv"


@runtime_checkable
class Schedule(Protocol):
    """A value for each mini-batch; its str says in a few words which."""

    def at(self, step: int, epoch: int) -> float:
        """The value for weight step `step`, in pass `epoch` over the training data; both are counted from 0."""


@dataclass(frozen=True)
class Constant:
    """The same value for ever: a fixed baseline."""

    value: float

    def at(self, step: int, epoch: int) -> float:  # noqa: ARG002
        return self.value

    def __str__(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True)
class Gaussian:
    """Independent normal noise around a mean, a draw for each mini-batch, clipped to `bounds`.

    seed: numbers that tell this noise from any other.
    """

    mean: float
    std: float
    bounds: tuple[float, float]
    seed: tuple[int, ...]

    def at(self, step: int, epoch: int) -> float:  # noqa: ARG002
        noise = numpy.random.default_rng((*self.seed, step)).standard_normal()
        return _clip(self.mean + self.std * noise, self.bounds)

    def __str__(self) -> str:
        return f"{self.mean:g} with Gaussian noise of standard deviation {self.std:g} for each mini-batch"


@dataclass(frozen=True)
class Sinusoid:
    """A sine wave around a mean, clipped to `bounds`.

    period: in mini-batches. phase: how far into its period it starts, as a fraction; at 0 it leaves the mean upwards.
    """

    mean: float
    amplitude: float
    period: float
    bounds: tuple[float, float]
    phase: float = 0.0

    def at(self, step: int, epoch: int) -> float:  # noqa: ARG002
        turn = self.phase + step % self.period / self.period
        return _clip(self.mean + self.amplitude * math.sin(2 * math.pi * turn), self.bounds)

    def __str__(self) -> str:
        return f"{self.mean:g} with a sinusoid of amplitude {self.amplitude:g} and period {self.period:g} mini-batches"


@dataclass(frozen=True, eq=False)
class Replay:
    """The values that an earlier run recorded: its own again, then the last one for ever.

    by "epoch": values[i] lasts from epoch positions[i] to the next position. by "step": it belongs to the weight step
    that follows positions[i] weight steps, and is interpolated linearly between them. Before the first position the
    first value holds. positions: strictly increasing.
    """

    by: Literal["epoch", "step"]
    positions: Sequence[float]
    values: Sequence[float]
    path: Path | None = None

    def at(self, step: int, epoch: int) -> float:
        if self.by == "step":
            return float(numpy.interp(step, self.positions, self.values))
        return float(self.values[max(numpy.searchsorted(self.positions, epoch, side="right") - 1, 0)])

    def __str__(self) -> str:
        last = f"{self.by if self.by == 'epoch' else 'weight step'} {self.positions[-1]:g}"
        return f"replayed by {self.by} from {self.path}, held from {last} on"


def read_schedule(path: Path, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Replay]:
    """What a run's epoch.csv (by epoch), val.csv or valid.csv (by weight step) recorded of those in `ranges`.

    And of the learning rate, as LEARNING_RATE, if it was tuned; train.csv, too, has that. ranges: where each
    hyperparameter's values must lie, [low, high). A table's other known columns are skipped. Raises UserError that
    names the file, and the line, where it cannot be read or is not such a table.
    """
    header, lines = _read_csv(path)
    if HYPER_LR in header:
        ranges = {**ranges, LEARNING_RATE: (0.0, math.inf)}
    skipped = BOOKKEEPING | {name + SCALE for name in ranges}
    if unknown := [name for name in header if name not in ranges and name not in skipped]:
        raise UserError(
            f"{path} has a column {unknown[0]!r}, which is no hyperparameter here: remove it, or mend its name"
        )
    names = [name for name in header if name in ranges]
    position = next((name for name in ("train_step", "epoch") if name in header), None)
    if position is None or not names:
        lacking = "any hyperparameter" if position else "epoch and train_step"
        raise UserError(f"{path} has no column of {lacking}: {_WANTED}")

    columns: dict[str, list[float]] = {name: [] for name in (position, *names)}
    for line, cells in lines:
        row = dict(zip(header, cells, strict=True))
        place = _number(path, line, position, row[position], (0, math.inf))
        if columns[position] and place <= columns[position][-1]:
            if position == "epoch" or place < columns[position][-1]:
                raise UserError(
                    f"{path}, line {line}: {position} {row[position]} does not come after the line before: "
                    "restore the order of the lines"
                )
            # Several hyperparameter steps in a row: the next weight step has the last one's values.
            for column in columns.values():
                column.pop()
        columns[position].append(place)
        for name in names:
            columns[name].append(_number(path, line, name, row[name], ranges[name]))
    by = "epoch" if position == "epoch" else "step"
    return {name: Replay(by, columns[position], columns[name], path) for name in names}


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row's cells behind its line's number; at least one row, all as long as the header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {_WANTED}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {_WANTED}") from error
    if text and not text.endswith("\n"):
        raise UserError(f"{path} ends in the middle of a line: remove that line, or end it with a newline")
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}: {_WANTED}") from error
    if len(lines) < 2:
        raise UserError(f"{path} holds no row of values: let its run complete an epoch, or give another run's")
    (_, header), *rows = lines
    if len({*header}) < len(header):
        raise UserError(f"{path} names a column twice: remove one")
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells under a header of {len(header)}: mend it, or remove the line"
            )
    return header, rows


def _number(path: Path, line: int, name: str, cell: str, bounds: tuple[float, float]) -> float:
    low, high = bounds
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not low <= value < high:
        raise UserError(
            f"{path}, line {line}: {name} {cell!r} is not a number in [{low:g}, {high:g}): mend it, or remove the line"
        )
    return value


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
