"""--load_schedule: replaying the hyperparameters, and a tuned learning rate, that an earlier run recorded."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from stn.errors import UserError
from stn.schedules import LEARNING_RATE, Replay, read_schedule
from stn.scripts.declared import Table, Values, possible_ranges
from stn.scripts.flags import BASELINE, Flag
from stn.scripts.options import find, named

FLAG = Flag(
    "load_schedule",
    "replay an earlier run's hyperparameters, and its learning rate if that was tuned: its epoch.csv, row e during "
    "epoch e, or its table of steps, interpolated between weight steps; the last values hold when it runs out",
    named,
    default=None,
    metavar="FILE",
    group=BASELINE,
)


def find_schedule(
    values: Values, table: Table, setting: Callable[[str], str | None], any_lr: bool = False
) -> tuple[list[str], Values]:
    """Which hyperparameters the file that --load_schedule names sets, and the values that say where and which it is.

    setting: the flag that was given and sets a hyperparameter, or LEARNING_RATE, too, if any. any_lr: replay a learning
    rate that was not tuned, too. Raises UserError where there is such a flag.
    """
    if values["load_schedule"] is None:
        return [], {}
    path = find(values["load_schedule"], "--load_schedule")
    names = list(read_schedule(path, _ranges(table, any_lr)))
    for name in names:
        if flag := setting(name):
            raise UserError(f"--{flag} contradicts --load_schedule, which sets {name}: give one of them")
    names = [name for name in names if name != LEARNING_RATE]
    return names, {"load_schedule": str(path), "schedule_checksum": checksum(path)}


def replayed(values: Values, table: Table) -> dict[str, Replay]:
    """The hyperparameters' sources that --load_schedule gives.

    Raises UserError where the file is not what the run was started with.
    """
    schedules = _schedules(values, table)
    return {name: schedule for name, schedule in schedules.items() if name != LEARNING_RATE}


def replayed_lr(values: Values, table: Table, any_lr: bool = False) -> Replay | None:
    """The learning rate that --load_schedule gives, if it does, one that was not tuned if so asked; errors as above."""
    return _schedules(values, table, any_lr).get(LEARNING_RATE)


def _schedules(values: Values, table: Table, any_lr: bool = False) -> dict[str, Replay]:
    if values["load_schedule"] is None:
        return {}
    path = Path(values["load_schedule"])
    schedule = read_schedule(path, _ranges(table, any_lr))
    if checksum(path) != values.get("schedule_checksum"):
        raise UserError(f"{path} is not what the run was started with: restore it, or start a new run")
    return schedule


def _ranges(table: Table, any_lr: bool) -> dict[str, tuple[float, float]]:
    return possible_ranges(table) | ({LEARNING_RATE: (0.0, math.inf)} if any_lr else {})


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
