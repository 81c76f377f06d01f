"""--load_schedule: replaying the hyperparameters that an earlier run recorded."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from stn.errors import UserError
from stn.schedules import Replay, read_schedule
from stn.scripts.declared import Table, Values, possible_ranges
from stn.scripts.flags import BASELINE, Flag
from stn.scripts.options import find, named

FLAG = Flag(
    "load_schedule",
    "replay an earlier run's hyperparameters: its epoch.csv, row e during epoch e, or its table of hyperparameter "
    "steps, interpolated between weight steps; the last values hold when it runs out",
    named,
    default=None,
    metavar="FILE",
    group=BASELINE,
)


def find_schedule(values: Values, table: Table, setting: Callable[[str], str | None]) -> tuple[list[str], Values]:
    """What the file that --load_schedule names sets, in its order, and the values that say where and which it is.

    setting: the flag that was given and sets a hyperparameter too, if any. Raises UserError where there is one.
    """
    if values["load_schedule"] is None:
        return [], {}
    path = find(values["load_schedule"], "--load_schedule")
    names = list(read_schedule(path, possible_ranges(table)))
    for name in names:
        if flag := setting(name):
            raise UserError(f"--{flag} contradicts --load_schedule, which sets {name}: give one of them")
    return names, {"load_schedule": str(path), "schedule_checksum": checksum(path)}


def replayed(values: Values, table: Table) -> dict[str, Replay]:
    """The sources that --load_schedule gives. Raises UserError where the file is not what the run was started with."""
    if values["load_schedule"] is None:
        return {}
    path = Path(values["load_schedule"])
    schedule = read_schedule(path, possible_ranges(table))
    if checksum(path) != values.get("schedule_checksum"):
        raise UserError(f"{path} is not what the run was started with: restore it, or start a new run")
    return schedule


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
