"""A training script: from the command line to a run, a new one, one that goes on, or one that is only evaluated."""

import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stn.errors import UserError
from stn.hyperparameters import Tuned
from stn.kernels import precision
from stn.kernels.memory import keep_freed_memory
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import SCHEDULE, RunFolder, read_settings
from stn.runs.provenance import provenance
from stn.scripts.course import evaluate_best, train
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import Flag, parse
from stn.scripts.options import INTERRUPTED, OneLineParser, exit_status, find
from stn.scripts.output import complain
from stn.scripts.screen import Screen, report
from stn.scripts.settings import Data, Settings

PARENT = "STN_PARENT"  # environment variable: the process that this one works for


@dataclass(frozen=True)
class Script:
    """A training script; those of one family differ in where the hyperparameters' values come from.

    settings: the family's. setting_flags: those of its flags that the script has. hyper_flags: its own, of
    hyperparameters and their sources. resolve: completes and checks the flags of a new run, given the values of all and
    the names of those that were given. sources: each hyperparameter's source, from these values. constants: settings
    that the script has no flag for.
    """

    name: str
    description: str
    settings: type[Settings]
    setting_flags: Sequence[Flag]
    hyper_flags: Sequence[Flag]
    resolve: Callable[[dict[str, Any], set[str]], dict[str, Any]]
    sources: Callable[[Values], Sources]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def run(self, argv: list[str] | None = None) -> int:
        """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
        hint = "a run that has begun to train continues with --resume"
        return exit_status(self.name, lambda: self._run(argv), hint)

    def _run(self, argv: list[str] | None) -> int:
        keep_freed_memory()
        threading.excepthook = hide_write_errors
        warnings.showwarning = lambda message, *_, **__: complain(self.name, message)
        given = self.parse(argv)
        if "test" in given:
            return self.test(given)
        if "resume" in given:
            return self.resume(given)
        return self.start(given)

    @cached_property
    def flags(self) -> dict[str, Flag]:
        """Those that args.yaml records, by name."""
        return {flag.name: flag for flag in (*self.hyper_flags, *self.setting_flags)}

    @cached_property
    def course_flags(self) -> list[Flag]:
        """Those that say what is to be done, and not how."""
        newest = f"(default: {self.settings.newest})"
        may_differ = ", ".join(f"--{flag.name}" for flag in self.flags.values() if flag.may_change)
        resume = f"continue an unfinished run {newest}; only {may_differ} may differ"
        test = f"train nothing: evaluate the best model of the run that --resume names {newest}"
        overwrite = Flag("overwrite", "redo a run that is there, removing what it wrote")
        return [
            *([overwrite] if self.settings.overwrites else []),
            Flag("resume", resume, str, None, metavar="FOLDER", optional=True),
            Flag("test", test),
        ]

    @property
    def path(self) -> str:
        """Where the script lies, from the repository's root."""
        return f"{self.settings.family}/{self.name}"

    def parse(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The values of the flags that were given, by name."""
        parser = OneLineParser(prog=self.name, description=self.description)
        return parse(parser, [*self.flags.values(), *self.course_flags], argv)

    def defaults(self) -> dict[str, Any]:
        return {flag.name: flag.default for flag in (*self.flags.values(), *self.course_flags)}

    def make(self, values: Values) -> Settings:
        """The settings that these values stand for."""
        names = [*(flag.name for flag in self.setting_flags), *self.settings.DERIVED]
        own = {name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in names}
        return self.settings(**self.constants, **own)

    def prepare(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
        """All values of a new run, and in words which data it is and why its type of number was chosen.

        Raises UserError where flags cannot go together, or what they ask for is not there.
        """
        values = self.resolve({**self.defaults(), **given}, {*given})
        data, description = self.settings.locate(values["data"])
        values |= {"data": data, "device": None, "data_checksum": None}
        settings = self.make(values)
        _, why = precision.choose(values["dtype"], torch.device(settings.device))
        values |= {name: getattr(settings, name) for name in ("device", "dtype", "threads", "seed")}
        return values, description, why

    def start(self, given: Mapping[str, Any]) -> int:
        """A new run; the exit status."""
        values, description, why = self.prepare(given)
        settings, sources = self.make(values), self.sources(values)
        course = {flag.name for flag in self.course_flags}

        def create(data: Data) -> RunFolder:
            record = {
                "script": self.path,
                **{name: value for name, value in values.items() if name not in course},
                "data_checksum": data.checksum,
                "hyperparameters": list(sources),
                "ranges": {name: [*source.range] for name, source in sources.items() if isinstance(source, Tuned)},
                "versions": provenance(),
            }
            run = RunFolder.create(settings.new_folder(), record, values.get("overwrite", False))
            if schedule := values.get("load_schedule"):
                run.keep_schedule(Path(schedule))
            return run

        return self.train(settings, sources, create, Screen(settings.unit, settings.measure, description, why))

    def resume(self, given: Mapping[str, Any]) -> int:
        """Continue an unfinished run, or a finished one that may now train longer; the exit status."""
        longer = [flag for flag in self.flags.values() if flag.lengthens]
        lengthened = any(flag.name in given for flag in longer)
        path = self.find_run(given, unfinished=not lengthened)
        with RunFolder.open(path) as run:
            self.refuse_other_runs(run.settings)
            if run.status == "finished" and not lengthened:
                flags = " or ".join(f"--{flag.name}" for flag in longer)
                raise UserError(f"the run in {path} is finished: give more {flags} to train it on")
            values = self.resumed_values(path, run.settings, given)
            device = torch.device(values["device"])
            if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
                raise UserError(f"the run used {device}, which is not here: resume it where there is such a GPU")
            run.changes = {flag.name: values[flag.name] for flag in self.flags.values() if flag.may_change}
            screen = Screen(self.settings.unit, self.settings.measure)
            return self.train(self.make(values), self.sources(values), lambda _: run, screen)

    def test(self, given: Mapping[str, Any]) -> int:
        """Evaluate a run's best model without training or touching the run; the exit status."""
        path = self.find_run(given, unfinished=False)
        values = self.resumed_values(path, read_settings(path), given)
        values["device"] = None  # whatever is here
        report(evaluate_best(self.make(values), self.sources(values), read_checkpoint(path)), f"of {path}")
        return 0

    def train(self, settings: Settings, sources: Sources, run: Callable[[Data], RunFolder], screen: Screen) -> int:
        """Train until done or interrupted; the exit status."""
        with Interrupt() as interrupt:
            screen.at_end = interrupt.release
            result = train(settings, sources, run, screen, interrupt.asked)
        report(result, f"in {result.path}")
        return 0 if result.completed else INTERRUPTED

    def find_run(self, given: Mapping[str, Any], unfinished: bool) -> Path:
        """The run that --resume names, or else the newest, of those unfinished if so asked."""
        if given.get("resume"):
            return find(given["resume"], "the run")
        return self.settings.newest_run({**self.defaults(), **given}, unfinished)

    def resumed_values(self, path: Path, record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """All values of a run that goes on: those in its args.yaml, but for those given that may change.

        Raises UserError where the run is another script's, its settings are not possible, or a flag was given that may
        not change.
        """
        self.refuse_other_runs(record)
        values = {**self.defaults(), **record}
        self.refuse_impossible(values)
        self.refuse_changes(values, given)
        values |= {name: value for name, value in given.items() if name in self.flags and self.flags[name].may_change}
        if "data" in given:
            values["data"], _ = self.settings.locate(given["data"])
        if values.get("load_schedule"):
            values["load_schedule"] = str(path / SCHEDULE)
        return values

    def refuse_other_runs(self, record: Mapping[str, Any]) -> None:
        """Raise UserError where args.yaml is of another script, or of another version of this one."""
        if (script := str(record.get("script", self.path))) != self.path:
            remedy = "go on with that" if "/" in script else "it is of another version, start a new run"
            raise UserError(f"the run is one of {script}, not of {self.path}: {remedy}")
        needed = {flag.name for flag in self.flags.values() if not flag.may_change} | {*self.settings.DERIVED}
        if missing := sorted(needed - record.keys()):
            words = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
            raise UserError(f"the run's args.yaml lacks {words}: it is of another version, start a new run")

    def refuse_impossible(self, values: Values) -> None:
        """Raise UserError where args.yaml says what no run can have had, as where it was edited."""
        if values["dtype"] not in precision.TYPES:
            raise UserError(f"the run computes in {values['dtype']}, which this version does not: start a new run")
        impossible = [name for name, flag in self.flags.items() if not flag.accepts(values[name])]
        impossible += [name for name in ("data", "seed", "threads") if values[name] is None]  # a run has chosen its own
        impossible += [] if re.fullmatch(r"cpu|cuda(:\d+)?", str(values["device"])) else ["device"]
        for name in impossible[:1]:
            raise UserError(f"the run's args.yaml says {name}: {values[name]!r}: mend it, or start a new run")

    def refuse_changes(self, values: Values, given: Mapping[str, Any]) -> None:
        """Raise UserError for flags that were given with another value than the run's, and may not change."""
        if "overwrite" in given:
            raise UserError("--overwrite redoes a run, --resume and --test take one as it is: give one of them")
        differing = [
            f"--{name} {given[name]} (the run has {values[name]})"
            for name, flag in sorted(self.flags.items())
            if name in given and name != "data" and not flag.may_change and given[name] != values[name]
        ]
        if differing:
            raise UserError(f"cannot continue with {', '.join(differing)}: leave that out, or start a new run")


def hide_write_errors(failure: threading.ExceptHookArgs) -> None:
    """Hide what TensorBoard's thread cannot write: a later call raises the error again, and a warning says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


class Interrupt:
    """Within its context, and from the first time that it is asked, the first Ctrl-C asks for a stop.

    A second one stops at once. So does the end of the process that PARENT names, if any, which then cannot pass a
    Ctrl-C on.
    """

    def __init__(self):
        self._asked, self._previous = False, None

    def asked(self) -> bool:
        if self._previous is None:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        parent = os.environ.get(PARENT)
        return self._asked or (parent is not None and parent != str(os.getppid()))

    def __enter__(self) -> "Interrupt":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """From now on Ctrl-C does what it did before."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, *_: object) -> None:
        self._asked = True
        self.release()
