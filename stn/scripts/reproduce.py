"""The commands that make a run again: with its settings, and with its schedule replayed."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stn.errors import UserError
from stn.report.entries import Command
from stn.runs.folder import SCHEDULE
from stn.runs.history import Run
from stn.scripts.diagnose import script_of
from stn.scripts.flags import TUNED_RATE, Flag
from stn.scripts.options import ROOT
from stn.scripts.script import Script

BASELINE = "train_basic.py"
SCHEDULED = "load_schedule"


def commands(run: Run) -> list[Command]:
    """What makes the run again, and what replays its schedule, as far as its script is here and epochs have ended."""
    revision = revision_of(run.settings)
    try:
        script = script_of(run.path, run.settings)
    except (UserError, ImportError):
        return [*revision, *without_script(run)]
    values = {**run.settings}
    if values.get(SCHEDULED) and (run.path / SCHEDULE).is_file():
        values[SCHEDULED] = str(below_root(run.path / SCHEDULE))
    config = line(script.path, ["--config", str(below_root(run.path))])
    told = [
        Command("Reproduce it, with the settings in its folder:", config),
        Command("The same without its folder, every setting a flag:", line(script.path, words(script, values))),
    ]
    return [*revision, *told, *replay(script, run)]


def without_script(run: Run) -> list[Command]:
    """Where the script is not here, or the run is of code of the user's own."""
    name = str(run.settings.get("script", "a script that its settings do not name"))
    schedule = f"; its schedule is {below_root(run.path / 'epoch.csv')}" if len(run.epoch) else ""
    return [Command(f"It was started by {name}, with the settings below{schedule}.", "")]


def revision_of(settings: Mapping[str, Any]) -> list[Command]:
    """How to have the source that the run was trained with, where that is known."""
    versions = settings.get("versions")
    revision = versions.get("revision") if isinstance(versions, dict) else None
    if not isinstance(revision, str):
        return []
    clean = revision.removesuffix("-dirty")
    changed = " (files of it had been changed)" if clean != revision else ""
    return [Command(f"The source it was trained with{changed}:", line("git", ["checkout", clean], python=False))]


def replay(script: Script, run: Run) -> list[Command]:
    """The baseline, alike but for what tunes, at the values that the run recorded."""
    if not len(run.epoch):
        return [Command("Its schedule can be replayed once an epoch has ended.", "")]
    try:
        baseline = script if SCHEDULED in script.flags else script_of(run.path, {"script": sibling(script)})
    except (UserError, ImportError):
        return []
    shared = {flag.name for flag in baseline.setting_flags if flag.name in run.settings}
    if run.tunes_rate:
        of_rate = {flag.name for flag in baseline.setting_flags if flag.group == TUNED_RATE}
        shared -= {*of_rate, *getattr(baseline.settings, "RATE_FLAGS", ())}
    values = {name: run.settings[name] for name in shared}
    values[SCHEDULED] = str(below_root(run.path / "epoch.csv"))
    return [Command("Replay its schedule:", line(baseline.path, words(baseline, values)))]


def sibling(script: Script) -> str:
    return f"{script.settings.family}/{BASELINE}"


def words(script: Script, values: Mapping[str, Any]) -> list[str]:
    """The flags that give a script these values, but for where the run lies: all that are not so without them."""
    defaults = script.defaults()
    own = {name: values[name] for name in script.flags if name in values and name not in script.settings.PLACES}
    given = {name: value for name, value in own.items() if not same(value, defaults[name])}
    decided = {**defaults, **script.implied({**defaults, **given}), **given}
    given |= {name: value for name, value in own.items() if not same(value, decided[name])}
    return [word for name in own if name in given for word in spelled(script, script.flags[name], given[name])]


def spelled(script: Script, flag: Flag, value: Any) -> list[str]:
    """A flag with its value, as words of a command line; none for what no word says."""
    switches = [switch for switch, (own, _) in flag.switches.items() if own == value]
    if flag.check is None:
        return [script.spelled(name) for name in ([flag.name] if value is True else switches)]
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [script.spelled(flag.name), *map(str, value)]
    return [f"{script.spelled(flag.name)}={value}"]


def same(value: Any, default: Any) -> bool:
    """Whether a setting is the flag's default; args.yaml has lists for tuples."""
    return list(value) == list(default) if isinstance(value, list) and isinstance(default, tuple) else value == default


def line(program: str, arguments: Iterable[str], python: bool = True) -> str:
    return shlex.join([*(["python"] if python else []), program, *arguments])


def below_root(path: Path) -> Path:
    """From the repository's root, where the path lies below it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
