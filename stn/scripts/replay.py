"""--load_schedule: replaying the hyperparameters that an earlier run recorded."""

import hashlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from stn.errors import UserError
from stn.schedules import Replay, read_schedule
from stn.scripts.options import find

Ranges = Mapping[str, tuple[float, float]]


def take_schedule(args: Namespace, ranges: Ranges, setting: Callable[[str], str | None]) -> list[str]:
    """Take the file that --load_schedule names, if any, from where it is, in place; what it sets, in the file's order.

    setting: the flag that was given and sets a hyperparameter too, if any. Raises UserError where there is one.
    """
    if args.load_schedule is None:
        return []
    path = find(args.load_schedule, "--load_schedule")
    names = list(read_schedule(path, ranges))
    for name in names:
        if flag := setting(name):
            raise UserError(f"--{flag} contradicts --load_schedule, which sets {name}: give one of them")
    args.load_schedule, args.schedule_checksum = str(path), checksum(path)
    return names


def replayed(args: Namespace, ranges: Ranges) -> dict[str, Replay]:
    """The sources that --load_schedule gives. Raises UserError where the file is not what the run was started with."""
    if args.load_schedule is None:
        return {}
    path = Path(args.load_schedule)
    schedule = read_schedule(path, ranges)
    if checksum(path) != args.schedule_checksum:
        raise UserError(f"{path} is not what the run was started with: restore it, or start a new run")
    return schedule


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_schedule_flag(add: Callable) -> None:
    """`add`: a parser's or group's add_argument."""
    add(
        "--load_schedule",
        default=None,
        metavar="FILE",
        help="replay an earlier run's hyperparameters: its epoch.csv, row e during epoch e, or its table of "
        "hyperparameter steps, interpolated between weight steps; the last values hold when it runs out",
    )
