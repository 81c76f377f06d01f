"""--load_schedule: replaying the hyperparameters that an earlier run recorded."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stn.errors import UserError
from stn.schedules import Replay, read_schedule
from stn.scripts.declared import Table, Values, possible_ranges
from stn.scripts.flags import BASELINE, Flag
from stn.scripts.options import find

FLAG = Flag(
    "load_schedule",
    "replay an earlier run's hyperparameters: its epoch.csv, row e during epoch e, or its table of hyperparameter "
    "steps, interpolated between weight steps; the last values hold when it runs out",
    str,
    default=None,
    metavar="FILE",
    group=BASELINE,
)


def take_schedule(values: dict[str, Any], table: Table, setting: Callable[[str], str | None]) -> list[str]:
    """Find the file that --load_schedule names, if any, and note it in `values`; what it sets, in the file's order.

    setting: the flag that was given and sets a hyperparameter too, if any. Raises UserError where there is one.
    """
    if values["load_schedule"] is None:
        return []
    path = find(values["load_schedule"], "--load_schedule")
    names = list(read_schedule(path, possible_ranges(table)))
    for name in names:
        if flag := setting(name):
            raise UserError(f"--{flag} contradicts --load_schedule, which sets {name}: give one of them")
    values |= {"load_schedule": str(path), "schedule_checksum": checksum(path)}
    return names


def replayed(values: Values, table: Table) -> dict[str, Replay]:
    """The sources that --load_schedule gives. Raises UserError where the file is not what the run was started with."""
    if values["load_schedule"] is None:
        return {}
    path = Path(values["load_schedule"])
    schedule = read_schedule(path, possible_ranges(table))
    if checksum(path) != values["schedule_checksum"]:
        raise UserError(f"{path} is not what the run was started with: restore it, or start a new run")
    return schedule


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
