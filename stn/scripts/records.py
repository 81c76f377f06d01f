"""args.yaml as a script reads it: of a run that goes on, or of one whose settings a new one takes."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stn.errors import UserError, one_line
from stn.hyperparameters import Tuned
from stn.kernels import precision
from stn.runs.folder import ARGS, SCHEDULE, read_settings, read_yaml
from stn.runs.provenance import provenance
from stn.scripts.declared import Sources, Values
from stn.scripts.options import find
from stn.scripts.script import Script
from stn.scripts.settings import Data

# What args.yaml holds besides flags.
RECORDED = ("script", "schedule_checksum", "hyperparameters", "labels", "ranges", "warmup_steps", "versions")


def record_of(script: Script, values: Values, sources: Sources, data: Data) -> dict[str, Any]:
    """What a new run's args.yaml says."""
    return {
        "script": script.path,
        **{name: value for name, value in values.items() if name not in script.course},
        "data_checksum": data.checksum,
        "hyperparameters": list(sources),
        "labels": {name: script.table[name].label for name in sources},
        "ranges": {name: [*source.range] for name, source in sources.items() if isinstance(source, Tuned)},
        "versions": provenance(),
    }


def read_config(script: Script, given: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The settings in the file that --config names, but for where the run lies, and the checksum of its data.

    The latter is None where other data is given. Raises UserError where the file is of another script, or says what no
    flag can.
    """
    if "config" not in given:
        return {}, None
    path = find(given["config"], "--config")
    file = path / ARGS if path.is_dir() else path
    record = read_yaml(file, "give a run's folder, or the args.yaml in it")
    if record.get("script", script.path) != script.path:
        raise UserError(f"{file} is of {record['script']}, not of {script.path}: give it to that")
    if unknown := sorted(record.keys() - script.flags.keys() - {*script.settings.DERIVED, *RECORDED}):
        raise UserError(f"{file} sets {unknown[0]}, which {script.path} has no flag for: mend it")
    left = {*script.settings.PLACES, "data_checksum", "device"}
    config = {name: record[name] for name in record.keys() & {*script.flags, *script.settings.DERIVED} - left}
    for name in sorted(config.keys() & script.flags.keys()):
        if not script.flags[name].accepts(config[name]):
            raise UserError(f"{file} says {name}: {one_line(repr(config[name]))}: mend it")
    if config.get("load_schedule") and (copy := file.with_name(SCHEDULE)).exists():
        config["load_schedule"] = str(copy)
    return config, None if "data" in given else record.get("data_checksum")


def same_configuration(script: Script, record: Mapping[str, Any], other: Mapping[str, Any], with_seed: bool) -> bool:
    """Whether another run differs in nothing but what may change when it is resumed, or a seed that was drawn."""
    free = {*script.changeable, "label", "versions"} | ({"seed"} if not with_seed else set())
    return all(record.get(name) == other.get(name) for name in {*record, *other} - free)


def resumed_values(
    script: Script, path: Path, record: Mapping[str, Any], kept: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All values of a run that goes on: those in its args.yaml, but for those given that may change.

    record, kept: what args.yaml and the checkpoint say; the checkpoint counts. Raises UserError where they differ in
    what may not change, where the run is another script's, its settings are not possible, or a flag was given that may
    not change.
    """
    refuse_other_runs(script, kept)
    for name in sorted(name for name in {*record, *kept} if record.get(name) != kept.get(name)):
        found, right = (one_line(repr(settings.get(name))) for settings in (record, kept))
        change = f"{path / ARGS} was changed: it says {name}: {found}, where the run has {right}"
        if name not in script.changeable:
            raise UserError(f"{change}: put that back, or start a new run")
        warnings.warn(f"{change}, and goes on with that", stacklevel=2)
    values = {**script.defaults(), **kept}
    refuse_impossible(script, values)
    refuse_changes(script, values, given)
    values |= {name: value for name, value in given.items() if name in script.flags and script.flags[name].may_change}
    script.refuse_idle_gpu(given)
    if {"gpu", script.settings.cpu_flag} & given.keys():
        values["device"] = None  # to be chosen anew
        values[script.settings.cpu_flag] = "gpu" not in given
    if "data" in given:
        values["data"], _ = script.settings.locate({**values, "data": given["data"]})
    if values.get("load_schedule"):
        values["load_schedule"] = str(path / SCHEDULE)
        if not (path / SCHEDULE).is_file():
            raise UserError(f"{path / SCHEDULE}, which the run replays, is not there: restore it, or start a new run")
    return values


def values_here(script: Script, path: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a run that is only read, on whatever device is here; arguments and errors as above."""
    return {**resumed_values(script, path, read_settings(path), kept, given), "device": None}


def refuse_other_runs(script: Script, record: Mapping[str, Any]) -> None:
    """Raise UserError where args.yaml is of another script, or of another version of this one."""
    if (other := str(record.get("script", script.path))) != script.path:
        remedy = "go on with that" if "/" in other else "it is of another version, start a new run"
        raise UserError(f"the run is one of {other}, not of {script.path}: {remedy}")
    needed = {flag.name for flag in script.flags.values() if not (flag.may_change or flag.added)}
    needed |= {*script.settings.DERIVED}
    if missing := sorted(needed - record.keys()):
        words = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise UserError(f"the run's args.yaml lacks {words}: it is of another version, start a new run")


def refuse_impossible(script: Script, values: Values) -> None:
    """Raise UserError where args.yaml says what no run can have had, as where it was edited."""
    if values["dtype"] not in precision.TYPES:
        raise UserError(f"the run computes in {values['dtype']}, which this version does not: start a new run")
    impossible = [name for name, flag in script.flags.items() if not flag.accepts(values[name])]
    impossible += [name for name in ("data", "seed", "threads") if values[name] is None]  # a run has chosen its own
    impossible += [] if re.fullmatch(r"cpu|cuda(:\d+)?", str(values["device"])) else ["device"]
    for name in impossible[:1]:
        raise UserError(f"the run's args.yaml says {name}: {values[name]!r}: mend it, or start a new run")


def refuse_changes(script: Script, values: Values, given: Mapping[str, Any]) -> None:
    """Raise UserError for flags that were given with another value than the run's, and may not change."""
    if "overwrite" in given:
        raise UserError("--overwrite redoes a run, --resume and --test take one as it is: give one of them")
    free = {"data", *script.settings.PLACES}  # these found the run
    differing = [
        f"--{name} {given[name]} (the run has {values[name]})"
        for name, flag in sorted(script.flags.items())
        if name in given and name not in free and not flag.may_change and given[name] != values[name]
    ]
    if differing:
        raise UserError(f"cannot continue with {', '.join(differing)}: leave that out, or start a new run")
