"""A training script: from the command line to a run, a new one, one that goes on, or one that is only evaluated."""

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
from stn.runs.folder import RunFolder, read_settings
from stn.runs.provenance import provenance
from stn.scripts.course import evaluate_best, train
from stn.scripts.declared import Sources, Table, Values
from stn.scripts.flags import Flag, parse
from stn.scripts.options import OneLineParser, exit_status, find, named
from stn.scripts.output import Lines, complain
from stn.scripts.records import read_config, refuse_idle_gpu, refuse_other_runs, resumed_values, same_configuration
from stn.scripts.screen import Screen
from stn.scripts.settings import Data, Settings
from stn.scripts.signals import BROKEN_PIPE, Interrupt, Stopped


@dataclass(frozen=True)
class Script:
    """A training script; those of one family differ in where the hyperparameters' values come from.

    table: the experiment's hyperparameters. settings: the family's. setting_flags: those of its flags that the script
    has. hyper_flags: its own, of hyperparameters and their sources. resolve: completes and checks the flags of a new
    run, given the values of all and the names of those that were given. sources: each hyperparameter's source, from
    these values. constants: settings that the script has no flag for.
    """

    name: str
    description: str
    table: Table
    settings: type[Settings]
    setting_flags: Sequence[Flag]
    hyper_flags: Sequence[Flag]
    resolve: Callable[[dict[str, Any], set[str]], dict[str, Any]]
    sources: Callable[[Values], Sources]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def run(self, argv: list[str] | None = None) -> int:
        """Run the command line; the exit status: 0, 2 for what the user can mend, 128 + its signal where stopped."""
        hint = "a run that has begun to train continues with --resume"
        return exit_status(self.name, lambda: self._run(argv), hint)

    def _run(self, argv: list[str] | None) -> int:
        keep_freed_memory()
        threading.excepthook = hide_write_errors
        warnings.showwarning = lambda message, *_, **__: complain(self.name, message)
        given = self.parse(argv)
        for course in ("resume", "test"):
            if {course, "config"} <= given.keys():
                raise UserError(f"--config starts a new run, --{course} takes one as it is: give one of them")
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
        config = "take the settings of an earlier run's args.yaml, where no flag says otherwise"
        overwrite = Flag("overwrite", "redo the run of this configuration that is there, removing what it wrote")
        return [
            *([overwrite] if self.settings.overwrites else []),
            Flag("config", config, named, None, metavar="FILE"),
            Flag("resume", resume, named, None, metavar="FOLDER", optional=True),
            Flag("test", test),
        ]

    @cached_property
    def course(self) -> set[str]:
        """The names of these flags."""
        return {flag.name for flag in self.course_flags}

    @cached_property
    def changeable(self) -> set[str]:
        """The settings that may be others when a run is resumed; the data's checksum may not."""
        return {"device", "data", *(flag.name for flag in self.flags.values() if flag.may_change)}

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

    def prepare(self, given: Mapping[str, Any], data_checksum: str | None = None) -> tuple[dict[str, Any], str, str]:
        """All values of a new run, and in words which data it is and why its type of number was chosen.

        data_checksum: of the data that it must be, if any. Raises UserError where flags cannot go together, or what
        they ask for is not there.
        """
        refuse_idle_gpu(self, given)
        values = self.resolve({**self.defaults(), **given}, {*given})
        data, description = self.settings.locate(values["data"])
        values |= {"data": data, "device": None, "data_checksum": data_checksum}
        settings = self.make(values)
        _, why = precision.choose(values["dtype"], torch.device(settings.device))
        return self.chosen(values, settings), description, why

    def chosen(self, values: Values, settings: Settings) -> dict[str, Any]:
        """The values, with what the settings have chosen where these left it open."""
        return {**values, **{name: getattr(settings, name) for name in ("device", "dtype", "threads", "seed")}}

    def start(self, given: Mapping[str, Any]) -> int:
        """A new run; the exit status."""
        config, checksum = read_config(self, given)
        values, description, why = self.prepare({**config, **given}, checksum)
        self.warn_without_gpu(given, values)
        settings, sources = self.make(values), self.sources(values)

        def create(data: Data) -> RunFolder:
            record = {
                "script": self.path,
                **{name: value for name, value in values.items() if name not in self.course},
                "data_checksum": data.checksum,
                "hyperparameters": list(sources),
                "labels": {name: self.table[name].label for name in sources},
                "ranges": {name: [*source.range] for name, source in sources.items() if isinstance(source, Tuned)},
                "versions": provenance(),
            }
            with settings.new_folder(lambda other: same_configuration(self, record, other, "seed" in given)) as path:
                run = RunFolder.create(path, record, values.get("overwrite", False))
            if schedule := values.get("load_schedule"):
                run.keep_schedule(Path(schedule))
            return run

        return self.train(settings, sources, create, (description, why))

    def resume(self, given: Mapping[str, Any]) -> int:
        """Continue an unfinished run, or a finished one that may now train longer; the exit status."""
        longer = [flag for flag in self.flags.values() if flag.lengthens]
        lengthened = any(flag.name in given for flag in longer)
        path = self.find_run(given, unfinished=not lengthened)
        with RunFolder.open(path) as run:
            refuse_other_runs(self, run.settings)
            if run.status == "finished" and not lengthened:
                flags = " or ".join(f"--{flag.name}" for flag in longer)
                raise UserError(f"the run in {path} is finished: give more {flags} to train it on")
            values = resumed_values(self, path, run.settings, run.read_checkpoint().settings, given)
            settings = self.make(values)
            values = self.chosen(values, settings)
            self.warn_without_gpu(given, values)
            for name in ("device", "threads"):
                if values[name] != run.settings[name]:
                    change = f"{name} {values[name]} in place of {run.settings[name]}"
                    complain(self.name, f"going on with {change}: the numbers' last digits may differ from here on")
            run.changes = {name: values[name] for name in self.changeable}
            return self.train(settings, self.sources(values), lambda _: run)

    def warn_without_gpu(self, given: Mapping[str, Any], values: Values) -> None:
        if "gpu" in given and values["device"] == "cpu":
            complain(self.name, f"--gpu {given['gpu']}: PyTorch sees no GPU here, so that the run computes on the CPU")

    def test(self, given: Mapping[str, Any]) -> int:
        """Evaluate a run's best model without training or touching the run; the exit status."""
        path = self.find_run(given, unfinished=False)
        checkpoint = read_checkpoint(path)
        values = resumed_values(self, path, read_settings(path), checkpoint.settings, given)
        values["device"] = None  # whatever is here
        result = evaluate_best(self.make(values), self.sources(values), checkpoint.state)
        self.screen().result(result, f"of {path}")
        return 0

    def screen(self, *first_lines: str, at_end: Callable[[], None] = lambda: None) -> Screen:
        return Screen(self.settings.unit, *first_lines, lines=Lines(self.name), at_end=at_end)

    def train(
        self,
        settings: Settings,
        sources: Sources,
        run: Callable[[Data], RunFolder],
        first_lines: Sequence[str] = (),
    ) -> int:
        """Train until done or interrupted; the exit status. first_lines: of a new run's screen."""
        with Interrupt() as interrupt:
            screen = self.screen(*first_lines, at_end=interrupt.release)
            result = train(settings, sources, run, screen, lambda: interrupt.asked() or screen.lines.broken)
        screen.result(result, f"in {result.path}")
        if result.completed:
            return 0
        return BROKEN_PIPE if screen.lines.broken else Stopped(interrupt.number or signal.SIGINT).status

    def find_run(self, given: Mapping[str, Any], unfinished: bool) -> Path:
        """The run that --resume names, or else the newest, of those unfinished if so asked."""
        if given.get("resume"):
            return find(given["resume"], "the run")
        return self.settings.newest_run({**self.defaults(), **given}, unfinished)


def hide_write_errors(failure: threading.ExceptHookArgs) -> None:
    """Hide what TensorBoard's thread cannot write: a later call raises the error again, and a warning says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
